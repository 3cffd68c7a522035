//! The services file. It is read at the start and after each change. A file that is broken or gone changes nothing.

use std::path::PathBuf;

use ferrule_config::ServicesFile;
use ferrule_daemon::FileWatch;

use super::entries;
use crate::decide::{News, NodeFacts};

/// A watched services file.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    watch: FileWatch,
    own: NodeFacts,
    /// Whether the file has changed since it was last read.
    unread: bool,
    /// The last state that was told.
    told: Option<ServicesFile>,
    /// What the log last said about a file that cannot be used.
    complaint: Option<String>,
}

impl FileSource {
    /// Watches the file at `path`, for this node, `own`. The file need not exist yet. Must be called within a tokio
    /// runtime.
    pub fn new(path: impl Into<PathBuf>, own: NodeFacts) -> Self {
        let path = path.into();
        let watch = FileWatch::new(&path);
        Self { path, watch, own, unread: true, told: None, complaint: None }
    }

    /// The next batch: all that the file says, whenever that is something else than before. Cancel safe.
    pub async fn next(&mut self) -> [News; 3] {
        loop {
            if !self.unread {
                self.watch.changed().await;
            }
            self.unread = false;
            if let Some(news) = self.read() {
                return news;
            }
        }
    }

    /// Reads the file again, even if nobody told of a change.
    pub const fn look_again(&mut self) {
        self.unread = true;
    }

    fn read(&mut self) -> Option<[News; 3]> {
        match ServicesFile::load(&self.path) {
            Ok(file) => {
                if self.complaint.take().is_some() {
                    tracing::info!("{} is good now", self.path.display());
                }
                self.tell(file)
            }
            Err(error) => {
                self.complain(error.is_missing(), error.to_string());
                None
            }
        }
    }

    fn tell(&mut self, file: ServicesFile) -> Option<[News; 3]> {
        if self.told.as_ref() == Some(&file) {
            return None;
        }
        let news = entries::news(&file, &self.own);
        self.told = Some(file);
        Some(news)
    }

    fn complain(&mut self, is_missing: bool, error: String) {
        if self.complaint.as_ref() == Some(&error) {
            return;
        }
        match (is_missing, self.told.is_some()) {
            (true, false) => tracing::warn!(
                "waiting for {}: it does not exist; write the Services into it, nothing is changed before",
                self.path.display()
            ),
            (true, true) => {
                tracing::warn!("{} is gone; the Services that it last listed stay", self.path.display());
            }
            (false, false) => tracing::error!("{error}; nothing is changed before the file is good"),
            (false, true) => tracing::error!("{error}; the Services of the last good state stay"),
        }
        self.complaint = Some(error);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use ferrule_daemon::write_atomically;

    const GOOD: &str =
        "[[service]]\nname = \"a/b\"\ncluster_ips = [\"10.96.0.1\"]\n[[service.port]]\nport = 80\n";
    const LIMIT: Duration = Duration::from_secs(5);

    /// The names of the Services in the next batch; `None` if none comes within `wait`.
    async fn next(source: &mut FileSource, wait: Duration) -> Option<Vec<String>> {
        let batch = tokio::time::timeout(wait, source.next()).await.ok()?;
        let [News::Services(services), ..] = batch else { panic!("{batch:?}") };
        Some(services.iter().map(|service| service.name.to_string()).collect())
    }

    #[test]
    fn a_file_that_appears_changes_breaks_and_heals_tells_its_good_states_once_each() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services.toml");
        let write = |text: &str| write_atomically(&path, text.as_bytes()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut source = FileSource::new(&path, NodeFacts::named("node-a"));
            let quiet = Duration::from_millis(50);
            assert_eq!(next(&mut source, quiet).await, None, "there is no file yet");
            write(GOOD);
            assert_eq!(next(&mut source, LIMIT).await.unwrap(), ["a/b"]);
            write("[[service");
            assert_eq!(next(&mut source, quiet).await, None, "a broken file tells nothing");
            write("");
            assert_eq!(next(&mut source, quiet).await, None, "a file that was cut off tells nothing");
            write(GOOD);
            assert_eq!(next(&mut source, quiet).await, None, "nothing has changed since the last good state");
            std::fs::remove_file(&path).unwrap();
            assert_eq!(next(&mut source, quiet).await, None, "a file that is gone tells nothing");
            write("service = []");
            assert_eq!(next(&mut source, LIMIT).await.unwrap(), Vec::<String>::new());
        });
    }
}
