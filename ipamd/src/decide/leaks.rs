//! Which leases nobody uses any more, although nobody released them. Pure: `look::sight` looks up what is there.
//!
//! A lease is suspected when its namespace and its link are gone. It counts as lost when another look, one grace period
//! later, finds the same. One look that finds either of them, or cannot tell, clears the lease.
//!
//! In another network namespace than the node's, all links seem to be gone. So nothing is suspected before this process
//! knows that it is in the right one. The plugin's calls tell that ([`Whereabouts`]); if the kernel does not say where
//! calls come from, the first link of a lease that is seen tells it.

use crate::decide::seen::{Presence, Sight, Whereabouts};
use ferrule_model::Attachment;
use ferrule_wire::messages::Lease;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

/// What the looks so far have shown.
#[derive(Debug, Default)]
pub struct Suspects {
    /// Since when namespace and link of these leases are gone, on the boot clock.
    since: HashMap<Key, Duration>,
    /// Leases without a namespace's path whose link has been seen.
    seen: HashSet<Key>,
    /// A link of a lease has been seen.
    sees: bool,
    /// The leases of the look that is under way.
    current: HashSet<Key>,
    /// What it has found so far.
    found: Found,
}

/// What a look at all leases has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// How many leases of each pool have neither namespace nor link.
    pub missing: HashMap<String, u64>,
    /// How many of them stay because the links may be in another namespace than this process.
    pub withheld: u64,
}

/// A lease, as opposed to a later one of the same attachment: the attachment's hash and when the lease was given. All
/// leases are here while a look goes on, so what is kept of each is small.
type Key = ([u8; 16], u64);

/// A lease that is to be taken back, if a last look agrees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Whose.
    pub attachment: Attachment,
    /// When the lease was given, which tells it from a later one.
    pub given_at_boottime_ms: u64,
    /// When it was first found without namespace and link, on the boot clock.
    pub since: Duration,
}

impl Suspects {
    /// Looks at some leases and returns those that are lost. The caller shows all leases in turn, and then calls
    /// [`end`](Self::end).
    pub fn look(&mut self, leases: &[Lease], sight: &dyn Sight, grace: Duration, now: Duration) -> Vec<Lost> {
        leases.iter().filter_map(|lease| self.look_at(lease, sight, grace, now)).collect()
    }

    /// All leases have been shown. What is known of any other lease is forgotten.
    pub fn end(&mut self) -> Found {
        let current = std::mem::take(&mut self.current);
        self.since.retain(|key, _| current.contains(key));
        self.seen.retain(|key| current.contains(key));
        std::mem::take(&mut self.found)
    }

    fn look_at(&mut self, lease: &Lease, sight: &dyn Sight, grace: Duration, now: Duration) -> Option<Lost> {
        let key = (lease.attachment.hash().bytes(), lease.given_at_boottime_ms);
        self.current.insert(key);
        let link = sight.link(&lease.attachment);
        self.sees |= link == Presence::There;
        if lease.netns.is_none() && link == Presence::There {
            self.seen.insert(key);
        }
        // A lease without a namespace's path is judged by its link alone, once that link has been seen: when the host's
        // end is gone, so is the pod's.
        let namespace_gone = match &lease.netns {
            Some(path) => sight.namespace(Path::new(path)) == Presence::Gone,
            None => self.seen.contains(&key),
        };
        if link != Presence::Gone || !namespace_gone {
            self.since.remove(&key);
            return None;
        }
        *self.found.missing.entry(lease.pool.clone()).or_default() += 1;
        let is_home = match sight.whereabouts() {
            Whereabouts::Here => true,
            Whereabouts::Elsewhere => false,
            Whereabouts::Untold => self.sees,
        };
        if !is_home {
            self.found.withheld += 1;
            self.since.remove(&key);
            return None;
        }
        let since = *self.since.entry(key).or_insert(now);
        (now >= since + grace).then(|| Lost {
            attachment: lease.attachment.clone(),
            given_at_boottime_ms: lease.given_at_boottime_ms,
            since,
        })
    }
}

