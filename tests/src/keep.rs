//! The network left up for a person: a shell in a node, with ways into the others and into the pods.

use std::{fmt::Write, fs, io::IsTerminal, path::Path, process::Command};

use crate::{
    cluster::Cluster,
    error::{Context, Result},
    space::Space,
};

/// Runs an interactive shell in node 1 until the person leaves it. Without a terminal the shell reads commands from standard input.
pub fn shell(cluster: &Cluster, dir: &Path) -> Result<()> {
    let file = dir.join("shell.bash");
    fs::write(&file, commands(cluster)).context(|| file.display().to_string())?;
    let mut command = Command::new("bash");
    if std::io::stdin().is_terminal() {
        command.arg("--rcfile").arg(&file).arg("-i");
    } else {
        command.env("BASH_ENV", &file);
    }
    let node = &cluster.nodes[0].machine.space;
    // What the person did last in the shell is no result of the lab's.
    node.enter(|| command.current_dir(dir).status())?.context(|| "the shell").map(drop)
}

/// The functions `on` (a node, a pod, the fabric, outside) and `lab` for the shell.
fn commands(cluster: &Cluster) -> String {
    let mut text = String::from("on() {\n    local at=$1; shift\n    case $at in\n");
    let nodes = cluster.nodes.iter().map(|node| &node.machine.space);
    let pods = cluster.pods.iter().map(|pod| &pod.space);
    for space in nodes.chain(pods).chain([&cluster.topology.outside, &cluster.topology.fabric]) {
        let _ = writeln!(text, "    {}) {} \"${{@:-bash}}\" ;;", space.name(), nsenter(space));
    }
    text.push_str(
        "    *) echo \"on: there is no $at\" >&2; return 1 ;;\n    esac\n}\nlab() {\n    cat <<'END'\n",
    );
    let _ = writeln!(
        text,
        "You are in node1. Its runtime directory is /run/ferrule, its configuration and logs are in {}.",
        cluster.nodes[0].dir.display()
    );
    for pod in &cluster.pods {
        let _ = writeln!(text, "  {:8} on node{}: {}, {}", pod.name, pod.node, pod.at.v4, pod.at.v6);
    }
    let (first, last) = (cluster.pods.first(), cluster.pods.last());
    if let (Some(first), Some(last)) = (first, last) {
        let _ = writeln!(text, "  on {} ping {}          a command in a pod", first.name, last.at.v4);
    }
    text.push_str("  on node2 ip route                 or on another node, on outside, on fabric; without a command: a shell\n");
    text.push_str("  lab                               says this again; leave the shell (Ctrl-D) and everything is gone\nEND\n}\n");
    text.push_str("PS1='node1# '\n[[ $- != *i* ]] || lab\n");
    text
}

fn nsenter(space: &Space) -> String {
    let mounts = space.mnt_path().map(|path| format!(" --mount={}", path.display())).unwrap_or_default();
    format!("nsenter --net={}{mounts} --", space.net_path().display())
}
