//! `ipamd` under its shipped unit, as far as a supervisor that is not systemd goes: an ordinary user without any capability,
//! that serves root and its own user and nobody else. Needs what `make build` makes, root, `setpriv` and `perl`.

mod steps;

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    time::Duration,
};

use ferrule_tests::{
    error::{Context, LabError, Result},
    runtimes,
    service::Service,
    space::Space,
};
use steps::Steps;

const SOCKET: &str = "/run/ferrule/ipamd.sock";
/// A user that is neither root nor the daemon's.
const STRANGER: u32 = 64_999;

/// One call, by a program that every user may run: what was answered, or why there was no connection.
const CALL: &str = r#"
use Socket;
socket(my $ipamd, AF_UNIX, SOCK_STREAM, 0) or die $!;
connect($ipamd, sockaddr_un($ARGV[0])) or do { print "no connection: $!"; exit };
syswrite($ipamd, "{\"method\":\"io.ferrule.Ipam.Pools\"}\0");
sysread($ipamd, my $answer, 65536);
print $answer;
"#;

/// What this user is answered.
fn call_as(node: &Space, uid: u32) -> Result<String> {
    let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    let output = node.enter(|| {
        let mut command = Command::new("setpriv");
        command
            .args([&user, &group, "--clear-groups", "/usr/bin/perl", "-e", CALL, SOCKET])
            .current_dir("/")
            .output()
    })?;
    let output = output.context(|| "setpriv (tests/setup installs it)")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
        .trim_end_matches(['\0', '\n'])
        .to_owned();
    if output.status.success() { Ok(said) } else { Err(LabError::promise("an answer", said)) }
}

fn expect(what: &str, is_so: bool, saw: impl Into<String>) -> Result<()> {
    if is_so { Ok(()) } else { Err(LabError::promise(what.to_owned(), saw.into())) }
}

/// The process as the kernel sees it: the value of a line of its status.
fn of_status<'a>(status: &'a str, key: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default().trim()
}

fn begin(node: &Space, dir: &Path) -> Result<Service> {
    // Read by the daemon's user, who may not look into a directory for logs.
    fs::set_permissions(dir, Permissions::from_mode(0o755)).context(|| dir.display().to_string())?;
    let config = dir.join("ferrule.toml");
    let pool = "[[ipam.pool]]\nname = \"own\"\nsubnets = [\"10.9.0.0/24\"]\n";
    fs::write(&config, pool).context(|| config.display().to_string())?;
    let install = runtimes::install()?;
    install.place(node)?;
    let service = Service::start(node, &install.unit("ipamd", &config)?, &dir.join("ipamd.log"))?;
    service.wait_ready(1, Duration::from_secs(10))?;
    Ok(service)
}

#[test]
fn ipamd_is_an_ordinary_user_without_capabilities_that_serves_root_and_refuses_others() {
    let steps = Steps::new("ipamd under its unit");
    let node = Space::node("node1").expect("a node");
    steps.prove("there is more than one user", || {
        let map = fs::read_to_string("/proc/self/uid_map").context(|| "/proc/self/uid_map")?;
        let users: u64 = map.split_whitespace().nth(2).and_then(|count| count.parse().ok()).unwrap_or(0);
        expect("root: an ordinary user's namespace has one user only", users > STRANGER.into(), map)?;
        Ok(format!("{users}"))
    });
    let service = steps.step("it is ready", || Ok((begin(&node, &steps.dir())?, "READY=1".to_owned())));
    let uid = steps.step("it has no right but its user's", || {
        let path = format!("/proc/{}/status", service.pid().unwrap_or_default());
        let status = fs::read_to_string(&path).context(|| path)?;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            expect(&format!("{set} to be empty"), of_status(&status, set) == "0000000000000000", &status)?;
        }
        expect("no new privileges", of_status(&status, "NoNewPrivs") == "1", &status)?;
        let uid = of_status(&status, "Uid").split_whitespace().next().and_then(|uid| uid.parse().ok());
        let uid: u32 = uid.unwrap_or_default();
        expect("an ordinary user", uid != 0 && uid != STRANGER, &status)?;
        Ok((uid, format!("uid {uid}, every capability set empty")))
    });
    steps.prove("root and its own user are served", || {
        for caller in [0, uid] {
            let said = call_as(&node, caller)?;
            expect("pools", said.contains("\"name\":\"own\""), format!("uid {caller}: {said}"))?;
        }
        let (mode, owner) = node
            .enter(|| fs::metadata(SOCKET).map(|data| (data.mode() & 0o777, data.uid())))?
            .context(|| SOCKET)?;
        expect("the socket to be its own", (mode, owner) == (0o600, uid), format!("{mode:o} of {owner}"))?;
        Ok(format!("socket {mode:o} of uid {owner}"))
    });
    steps.prove("another user does not get to it, and if he does is refused", || {
        let said = call_as(&node, STRANGER)?;
        expect("no connection", said == "no connection: Permission denied", &said)?;
        // The rights of the file are one lock, the daemon's own look at who calls is another.
        node.enter(|| fs::set_permissions(SOCKET, Permissions::from_mode(0o666)))?.context(|| SOCKET)?;
        let said = call_as(&node, STRANGER)?;
        expect("a refusal", said.contains("org.varlink.service.PermissionDenied"), &said)?;
        Ok(said)
    });
    steps.prove("it stops when told", || service.stop().map(|took| format!("{} ms", took.as_millis())));
}
