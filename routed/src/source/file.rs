//! The nodes file. It is read at the start and after each change. A file that is broken or gone changes nothing.

use std::path::PathBuf;

use ferrule_config::{Config, ConfigError, Edit, EditedNodes};
use ferrule_daemon::FileWatch;

use super::{NodeEvent, Source};
use crate::decide::nodes::Node;
use crate::decide::roll::{Rank, Roll};

/// A watched nodes file.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    watch: FileWatch,
    /// Whether the file has changed since it was last read.
    unread: bool,
    /// The last state that was told.
    told: Option<EditedNodes>,
    /// Which of its nodes count.
    roll: Roll,
    /// What the log last said about a file that cannot be used.
    complaint: Option<String>,
}

impl FileSource {
    /// Watches the file that `config` names, for the node called `own_name`. The file need not exist yet. Must be
    /// called within a tokio runtime.
    pub fn new(config: &Config, own_name: &str) -> Self {
        let path = config.routing.file.path.clone();
        let watch = FileWatch::new(&path);
        Self { path, watch, unread: true, told: None, roll: Roll::new(own_name, config), complaint: None }
    }

    /// Reads the file. Returns what it says and was not told yet.
    fn read(&mut self) -> Option<NodeEvent> {
        let news = match EditedNodes::read(&self.path).and_then(|text| self.take(text)) {
            Ok(news) => news,
            Err(error) => {
                self.complain(error.is_missing(), error.to_string());
                return None;
            }
        };
        if self.complaint.take().is_some() {
            tracing::info!("{} is good now", self.path.display());
        }
        self.roll.lines().iter().for_each(|line| tracing::warn!("{}: {line}", self.path.display()));
        news
    }

    fn take(&mut self, text: String) -> Result<Option<NodeEvent>, ConfigError> {
        let Some(told) = &mut self.told else {
            let first = self.told.insert(EditedNodes::parse(text, &self.path)?);
            return Ok(Some(NodeEvent::Snapshot(self.roll.replace(all(first)))));
        };
        Ok(match told.edit(text, &self.path)? {
            Edit::Whole => Some(NodeEvent::Snapshot(self.roll.replace(all(told)))),
            Edit::Part { gone, come } if gone == come => None,
            Edit::Part { gone, come } => {
                let stays = |name: &String| come.iter().any(|node| node.name == *name);
                let gone = gone.into_iter().map(|node| node.name).filter(|name| !stays(name));
                let mut updates: Vec<_> = gone.flat_map(|name| self.roll.remove(&name)).collect();
                let come = come.into_iter().map(Node::from);
                updates.extend(come.flat_map(|node| self.roll.put(node, Rank::default())));
                (!updates.is_empty()).then_some(NodeEvent::Changes(updates))
            }
        })
    }

    fn complain(&mut self, missing: bool, error: String) {
        if self.complaint.as_ref() == Some(&error) {
            return;
        }
        match (missing, self.told.is_some()) {
            (true, false) => tracing::warn!(
                "waiting for {}: it does not exist; write the cluster's nodes into it, nothing is changed before",
                self.path.display()
            ),
            (true, true) => {
                tracing::warn!("{} is gone; the nodes that it last listed stay", self.path.display());
            }
            (false, false) => tracing::error!("{error}; nothing is changed before the file is good"),
            (false, true) => tracing::error!("{error}; the nodes of the last good state stay"),
        }
        self.complaint = Some(error);
    }
}

impl Source for FileSource {
    async fn next(&mut self) -> NodeEvent {
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

    fn look_again(&mut self) {
        self.unread = true;
    }
}

/// All nodes have the same rank, so the first by name wins.
fn all(nodes: &EditedNodes) -> impl Iterator<Item = (Node, Rank)> {
    nodes.nodes().iter().cloned().map(|entry| (entry.into(), Rank::default()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decide::nodes::NodeUpdate;
    use ferrule_daemon::write_atomically;

    const GOOD: &str = "[[node]]\nname = \"a\"\naddress = \"192.0.2.1\"\npod_cidrs = [\"10.244.1.0/24\"]\n";
    const LIMIT: Duration = Duration::from_secs(5);

    /// The names of the next snapshot; `None` if none comes within `wait`.
    async fn next(source: &mut FileSource, wait: Duration) -> Option<Vec<String>> {
        match tokio::time::timeout(wait, source.next()).await.ok()? {
            NodeEvent::Snapshot(nodes) => Some(nodes.into_iter().map(|node| node.name).collect()),
            NodeEvent::Changes(changes) => {
                let put = |change| match change {
                    NodeUpdate::Put(node) => Some(node.name),
                    NodeUpdate::Remove(_) => None,
                };
                Some(changes.into_iter().filter_map(put).collect())
            }
        }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn a_file_that_appears_changes_breaks_and_heals_tells_its_good_states_once_each() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nodes.toml");
        let write = |text: &str| write_atomically(&path, text.as_bytes()).unwrap();
        run(async {
            let mut config = Config::default();
            config.routing.file.path.clone_from(&path);
            let mut source = FileSource::new(&config, "a");
            let quiet = Duration::from_millis(50);
            assert_eq!(next(&mut source, quiet).await, None, "there is no file yet");
            write(GOOD);
            assert_eq!(next(&mut source, LIMIT).await.unwrap(), ["a"]);
            write("[[node");
            assert_eq!(next(&mut source, quiet).await, None, "a broken file tells nothing");
            write(GOOD);
            assert_eq!(next(&mut source, quiet).await, None, "nothing has changed since the last good state");
            std::fs::remove_file(&path).unwrap();
            assert_eq!(next(&mut source, quiet).await, None, "a file that is gone tells nothing");
            write(&GOOD.replace("\"a\"", "\"b\""));
            assert_eq!(next(&mut source, LIMIT).await.unwrap(), ["b"]);
        });
    }
}
