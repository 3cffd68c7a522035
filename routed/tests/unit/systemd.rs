//! systemd itself, as the first process of a process namespace of its own on a node of the lab, with the shipped unit
//! and nothing else to start. It does to the daemon everything that it does on a real node. That takes root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::lab::{Node, PATIENCE, within};

/// Prepares namespaces for it. Everything that it or the daemon writes is on a tmpfs, the user exists, the machine's
/// own files cannot be written, and its cgroups are below one that is removed with it. The arguments are that cgroup,
/// and the directory of its units.
const SCRIPT: &str = r#"
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
mkdir /run/etc /run/cgroup
{ grep -v '^ferrule:' /etc/passwd; echo 'ferrule:x:64997:64997::/:/usr/sbin/nologin'; } >/run/etc/passwd
{ grep -v '^ferrule:' /etc/group; echo 'ferrule:x:64997:'; } >/run/etc/group
mount --bind -o ro /etc /etc
for file in passwd group; do mount --bind /run/etc/$file /etc/$file; done
mount -t cgroup2 none /run/cgroup
mkdir "/run/cgroup/$1"
echo $$ >"/run/cgroup/$1/cgroup.procs"
exec unshare --cgroup --pid --uts --ipc --fork --kill-child --mount-proc sh -ec '
    # systemd sets some that belong to the whole machine.
    for part in fs kernel vm; do mount --bind -o ro /proc/sys/$part /proc/sys/$part; done
    # In between, as the kernel mounts nothing upon itself.
    mount -t tmpfs none /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
    exec env -i container=lab PATH="$PATH" SYSTEMD_UNIT_PATH="$1" /lib/systemd/systemd --system --show-status=no --log-target=null' sh "$2"
"#;

/// Removes what belongs to it.
const CLEANUP: &str = r#"
mount -t cgroup2 none /mnt
find "/mnt/$1" -depth -type d -exec rmdir {} +
"#;

/// The targets that a service waits for. They are empty here.
const TARGETS: [&str; 5] = ["basic", "sysinit", "shutdown", "network-online", "default"];

/// A running systemd. It is killed with all that it has started when the value is dropped.
pub(crate) struct Systemd {
    child: Child,
    cgroup: String,
    log: std::path::PathBuf,
}

fn script(text: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", text, "sh"]).args(arguments);
    command.stdin(Stdio::null());
    command
}

impl Systemd {
    /// Starts `routed.service` on a node with the node's configuration, and waits until it is ready.
    pub(crate) fn start(node: &Node) -> Self {
        let systemd = Self::launch(node, &[]);
        systemd.wait_until_ready(node);
        systemd
    }

    /// The same with shipped drop-ins, without waiting.
    pub(crate) fn launch(node: &Node, drop_ins: &[&str]) -> Self {
        fs::set_permissions(node.path("."), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_routed"), node.path("routed")).unwrap();
        let units = node.path("units");
        fs::create_dir_all(units.join("routed.service.d")).unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/systemd");
        fs::copy(shipped.join("routed.service"), units.join("routed.service")).unwrap();
        for name in drop_ins {
            fs::copy(shipped.join(name), units.join("routed.service.d").join(name)).unwrap();
        }
        let (directory, log) = (node.directory.path(), node.path("log"));
        let more = format!(
            "[Service]\nExecStart=\nExecStart={} --config {}\nBindReadOnlyPaths={}\nStandardError=file:{}\n",
            node.path("routed").display(),
            node.path("ferrule.toml").display(),
            directory.display(),
            log.display()
        );
        fs::write(units.join("routed.service.d/lab.conf"), more).unwrap();
        for target in TARGETS {
            let wants = if target == "default" { "Wants=routed.service\n" } else { "" };
            let text = format!("[Unit]\nDefaultDependencies=no\n{wants}");
            fs::write(units.join(format!("{target}.target")), text).unwrap();
        }
        let cgroup = format!("ferrule-{}", directory.file_name().unwrap().display());
        let mut command = script(SCRIPT, &[&cgroup, &units.display().to_string()]);
        command.stdout(Stdio::null()).stderr(fs::File::create(node.path("systemd")).unwrap());
        let child = node.inside(|| command.spawn()).expect("install util-linux and systemd");
        Self { child, cgroup, log }
    }

    pub(crate) fn wait_until_ready(&self, node: &Node) {
        let is_active = within(PATIENCE, || self.property("ActiveState") == "active");
        let said = || fs::read_to_string(node.path("systemd")).unwrap() + &self.log();
        assert!(is_active.is_some(), "{}\n{}", self.property("StatusText"), said());
    }

    /// Runs a command as root, in the daemon's namespaces.
    pub(crate) fn command(&self, program: &str, arguments: &str) -> Output {
        let of = format!("/proc/{}/ns", self.child.id());
        let mut command = Command::new("nsenter");
        command.args([&format!("--mount={of}/mnt"), &format!("--pid={of}/pid_for_children")]);
        command.arg(program).args(arguments.split_whitespace()).stdin(Stdio::null());
        command.output().expect("install util-linux")
    }

    /// A property of the service, as systemd tells it.
    pub(crate) fn property(&self, name: &str) -> String {
        let output = self.command("systemctl", &format!("show --property {name} --value routed"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The content of a file as root sees it in the daemon's namespaces.
    #[allow(dead_code, reason = "each test takes what it needs")]
    pub(crate) fn read(&self, path: &str) -> String {
        let output = self.command("cat", path);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A killed process is gone a moment later.
        let is_gone =
            || script(CLEANUP, &[&self.cgroup]).output().is_ok_and(|output| output.status.success());
        let _ = within(PATIENCE, is_gone);
    }
}