/// The last look, right before the release: whether the lease is still without namespace and link.
#[must_use]
pub fn is_still_lost(lease: &Lease, sight: &dyn Sight) -> bool {
    if sight.whereabouts() == Whereabouts::Elsewhere {
        return false;
    }
    let namespace = lease.netns.as_ref().map_or(Presence::Gone, |path| sight.namespace(Path::new(path)));
    namespace == Presence::Gone && sight.link(&lease.attachment) == Presence::Gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    const GRACE: Duration = Duration::from_secs(60);

    /// What is there, by container id.
    #[derive(Default)]
    struct World {
        namespaces: Mutex<HashMap<String, Presence>>,
        links: Mutex<HashMap<String, Presence>>,
        whereabouts: Option<Whereabouts>,
    }

    impl World {
        fn set(&self, id: &str, namespace: Presence, link: Presence) {
            self.namespaces.lock().unwrap().insert(format!("/run/netns/{id}"), namespace);
            self.links.lock().unwrap().insert(id.to_owned(), link);
        }
    }

    impl Sight for World {
        fn namespace(&self, path: &Path) -> Presence {
            let there = self.namespaces.lock().unwrap();
            there.get(path.to_str().unwrap()).copied().unwrap_or(Presence::Gone)
        }

        fn whereabouts(&self) -> Whereabouts {
            self.whereabouts.unwrap_or(Whereabouts::Untold)
        }

        fn link(&self, attachment: &Attachment) -> Presence {
            self.links.lock().unwrap().get(&attachment.container_id).copied().unwrap_or(Presence::Gone)
        }
    }

    fn lease(id: &str) -> Lease {
        Lease {
            attachment: Attachment { network: "pods".into(), container_id: id.into(), ifname: "eth0".into() },
            addresses: vec!["10.0.0.1/32".parse().unwrap()],
            pool: "node".into(),
            pod: None,
            netns: Some(format!("/run/netns/{id}")),
            given_at_boottime_ms: 7,
        }
    }

    fn look(suspects: &mut Suspects, world: &World, leases: &[Lease], now: u64) -> Vec<String> {
        let lost = suspects.look(leases, world, GRACE, Duration::from_secs(now));
        suspects.end();
        lost.into_iter().map(|lost| lost.attachment.container_id).collect()
    }

    #[test]
    fn gone_twice_a_grace_apart_is_lost_and_nothing_less() {
        let (mut suspects, world) = (Suspects::default(), World::default());
        world.set("live", Presence::There, Presence::There);
        let leases = [lease("live"), lease("lost")];
        assert_eq!(look(&mut suspects, &world, &leases, 100), [""; 0]);
        assert_eq!(look(&mut suspects, &world, &leases, 159), [""; 0]);
        assert_eq!(look(&mut suspects, &world, &leases, 160), ["lost"]);
        assert!(is_still_lost(&leases[1], &world) && !is_still_lost(&leases[0], &world));

        for (namespace, link) in [
            (Presence::There, Presence::Gone),
            (Presence::Unknown, Presence::Gone),
            (Presence::Gone, Presence::There),
            (Presence::Gone, Presence::Unknown),
        ] {
            world.set("lost", namespace, link);
            assert!(!is_still_lost(&leases[1], &world));
            assert_eq!(look(&mut suspects, &world, &leases, 200), [""; 0], "{namespace:?} {link:?}");
            world.set("lost", Presence::Gone, Presence::Gone);
            assert_eq!(look(&mut suspects, &world, &leases, 201), [""; 0], "the grace begins anew");
        }
    }

    #[test]
    fn nothing_is_lost_before_any_link_was_seen() {
        let (mut suspects, world) = (Suspects::default(), World::default());
        let leases = [lease("a"), lease("b")];
        for now in [0, 100, 200] {
            assert_eq!(look(&mut suspects, &world, &leases, now), [""; 0]);
        }
        world.set("b", Presence::There, Presence::There);
        assert_eq!(look(&mut suspects, &world, &leases, 300), [""; 0]);
        assert_eq!(look(&mut suspects, &world, &leases, 301), [""; 0]);
        assert_eq!(look(&mut suspects, &world, &leases, 361), ["a"]);
    }

    #[test]
    fn where_the_plugin_calls_from_tells_whether_links_are_seen_at_all() {
        let (mut suspects, mut world) = (Suspects::default(), World::default());
        let leases = [lease("a"), lease("b")];
        world.whereabouts = Some(Whereabouts::Here);
        assert_eq!(look(&mut suspects, &world, &leases, 0), [""; 0]);
        assert_eq!(look(&mut suspects, &world, &leases, 60), ["a", "b"], "without a link of any pod");

        // A link may be of a namespace that has another plugin.
        world.whereabouts = Some(Whereabouts::Elsewhere);
        world.set("b", Presence::Unknown, Presence::There);
        assert!(!is_still_lost(&leases[0], &world));
        for now in [100, 200] {
            assert_eq!(look(&mut suspects, &world, &leases, now), [""; 0]);
        }
        world.whereabouts = Some(Whereabouts::Here);
        assert_eq!(look(&mut suspects, &world, &leases, 300), [""; 0], "the grace begins anew");
        assert_eq!(look(&mut suspects, &world, &leases, 360), ["a"]);
    }

    #[test]
    fn what_is_missing_is_counted_by_pool_and_what_is_kept_in_doubt() {
        let (mut suspects, mut world) = (Suspects::default(), World::default());
        world.set("live", Presence::There, Presence::Gone);
        let leases = [lease("a"), Lease { pool: "other".into(), ..lease("b") }, lease("live")];
        for (whereabouts, withheld) in [(Whereabouts::Untold, 2), (Whereabouts::Here, 0)] {
            world.whereabouts = Some(whereabouts);
            suspects.look(&leases, &world, GRACE, Duration::ZERO);
            let missing = [("node".to_owned(), 1), ("other".to_owned(), 1)].into();
            assert_eq!(suspects.end(), Found { missing, withheld });
        }
    }

    #[test]
    fn a_later_lease_of_the_same_attachment_begins_anew() {
        let (mut suspects, world) = (Suspects::default(), World::default());
        world.set("live", Presence::There, Presence::There);
        let mut leases = [lease("live"), lease("a")];
        look(&mut suspects, &world, &leases, 0);
        leases[1].given_at_boottime_ms = 50_000;
        assert_eq!(look(&mut suspects, &world, &leases, 60), [""; 0]);
    }

    #[test]
    fn without_a_path_the_link_tells_once_it_was_there() {
        let (mut suspects, world) = (Suspects::default(), World::default());
        world.set("live", Presence::There, Presence::There);
        let mut leases = [lease("live"), lease("a")];
        leases[1].netns = None;
        assert_eq!(look(&mut suspects, &world, &leases, 0), [""; 0]);
        assert_eq!(look(&mut suspects, &world, &leases, 100), [""; 0], "it may be about to come");
        world.set("a", Presence::Unknown, Presence::There);
        assert_eq!(look(&mut suspects, &world, &leases, 200), [""; 0]);
        world.set("a", Presence::Unknown, Presence::Gone);
        assert_eq!(look(&mut suspects, &world, &leases, 300), [""; 0]);
        assert_eq!(look(&mut suspects, &world, &leases, 360), ["a"]);
    }

    proptest! {
        /// Whatever is seen when: who is lost was found without both at every look for at least the grace.
        #[test]
        fn who_was_seen_within_the_grace_is_never_lost(
            looks in prop::collection::vec((1u64..50, any::<[u8; 4]>()), 1..60),
        ) {
            let presence = |n: u8| [Presence::Gone, Presence::Gone, Presence::There, Presence::Unknown][usize::from(n % 4)];
            let (mut suspects, world) = (Suspects::default(), World::default());
            let leases = [lease("a"), lease("b")];
            let mut last_sign = [0; 2];
            let mut now = 0;
            for (wait, signs) in looks {
                now += wait;
                for (index, id) in ["a", "b"].into_iter().enumerate() {
                    let (namespace, link) = (presence(signs[index]), presence(signs[index + 2]));
                    world.set(id, namespace, link);
                    if namespace != Presence::Gone || link != Presence::Gone {
                        last_sign[index] = now;
                    }
                }
                for id in look(&mut suspects, &world, &leases, now) {
                    let index = usize::from(id == "b");
                    prop_assert!(now - last_sign[index] > GRACE.as_secs(), "{id} at {now}: {last_sign:?}");
                }
            }
        }
    }
}
