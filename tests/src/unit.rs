//! Reads a systemd service unit, as far as a supervisor needs it to start the service the way systemd would. Pure.
//! Running it is `service`'s part.

use std::time::Duration;

use crate::error::{LabError, Result};

/// When a service is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    No,
    /// After a crash, a signal or a non-zero status.
    OnFailure,
    /// Whenever it ends without having been told to.
    Always,
}

/// The parts of a service unit that say how its process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its file's name without `.service`.
    pub name: String,
    /// `ExecStart=`: program and arguments.
    pub exec: Vec<String>,
    /// `Environment=`, in order.
    pub environment: Vec<(String, String)>,
    /// `Type=notify`: it says when it is ready.
    pub notifies: bool,
    /// `Restart=`.
    pub restart: Restart,
    /// `RestartSec=`.
    pub restart_delay: Duration,
    /// `TimeoutStopSec=`.
    pub stop_within: Duration,
    /// `RuntimeDirectory=`: a name below `/run`.
    pub runtime_directory: Option<String>,
    /// `RuntimeDirectoryMode=`.
    pub runtime_directory_mode: u32,
    /// `CapabilityBoundingSet=`, in `setpriv`'s spelling (`net_admin`); absent: all.
    pub capabilities: Option<Vec<String>>,
    /// `AmbientCapabilities=`, in the same spelling.
    pub ambient_capabilities: Vec<String>,
    /// `NoNewPrivileges=`.
    pub no_new_privileges: bool,
    /// `PrivateNetwork=`: a network namespace of its own.
    pub private_network: bool,
    /// `User=`.
    pub user: Option<String>,
    /// `UMask=`, as it is written.
    pub umask: String,
    /// `WatchdogSec=`.
    pub watchdog: Option<Duration>,
}

impl Unit {
    /// Reads a unit's text. `name` is the file's name without `.service`.
    pub fn parse(name: &str, text: &str) -> Result<Unit> {
        // The defaults of systemd.service(5) and systemd.exec(5).
        let mut unit = Unit {
            name: name.to_owned(),
            exec: Vec::new(),
            environment: Vec::new(),
            notifies: false,
            restart: Restart::No,
            restart_delay: Duration::from_millis(100),
            stop_within: Duration::from_secs(90),
            runtime_directory: None,
            runtime_directory_mode: 0o755,
            capabilities: None,
            ambient_capabilities: Vec::new(),
            no_new_privileges: false,
            private_network: false,
            user: None,
            umask: "0022".to_owned(),
            watchdog: None,
        };
        for (number, key, value) in service_lines(text) {
            unit.set(&key, &value).map_err(|reason| {
                LabError::parse(format!("{name}.service, line {number}"), &format!("{key}={value}: {reason}"))
            })?;
        }
        if unit.exec.is_empty() {
            return Err(LabError::parse(format!("{name}.service"), "has no ExecStart= in [Service]"));
        }
        Ok(unit)
    }

    fn set(&mut self, key: &str, value: &str) -> std::result::Result<(), String> {
        match key {
            "ExecStart" => self.exec = words(value)?,
            "Environment" if value.is_empty() => self.environment.clear(),
            "Environment" => {
                for word in words(value)? {
                    let (name, value) = word.split_once('=').ok_or("not NAME=VALUE")?;
                    self.environment.push((name.to_owned(), value.to_owned()));
                }
            }
            "Type" => self.notifies = value == "notify",
            "Restart" => {
                self.restart = match value {
                    "no" => Restart::No,
                    "on-failure" => Restart::OnFailure,
                    "always" => Restart::Always,
                    _ => return Err("the lab knows no, on-failure and always".to_owned()),
                }
            }
            "RestartSec" => self.restart_delay = duration(value)?,
            "TimeoutStopSec" if value == "infinity" => self.stop_within = Duration::MAX,
            "TimeoutStopSec" => self.stop_within = duration(value)?,
            "RuntimeDirectory" => self.runtime_directory = Some(value.to_owned()),
            "RuntimeDirectoryMode" => {
                self.runtime_directory_mode =
                    u32::from_str_radix(value, 8).map_err(|error| error.to_string())?;
            }
            "CapabilityBoundingSet" => self.capabilities = Some(capabilities(value)?),
            "AmbientCapabilities" => self.ambient_capabilities = capabilities(value)?,
            "NoNewPrivileges" => self.no_new_privileges = is_yes(value),
            "PrivateNetwork" => self.private_network = is_yes(value),
            "User" => self.user = Some(value.to_owned()),
            "UMask" if value.chars().all(|digit| digit.is_digit(8)) => value.clone_into(&mut self.umask),
            "UMask" => return Err("no octal number".to_owned()),
            "WatchdogSec" => self.watchdog = Some(duration(value)?),
            // The rest protects the machine's files and kernel from the daemon; the lab does not stand in for that.
            _ => {}
        }
        Ok(())
    }
}

