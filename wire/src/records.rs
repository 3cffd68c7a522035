//! Records of what each attachment has on the host. The plugin writes them for `routed`, which keeps what they say.
//! Each record is a file in `attachments/` of the runtime directory. Its name is that of the host's end of the
//! attachment's veth pair.
//!
//! ADD writes the file as its last step, and DEL removes it as its first. So what it says has to be in the kernel
//! exactly as long as the file exists. `routed` makes the directory. If it is missing, nobody keeps anything, and the
//! plugin writes nothing. The plugin writes the file in place. If it is killed meanwhile, it leaves a file that is cut
//! short, under the name that DEL removes. Readers ignore such a file.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ferrule_model::{Attachment, HostSide, IfName, host_veth_name, is_host_veth};
use nix::libc::O_NOFOLLOW;
use serde::{Deserialize, Serialize};

/// Name of the directory in the runtime directory.
const DIRECTORY: &str = "attachments";
/// The version of a record. A reader leaves alone what a later version wrote.
const VERSION: u32 = 1;
/// Suffix of a record that is about to be removed because its link is gone.
const LEFT: &str = "left";

/// The records cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("record of an attachment: {}: {source}", path.display())]
pub struct RecordError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    move |source| RecordError { path: path.to_owned(), source }
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    host: &'a HostSide,
}

#[derive(Deserialize)]
struct Found {
    version: u32,
    host: serde_json::Value,
}

fn path_of(runtime_dir: &Path, attachment: &Attachment) -> PathBuf {
    runtime_dir.join(DIRECTORY).join(host_veth_name(attachment).as_str())
}

/// Writes the record of what an ADD has made.
///
/// # Errors
/// The file cannot be written. Then there is no file.
pub fn write_record(runtime_dir: &Path, made: &HostSide) -> Result<(), RecordError> {
    let path = path_of(runtime_dir, &made.attachment);
    let text = serde_json::to_vec(&Written { version: VERSION, host: made });
    // The directory belongs to another user, who must not be able to choose where root writes.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644).custom_flags(O_NOFOLLOW);
    let mut file = match options.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(&path)(error)),
    };
    // The file is made readable whatever the runtime's umask is, because the daemon runs as another user.
    let written = file.set_permissions(Permissions::from_mode(0o644));
    let written = written.and_then(|()| file.write_all(&text.map_err(io::Error::from)?));
    written.map_err(|error| {
        let _ = fs::remove_file(&path);
        failed(&path)(error)
    })
}

/// Removes the record of `attachment`, so that nobody keeps anything for it any more.
///
/// # Errors
/// The file cannot be removed.
pub fn remove_record(runtime_dir: &Path, attachment: &Attachment) -> Result<(), RecordError> {
    remove(&path_of(runtime_dir, attachment))
}

fn remove(path: &Path) -> Result<(), RecordError> {
    match fs::remove_file(path) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(failed(path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// All records.
#[derive(Debug, Clone)]
pub struct Records(PathBuf);

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    /// There is no file.
    None,
    /// The file is not a record that this version can read, or not yet. The text says why.
    Unreadable(String),
    /// The record of what has to be in the kernel.
    Kept(Box<HostSide>),
}

impl Records {
    /// The records in `runtime_dir`.
    #[must_use]
    pub fn new(runtime_dir: &Path) -> Self {
        Self(runtime_dir.join(DIRECTORY))
    }

    /// Makes the directory if it does not exist. From then on plugins write records. A record that a killed process had
    /// set aside is put back.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn make(&self) -> Result<(), RecordError> {
        fs::DirBuilder::new().mode(0o755).recursive(true).create(&self.0).map_err(failed(&self.0))?;
        for entry in fs::read_dir(&self.0).map_err(failed(&self.0))? {
            let aside = entry.map_err(failed(&self.0))?.path();
            if aside.extension().is_some_and(|suffix| suffix == LEFT) {
                put_back(&aside, &aside.with_extension(""))?;
            }
        }
        Ok(())
    }

    /// The directory, in which a file for each host's end is written in place.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// The host's end whose record has this file name.
    #[must_use]
    pub fn link_of(name: &OsStr) -> Option<IfName> {
        let name = name.to_str().filter(|name| is_host_veth(name));
        name.and_then(|name| IfName::new(name).ok())
    }

    /// The hosts' ends that have a record, in no order. Without a directory there are none.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn names(&self) -> Result<Vec<IfName>, RecordError> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed(&self.0))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(Self::link_of(&entry.map_err(failed(&self.0))?.file_name()));
        }
        Ok(names)
    }

    /// Whether there is a record of this host's end.
    #[must_use]
    pub fn has(&self, link: &IfName) -> bool {
        self.0.join(link.as_str()).exists()
    }

    /// The record of this host's end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, link: &IfName) -> Result<Record, RecordError> {
        let path = self.0.join(link.as_str());
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Record::None),
            text => text.map_err(failed(&path))?,
        };
        let host = serde_json::from_slice::<Found>(&text).and_then(|found| match found.version {
            VERSION => serde_json::from_value::<HostSide>(found.host),
            other => Err(serde::de::Error::custom(format!("it is of version {other}, not {VERSION}"))),
        });
        Ok(match host {
            Ok(host) if host.link() == *link => Record::Kept(Box::new(host)),
            Ok(_) => Record::Unreadable("it is about another attachment".to_owned()),
            Err(error) => Record::Unreadable(error.to_string()),
        })
    }

    /// Removes the record of this host's end, so that nobody keeps anything behind it any more.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, link: &IfName) -> Result<(), RecordError> {
        remove(&self.0.join(link.as_str()))
    }

    /// Removes the record of a host's end that is gone. `is_gone` looks whether the link is gone. An ADD makes the link
    /// first and writes the record last. So if a record was there before the look, and the look finds no link, the
    /// record belongs to no living attachment.
    ///
    /// # Errors
    /// The file cannot be renamed, removed or put back.
    pub fn clear(&self, link: &IfName, is_gone: impl FnOnce() -> bool) -> Result<bool, RecordError> {
        let path = self.0.join(link.as_str());
        let aside = path.with_extension(LEFT);
        match fs::rename(&path, &aside) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            renamed => renamed.map_err(failed(&path))?,
        }
        if is_gone() {
            return remove(&aside).map(|()| true);
        }
        put_back(&aside, &path).map(|()| false)
    }
}

