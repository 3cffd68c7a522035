//! A small supervisor: runs a service in a node as its unit tells systemd to run it: environment, capabilities, readiness,
//! restart. Reading units is `unit`'s part.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{
        fs::{DirBuilderExt, chown},
        net::UnixDatagram,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    error::{Context, LabError, Result},
    space::Space,
    unit::{Restart, Unit},
};

/// How often the supervisor looks after its child between messages.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct State {
    pid: Option<i32>,
    /// How often READY=1 has come.
    ready: u64,
    /// The status it reported last (STATUS=), for messages.
    status: String,
    stopping: bool,
    /// Set when it has ended for good.
    ended: Option<ExitStatus>,
    failure: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `done` holds of the state, at most until `deadline`; says whether it does.
    fn wait(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), left, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }
}

/// A running service. Dropped: its process is killed.
#[derive(Debug)]
pub struct Service {
    /// The unit it runs by.
    pub unit: Unit,
    log: PathBuf,
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts the service in a node; what it writes is appended to `log`. Does not wait for it: see [`Service::wait_ready`].
    pub fn start(node: &Space, unit: &Unit, log: &Path) -> Result<Service> {
        let shared = Arc::new(Shared::default());
        let (node, supervised, to, file) = (node.clone(), unit.clone(), Arc::clone(&shared), log.to_owned());
        let supervisor = thread::spawn(move || {
            let outcome = node.adopt_thread().and_then(|()| supervise(&supervised, &file, &to));
            if let Err(error) = outcome {
                to.change(|state| state.failure = Some(error.to_string()));
            }
        });
        Ok(Service { unit: unit.clone(), log: log.to_owned(), shared, supervisor: Some(supervisor) })
    }

    /// How often it has said that it is ready.
    pub fn ready_count(&self) -> u64 {
        self.shared.lock().ready
    }

    /// The running process' number.
    pub fn pid(&self) -> Option<i32> {
        self.shared.lock().pid
    }

    /// Waits until it has said `count` times that it is ready.
    pub fn wait_ready(&self, count: u64, within: Duration) -> Result<()> {
        let over = |state: &State| state.ready >= count || state.ended.is_some() || state.failure.is_some();
        self.shared.wait(Instant::now() + within, over);
        let state = self.shared.lock();
        if state.ready >= count {
            return Ok(());
        }
        let saw = match (&state.failure, &state.ended) {
            (Some(failure), _) => failure.clone(),
            (None, Some(status)) => format!("it ended with {status}"),
            (None, None) => format!("nothing yet {}", state.status),
        };
        let saw = format!("{saw}; the end of {}:\n{}", self.log.display(), tail(&self.log));
        Err(LabError::Late { expected: format!("{} to be ready", self.unit.name), within, saw })
    }

    /// Kills its process with -9, as a crash would; the unit decides whether it comes back.
    pub fn crash(&self) -> Result<()> {
        let Some(pid) = self.shared.lock().pid else {
            return Err(LabError::promise(format!("{} to be running", self.unit.name), "no process"));
        };
        kill(Pid::from_raw(pid), Signal::SIGKILL).context(|| format!("killing {}", self.unit.name))
    }

    /// Stops it as `systemctl stop` does; it must end in time and with status 0.
    pub fn stop(mut self) -> Result<Duration> {
        let start = Instant::now();
        self.shared.change(|state| state.stopping = true);
        let within = self.unit.stop_within.min(Duration::from_secs(10));
        let ended =
            self.shared.wait(start + within, |state| state.ended.is_some() || state.failure.is_some());
        let (status, failure) = {
            let state = self.shared.lock();
            (state.ended, state.failure.clone())
        };
        let name = self.unit.name.clone();
        self.end();
        match (ended, status, failure) {
            (true, Some(status), _) if status.success() => Ok(start.elapsed()),
            (true, Some(status), _) => {
                Err(LabError::promise(format!("{name} to stop with status 0"), status.to_string()))
            }
            (true, None, failure) => {
                Err(LabError::promise(format!("{name} to stop"), failure.unwrap_or_default()))
            }
            (false, ..) => {
                let saw = "it still ran and was killed".to_owned();
                Err(LabError::Late { expected: format!("{name} to stop after SIGTERM"), within, saw })
            }
        }
    }

