//! The place inside a node in which a container runtime lives: its own processes, `/etc` and `/var/lib`, and one control group for all
//! of its containers. Lives here: making it, running commands in it, and its end, with which everything in it ends. Knows no runtime
//! and nothing of Ferrule.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    command::wait_for,
    error::{Context, LabError, Result},
    service::tail,
    space::Space,
};

/// How long one command may take; then it is killed.
const COMMAND_WITHIN: &str = "20";
/// How soon the place is gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// What the keeper of the place does: `$1` is the control group. It is process 1 of the place: when it ends, the kernel ends
/// everything in it, and it ends when the test does, because it reads from a pipe that the test alone holds.
const KEEPER: &str = r#"
set -e
for name in group ld.so.cache ld.so.conf ld.so.conf.d nsswitch.conf passwd; do
    [ ! -e "/etc/$name" ] || cp -a "/etc/$name" /run/etc/
done
# Runtimes give copies of these to their containers; the machine's are no business of theirs.
printf '127.0.0.1 localhost\n::1 localhost\n' >/run/etc/hosts
: >/run/etc/resolv.conf
mount --bind /run/etc /etc
for directory in /dev/shm /var/lib /var/tmp; do
    mount -t tmpfs lab "$directory"
done
echo ready
read -r _ || :
set +e
kill -KILL -1
# The directories of version 1's controllers, and that of version 2. A process that was killed leaves its group a moment later.
for round in {1..200}; do
    find /sys/fs/cgroup/"$1" /sys/fs/cgroup/*/"$1" -depth -type d -exec rmdir {} + 2>/dev/null
    compgen -G "/sys/fs/cgroup/$1" || compgen -G "/sys/fs/cgroup/*/$1" || exit 0
    sleep 0.02
done >/dev/null
exit 1
"#;

/// The place.
#[derive(Debug)]
pub struct Place {
    node: Space,
    cgroup: String,
    keeper: Child,
}

impl Place {
    /// Makes the place in a node, whose `/run` is its own: there is the place's `/etc`, too.
    pub fn make(node: &Space) -> Result<Place> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("ferrule-test-{}-{number}", std::process::id());
        node.enter(|| {
            ["/run/etc", "/run/home", "/run/tmp"]
                .iter()
                .try_for_each(|directory| fs::create_dir_all(directory).context(|| *directory))
        })??;
        let keeper = keep(node, &name)?;
        Ok(Place { node: node.clone(), cgroup: format!("/{name}"), keeper })
    }

    /// The control group below which a runtime must put all containers: an absolute path, as runtimes take it.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Runs a command line (words apart by blanks) and gives its standard output.
    pub fn run(&self, line: &str) -> Result<String> {
        self.run_words(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// The same for words that may have blanks.
    pub fn run_words(&self, words: &[&str]) -> Result<String> {
        let output = self.execute(words)?;
        let written = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(written(&output.stdout));
        }
        Err(LabError::Command {
            command: words.join(" "),
            status: output.status.to_string(),
            output: format!("{} {}", written(&output.stderr), written(&output.stdout)),
        })
    }

    /// Runs a command whose failure is an answer.
    pub fn execute(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.command();
        command.args(["timeout", "--kill-after=1", COMMAND_WITHIN]).args(words).stdin(Stdio::null());
        self.node.enter(|| command.output())?.context(|| format!("running `{}`", words.join(" ")))
    }

    /// Starts a command line that goes on; what it writes goes to a file.
    pub fn spawn(&self, line: &str, log: &Path) -> Result<Job> {
        let mut command = self.command();
        command.args(line.split_whitespace()).stdin(Stdio::null());
        let out = File::options().create(true).append(true).open(log);
        let out = out.context(|| log.display().to_string())?;
        let err = out.try_clone().context(|| "a second descriptor of a log")?;
        command.stdout(out).stderr(err);
        let child = self.node.enter(|| command.spawn())?.context(|| format!("running `{line}`"))?;
        Ok(Job { child, line: line.to_owned(), log: log.to_owned() })
    }

    /// `nsenter` into the place, with an environment that is the same on every machine.
    fn command(&self) -> Command {
        // This process is the keeper's parent, which made the namespaces and lives as long as they do.
        let of = format!("/proc/{}/ns", self.keeper.id());
        let mut command = Command::new("nsenter");
        command.args([&format!("--mount={of}/mnt"), &format!("--pid={of}/pid_for_children"), "--"]);
        command.env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/run/home"),
            ("TMPDIR", "/run/tmp"),
            ("LC_ALL", "C"),
        ]);
        command
    }

    /// Writes a file below `/etc` or `/run`.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let path = seen_from_node(path);
        self.node.enter(|| {
            fs::create_dir_all(path.parent().unwrap_or(&path))
                .and_then(|()| fs::write(&path, content))
                .context(|| path.display().to_string())
        })?
    }

    /// Ends everything in the place and removes its control group.
    pub fn end(mut self) -> Result<()> {
        let status = self.close()?;
        if status.success() {
            return Ok(());
        }
        Err(LabError::promise(
            format!("no process to be left in the control group {}", self.cgroup),
            status.to_string(),
        ))
    }

    fn close(&mut self) -> Result<ExitStatus> {
        drop(self.keeper.stdin.take());
        wait_child(&mut self.keeper, "the place to end", GONE_WITHIN)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.close().is_err() {
            // The kernel kills the keeper with its parent, and everything in the place with the keeper.
            let _ = self.keeper.kill();
            let _ = self.keeper.wait();
        }
    }
}

/// The place's `/etc` as the node sees it.
fn seen_from_node(path: &str) -> PathBuf {
    path.strip_prefix("/etc/").map_or_else(|| path.into(), |rest| Path::new("/run/etc").join(rest))
}

/// Starts the keeper and waits until it has furnished the place.
fn keep(node: &Space, cgroup: &str) -> Result<Child> {
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--mount",
        "--fork",
        "--kill-child=KILL",
        "--mount-proc",
        "--propagation=private",
    ]);
    command.args(["bash", "-c", KEEPER, "keeper", cgroup]);
    // A process group of its own: a person's Ctrl-C is for the test, whose end ends the place.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = node.enter(|| command.spawn())?.context(|| "starting unshare")?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line).context(|| "hearing of the place")?;
    }
    if line == "ready\n" {
        return Ok(child);
    }
    let mut said = String::new();
    if let Some(mut err) = child.stderr.take() {
        let _ = err.read_to_string(&mut said);
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(LabError::promise("a place for the runtime", said))
}

/// A command that goes on in the place.
#[derive(Debug)]
pub struct Job {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Job {
    /// The end of what it wrote.
    pub fn said(&self) -> String {
        tail(&self.log)
    }

    /// Fails, with what it wrote, if it has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait().context(|| format!("waiting for `{}`", self.line))? {
            None => Ok(()),
            Some(status) => {
                let saw = format!("{status}:\n{}", self.said());
                Err(LabError::promise(format!("`{}` to go on", self.line), saw))
            }
        }
    }

    /// Waits until it ends.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        wait_child(&mut self.child, &format!("`{}` to end", self.line), within)
    }
}

fn wait_child(child: &mut Child, expected: &str, within: Duration) -> Result<ExitStatus> {
    let check = || {
        let status = child.try_wait().context(|| "waiting for a process")?;
        Ok(status.ok_or_else(|| "it still runs".to_owned()))
    };
    wait_for(expected, within, check).map(|(status, _)| status)
}
