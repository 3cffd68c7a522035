//! Feeds the daemon with nodes: starts the source as soon as it is known by which link this node is reached. Without
//! `[node] interface` that is known from the beginning.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrule_config::Config;
use ferrule_daemon::Notifier;
use ferrule_model::{WgKey, is_host_veth};
use ferrule_netlink::monitor::Event;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::decide::interface::Chosen;
use crate::pass::device;
use crate::pass::uplink;
use crate::source::{AnySource, NodeEvent, Source};

/// How often the links are looked at, whatever the kernel's events say.
const LOOK: Duration = Duration::from_secs(30);
/// The least time between two looks.
const GAP: Duration = Duration::from_millis(100);

/// What the feed hands out.
#[derive(Debug)]
pub(crate) enum Fed {
    /// News of the nodes.
    News(NodeEvent),
    /// The link by which this node is reached was chosen.
    Chosen(Chosen),
    /// Another link is chosen from now on, or the link has another address.
    Moved,
}

/// The source, with what must be known before it begins.
#[derive(Debug)]
pub(crate) struct Feed {
    config: Config,
    name: String,
    runtime_dir: PathBuf,
    key: Option<WgKey>,
    source: Option<AnySource>,
    chosen: Option<Chosen>,
    links: Arc<Notify>,
    next_look: Instant,
    /// The fault that the log already names.
    said: Option<String>,
    notifier: Notifier,
}

impl Feed {
    /// A feed for the node called `name`, which has this WireGuard key. Must be called within a tokio runtime.
    pub(crate) fn new(
        config: &Config,
        (name, key): (&str, Option<WgKey>),
        runtime_dir: &Path,
        notifier: Notifier,
    ) -> Self {
        let mut feed = Self {
            config: config.clone(),
            name: name.to_owned(),
            runtime_dir: runtime_dir.to_owned(),
            key,
            source: None,
            chosen: None,
            links: Arc::new(Notify::new()),
            next_look: Instant::now(),
            said: None,
            notifier,
        };
        if feed.config.node.interface.is_none() {
            feed.begin(None);
        }
        feed
    }

    /// Starts the source. It uses what was chosen as if that stood in the configuration.
    fn begin(&mut self, chosen: Option<&Chosen>) {
        let node = &self.config.node;
        let node = chosen.map_or_else(|| node.clone(), |chosen| chosen.configured(node));
        let config = Config { node, ..self.config.clone() };
        let macs = device::known_macs(&config.routing.vxlan);
        let source = self.source.insert(AnySource::new(&config, &self.name, &self.runtime_dir, macs));
        self.key.into_iter().for_each(|key| source.publish(key));
    }

    /// Whom to notify of the events for which [`concerns`] says yes. `None` if nobody has to know.
    pub(crate) fn links(&self) -> Option<Arc<Notify>> {
        self.config.node.interface.is_some().then(|| Arc::clone(&self.links))
    }

    /// Waits for what comes next. Cancel safe.
    pub(crate) async fn next(&mut self) -> Fed {
        loop {
            let look = tokio::time::sleep_until(self.next_look);
            let source = async {
                match &mut self.source {
                    Some(source) => source.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                news = source => return Fed::News(news),
                () = self.links.notified() => {
                    self.next_look = self.next_look.min(Instant::now() + GAP);
                    continue;
                }
                () = look, if self.config.node.interface.is_some() => {}
            }
            let Some(chosen) = self.look() else { continue };
            if self.source.is_some() {
                return Fed::Moved;
            }
            self.begin(Some(&chosen));
            return Fed::Chosen(chosen);
        }
    }

    /// The link, if it differs from the one before.
    fn look(&mut self) -> Option<Chosen> {
        self.next_look = Instant::now() + LOOK;
        let wanted = self.config.node.interface.clone()?;
        match uplink::look(&wanted, &self.config, self.chosen.as_ref()) {
            Ok(chosen) => {
                if self.said.take().is_some() {
                    tracing::info!("[node] interface = \"{wanted}\": the link is {}", chosen.link);
                }
                let is_same = self.chosen.as_ref().is_some_and(|before| before.lives_in(&chosen));
                (!is_same).then(|| self.chosen.insert(chosen).clone())
            }
            Err(error) => {
                let text = error.to_string();
                if self.said.as_ref() != Some(&text) {
                    tracing::error!("{text}; what is in the kernel stays until then");
                    self.notifier.status(&text);
                }
                self.said = Some(text);
                None
            }
        }
    }

    /// What the feed waits for before there is a source.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        self.said.clone().filter(|_| self.source.is_none())
    }

    /// See [`Source::in_kernel`].
    pub(crate) fn in_kernel(&mut self) {
        self.source.iter_mut().for_each(Source::in_kernel);
    }

    /// See [`Source::look_again`].
    pub(crate) fn look_again(&mut self) {
        self.source.iter_mut().for_each(Source::look_again);
        self.links.notify_one();
    }
}

/// Whether the event may make another link, or another address, the one that is meant.
pub(crate) fn concerns(event: &Event) -> bool {
    match event {
        Event::Overrun => true,
        Event::Link(_, link) => !is_host_veth(link.name.as_str()),
        Event::Address(_, key, _) => match key.prefix.ip() {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        },
        _ => false,
    }
}