    fn end(&mut self) {
        self.shared.change(|state| state.stopping = true);
        if let Some(pid) = self.shared.lock().pid {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

/// The last lines of a log, for a message.
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The supervisor's loop, on a thread in the node that lives as long as the service: its processes die with it.
fn supervise(unit: &Unit, log: &Path, shared: &Shared) -> Result<()> {
    let socket = PathBuf::from(format!("/run/notify.{}", unit.name));
    let _ = fs::remove_file(&socket);
    let notices = UnixDatagram::bind(&socket).context(|| format!("binding {}", socket.display()))?;
    notices.set_read_timeout(Some(LOOK_INTERVAL)).context(|| "the notify socket's timeout")?;
    if let Some(name) = &unit.runtime_directory {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(unit.runtime_directory_mode);
        let directory = Path::new("/run").join(name);
        let made = builder.create(&directory).and_then(|()| chown(&directory, uid(unit), uid(unit)));
        made.context(|| format!("RuntimeDirectory={name}"))?;
    }
    chown(&socket, uid(unit), uid(unit)).context(|| "handing over the notify socket")?;
    if unit.private_network {
        unshare(CloneFlags::CLONE_NEWNET).context(|| "PrivateNetwork=")?;
    }
    let result = loop {
        let child = spawn(unit, log, &socket)?;
        let status = attend(child, &notices, shared)?;
        let restarts = match unit.restart {
            Restart::No => false,
            Restart::OnFailure => !status.success(),
            Restart::Always => true,
        };
        if shared.lock().stopping || !restarts {
            shared.change(|state| state.ended = Some(status));
            break Ok(());
        }
        if shared.wait(Instant::now() + unit.restart_delay, |state| state.stopping) {
            shared.change(|state| state.ended = Some(status));
            break Ok(());
        }
    };
    let _ = fs::remove_file(&socket);
    result
}

/// Stays with one process until it ends.
fn attend(mut child: Child, notices: &UnixDatagram, shared: &Shared) -> Result<ExitStatus> {
    let pid = child.id() as i32;
    shared.change(|state| state.pid = Some(pid));
    let mut told = false;
    let mut buffer = [0; 4096];
    loop {
        match notices.recv(&mut buffer) {
            Ok(length) => notice(&String::from_utf8_lossy(&buffer[..length]), shared),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context(|| "reading the notify socket"),
        }
        if !told && shared.lock().stopping {
            told = true;
            kill(Pid::from_raw(pid), Signal::SIGTERM).context(|| "stopping a service")?;
        }
        let ended = child.try_wait().context(|| "waiting for a service")?;
        if let Some(status) = ended {
            shared.change(|state| state.pid = None);
            // Stopped before it could install its handler: systemd counts SIGTERM as a clean end too.
            let clean = told && status.signal() == Some(Signal::SIGTERM as i32);
            return Ok(if clean { ExitStatus::from_raw(0) } else { status });
        }
    }
}

fn notice(text: &str, shared: &Shared) {
    for line in text.lines() {
        if line == "READY=1" {
            shared.change(|state| state.ready += 1);
        } else if let Some(status) = line.strip_prefix("STATUS=") {
            shared.change(|state| state.status = format!("({status})"));
        }
    }
}

/// Starts the process: `setpriv` limits it as the unit says and becomes it.
fn spawn(unit: &Unit, log: &Path, notify: &Path) -> Result<Child> {
    let out = File::options()
        .create(true)
        .append(true)
        .open(log)
        .context(|| format!("opening {}", log.display()))?;
    let err = out.try_clone().context(|| "a second descriptor of the log")?;
    let mut command = Command::new("setpriv");
    command.args(limits(unit)).args(["sh", "-c", r#"umask "$0" && exec "$@""#, &unit.umask]).args(&unit.exec);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs(unit.environment.iter().cloned());
    if unit.notifies {
        command.env("NOTIFY_SOCKET", notify);
    }
    if let Some(watchdog) = unit.watchdog {
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
    }
    if let Some(name) = &unit.runtime_directory {
        command.env("RUNTIME_DIRECTORY", Path::new("/run").join(name));
    }
    // A process group of its own, as under systemd: a person's Ctrl-C is for the lab, which then ends its services.
    command.process_group(0).current_dir("/").stdin(Stdio::null()).stdout(out).stderr(err);
    command.spawn().context(|| format!("starting {}", unit.name))
}

/// The unit's user, capabilities and privileges as `setpriv`'s options.
fn limits(unit: &Unit) -> Vec<String> {
    let set = |names: &[String]| names.iter().fold("-all".to_owned(), |set, name| format!("{set},+{name}"));
    // It ends with its supervisor even if the lab is killed.
    let mut options = vec!["--pdeathsig=KILL".to_owned()];
    if let Some(uid) = uid(unit) {
        let ambient = set(&unit.ambient_capabilities);
        options.extend([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()]);
        options.extend([format!("--inh-caps={ambient}"), format!("--ambient-caps={ambient}")]);
    }
    options.extend(unit.capabilities.iter().map(|names| format!("--bounding-set={}", set(names))));
    options.extend(unit.no_new_privileges.then(|| "--no-new-privs".to_owned()));
    options
}

/// The user id the service runs under: that of its user, or where the machine has no such user, one that is nobody's. A user
/// namespace of an ordinary user has but one user: the service is root there, with the unit's capabilities and no others.
fn uid(unit: &Unit) -> Option<u32> {
    const NOBODYS: u32 = 64_123;
    let user = unit.user.as_ref()?;
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let count: u64 = map.split_whitespace().nth(2)?.parse().ok()?;
    if count <= u64::from(NOBODYS) {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').next() == Some(user));
    Some(line.and_then(|line| line.split(':').nth(2)?.parse().ok()).unwrap_or(NOBODYS))
}