/// The assignments of `[Service]` with their line numbers; continued lines are one.
fn service_lines(text: &str) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    let mut in_service = false;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        while line.ends_with('\\') {
            line.pop();
            let next = lines.next().map_or("", |(_, next)| next.trim());
            line = format!("{} {next}", line.trim_end());
        }
        if line.starts_with('[') {
            in_service = line == "[Service]";
        } else if let (true, Some((key, value))) = (in_service, line.split_once('=')) {
            found.push((index + 1, key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    found
}

/// Splits at blanks; quotes keep blanks. `%%` is a percent sign; other specifiers are refused, not guessed.
fn words(value: &str) -> std::result::Result<Vec<String>, String> {
    let mut words = Vec::new();
    let (mut word, mut quote) = (None::<String>, None);
    let mut chars = value.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            _ if quote == Some(char) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            ' ' | '\t' if quote.is_none() => words.extend(word.take()),
            '%' if chars.next_if_eq(&'%').is_some() => word.get_or_insert_default().push('%'),
            '%' | '$' => return Err("specifiers and variables are not known to the lab".to_owned()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

fn is_yes(value: &str) -> bool {
    matches!(value, "yes" | "true" | "on" | "1")
}

/// `5`, `5s`, `100ms`, `1min`.
fn duration(value: &str) -> std::result::Result<Duration, String> {
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = value.split_at(digits);
    let millis = match unit.trim() {
        "ms" => 1,
        "" | "s" | "sec" => 1000,
        "min" => 60_000,
        other => return Err(format!("{other} is no unit of time known to the lab")),
    };
    let number: u64 = number.parse().map_err(|_| "no number".to_owned())?;
    Ok(Duration::from_millis(number * millis))
}

fn capabilities(value: &str) -> std::result::Result<Vec<String>, String> {
    let name = |word: &str| {
        let name = word.strip_prefix("CAP_").ok_or(format!("{word} is no capability's name"))?;
        Ok(name.to_ascii_lowercase())
    };
    value.split_whitespace().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
[Unit]
Description=x
ExecStart=/not/this
[Service]
# a comment
Type=notify
ExecStart=/usr/local/bin/ipamd --config \\
    /etc/ferrule/ferrule.toml
Environment=RUST_LOG=info \"NOTE=two words\"
Restart=on-failure
RestartSec=250ms
RuntimeDirectory=ferrule
RuntimeDirectoryMode=0750
CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN
AmbientCapabilities=CAP_NET_ADMIN
NoNewPrivileges=yes
User=ferrule
UMask=0077
WatchdogSec=30s
ProtectSystem=strict
[Install]
WantedBy=multi-user.target
";

    #[test]
    fn a_unit_is_read_as_systemd_reads_it() {
        let unit = Unit::parse("ipamd", TEXT).unwrap();
        assert_eq!(unit.exec, ["/usr/local/bin/ipamd", "--config", "/etc/ferrule/ferrule.toml"]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(unit.environment, [pair("RUST_LOG", "info"), pair("NOTE", "two words")]);
        assert!(unit.notifies && unit.no_new_privileges);
        assert_eq!((unit.restart, unit.restart_delay), (Restart::OnFailure, Duration::from_millis(250)));
        assert_eq!(
            (unit.runtime_directory.as_deref(), unit.runtime_directory_mode),
            (Some("ferrule"), 0o750)
        );
        assert_eq!((unit.user.as_deref(), unit.umask.as_str()), (Some("ferrule"), "0077"));
        assert_eq!((unit.watchdog, unit.private_network), (Some(Duration::from_secs(30)), false));
        assert_eq!(unit.ambient_capabilities, ["net_admin"]);
        assert_eq!(unit.capabilities, Some(vec!["net_admin".to_owned(), "sys_admin".to_owned()]));
    }

    #[test]
    fn an_empty_bounding_set_is_none_and_an_absent_one_is_all() {
        let with = |line: &str| {
            Unit::parse("x", &format!("[Service]\nExecStart=/x\n{line}\n")).unwrap().capabilities
        };
        assert_eq!(with("CapabilityBoundingSet="), Some(Vec::new()));
        assert_eq!(with(""), None);
    }

    #[test]
    fn what_the_lab_does_not_know_is_refused_with_its_line() {
        for (text, told) in [
            ("[Service]\nExecStart=/x %i\n", "line 2"),
            ("[Service]\nExecStart=/x\nRestartSec=1year\n", "line 3"),
            ("[Service]\nExecStart=/x\nEnvironment=\"A=b\n", "line 3"),
            ("[Service]\n", "no ExecStart="),
        ] {
            let error = Unit::parse("x", text).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