fn put_back(aside: &Path, path: &Path) -> Result<(), RecordError> {
    match fs::hard_link(aside, path) {
        // There is a newer record meanwhile, and that one counts.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        linked => linked.map_err(failed(path))?,
    }
    remove(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::{HostPorts, Limits, PortElement, Way};

    fn made(container_id: &str) -> HostSide {
        let attachment =
            Attachment { network: "pods".into(), container_id: container_id.into(), ifname: "eth0".into() };
        let addresses = vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let way = Way::Routed { pod_mac: ferrule_model::pod_mac(&attachment), addresses };
        HostSide {
            attachment,
            pod: "default/web".into(),
            netns: "/run/netns/a".into(),
            mtu: 1450,
            way,
            ports: None,
            limits: Limits::default(),
        }
    }

    fn kept(made: &HostSide) -> Record {
        Record::Kept(Box::new(made.clone()))
    }

    #[test]
    fn without_the_directory_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        write_record(dir.path(), &made("a")).unwrap();
        remove_record(dir.path(), &made("a").attachment).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(Records::new(dir.path()).names().unwrap(), []);
    }

    #[test]
    fn what_is_written_is_read_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (records, host) = (Records::new(dir.path()), made("a"));
        records.make().unwrap();
        write_record(dir.path(), &host).unwrap();
        let element = PortElement { set: "every4".into(), key: vec![6, 0, 0x9a, 255], value: vec![10] };
        let ports =
            HostPorts { owner: "hash pods".into(), names: "tcp 8080".into(), elements: vec![element] };
        let moved = HostSide { mtu: 1300, ports: Some(ports), ..host.clone() };
        write_record(dir.path(), &moved).unwrap();
        records.make().unwrap();
        assert_eq!(records.names().unwrap(), [host.link()]);
        assert_eq!(records.read(&host.link()).unwrap(), kept(&moved));
        remove_record(dir.path(), &host.attachment).unwrap();
        remove_record(dir.path(), &host.attachment).unwrap();
        assert_eq!(records.read(&host.link()).unwrap(), Record::None);
        assert!(!records.has(&host.link()));
    }

    #[test]
    fn what_is_no_record_is_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let (records, host) = (Records::new(dir.path()), made("a"));
        records.make().unwrap();
        let path = path_of(dir.path(), &host.attachment);
        write_record(dir.path(), &host).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        let later = whole.replace("\"version\":1", "\"version\":2");
        let other = serde_json::to_string(&Written { version: VERSION, host: &made("b") }).unwrap();
        for text in ["", &whole[..whole.len() - 1], &later, &other, "null"] {
            fs::write(&path, text).unwrap();
            let read = records.read(&host.link()).unwrap();
            assert!(matches!(read, Record::Unreadable(_)), "{text}: {read:?}");
        }
        // What a later version of the plugin adds does not keep this one from the rest.
        fs::write(&path, whole.replace("\"mtu\"", "\"new\":{},\"mtu\"")).unwrap();
        assert_eq!(records.read(&host.link()).unwrap(), kept(&host));
    }

    #[test]
    fn a_record_is_cleared_only_if_its_link_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (records, host) = (Records::new(dir.path()), made("a"));
        records.make().unwrap();
        assert!(!records.clear(&host.link(), || panic!("there is none")).unwrap());
        write_record(dir.path(), &host).unwrap();
        assert!(!records.clear(&host.link(), || false).unwrap());
        assert_eq!(records.read(&host.link()).unwrap(), kept(&host));
        // An ADD that comes in between has the last word.
        let newer = HostSide { mtu: 1300, ..host.clone() };
        let in_between = || {
            write_record(dir.path(), &newer).unwrap();
            false
        };
        assert!(!records.clear(&host.link(), in_between).unwrap());
        assert_eq!(records.read(&host.link()).unwrap(), kept(&newer));
        assert!(records.clear(&host.link(), || true).unwrap());
        assert_eq!(fs::read_dir(&records.0).unwrap().count(), 0);
    }

    #[test]
    fn nobody_chooses_where_root_writes() {
        let dir = tempfile::tempdir().unwrap();
        Records::new(dir.path()).make().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, path_of(dir.path(), &made("a").attachment)).unwrap();
        assert!(write_record(dir.path(), &made("a")).is_err());
        assert!(!elsewhere.exists());
    }

    #[test]
    fn what_was_set_aside_by_somebody_who_was_killed_is_back_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let (records, host) = (Records::new(dir.path()), made("a"));
        records.make().unwrap();
        write_record(dir.path(), &host).unwrap();
        let path = path_of(dir.path(), &host.attachment);
        fs::rename(&path, path.with_extension(LEFT)).unwrap();
        records.make().unwrap();
        assert_eq!(records.read(&host.link()).unwrap(), kept(&host));
        assert_eq!(records.names().unwrap(), [host.link()]);
    }
}
