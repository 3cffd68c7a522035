//! The thread that compares the records with the kernel, and puts right what differs.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use ferrule_model::{BridgePort, Family, HostSide, IfName, IpNetwork, Link, Op, Way};
use ferrule_netlink::events::caller_of;
use ferrule_netlink::nft::Netfilter;
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Bridges, Error, Peers, Places, Refusal, nodes_own, sysctl};
use ferrule_wire::{Record, RecordError, Records};
use nix::errno::Errno;

use super::guard::{self, Guard};
use super::ports::{Ports, PortsError};
use super::repair::{self, Fix, Found};
use super::suspects::{Settled, Suspects};
use super::{bridge, limits, share};
use crate::decide::culprit::Culprits;
use crate::decide::drift::FULL_DIFF;
use crate::decide::report::{self, log_lines};

/// The subject of complaints that concern no single pod.
const RECORDS: &str = "records";
const PORTS: &str = "host ports";
const GUARD: &str = "guard";
const SHARE: &str = "share of connections";
/// What the lack of a guard means.
const UNGUARDED: &str = "until then such a pod can send whatever it likes, into the tunnel too";
/// The first wait after a look that failed. It doubles up to [`FULL_DIFF`].
const RETRY: Duration = Duration::from_millis(500);

/// Which pods to look at, and who changed what, as far as the kernel told.
#[derive(Debug)]
pub struct Job {
    /// The pods to look at.
    pub suspects: Suspects,
    /// Who changed what.
    pub culprits: Culprits,
}

/// What a look has found right, or made right.
#[derive(Debug)]
pub struct Kept {
    /// The pods whose objects on the host are all right.
    pub settled: Vec<Settled>,
    /// Whether all pods there are were looked at.
    pub all: bool,
    /// How many things were put back that somebody else had deleted or changed.
    pub repaired: usize,
    /// Whether something could not be looked at, or not be put back by a program.
    pub failed: bool,
}

/// Starts the thread. It sends what it finds to `inbox`, and ends when nobody can send to it any more.
///
/// # Errors
/// The system gives no thread.
pub fn start<K, N, M>(mut keeper: Keeper<K, N>, inbox: Sender<M>) -> io::Result<Sender<Job>>
where
    K: Bridges + Traffic + Places + Peers + Send + 'static,
    N: Netfilter + Send + 'static,
    M: From<Kept> + Send + 'static,
{
    // This first look comes before anything of the node is ready for a pod.
    keeper.look(Job {
        suspects: Suspects { guard: true, ..Suspects::default() },
        culprits: Culprits::new(caller_of),
    });
    let (jobs, orders) = mpsc::channel();
    std::thread::Builder::new().name("pods".into()).spawn(move || keep(&mut keeper, &orders, &inbox))?;
    Ok(jobs)
}

fn keep<K: Bridges + Traffic + Places + Peers, N: Netfilter, M: From<Kept>>(
    keeper: &mut Keeper<K, N>,
    orders: &Receiver<Job>,
    inbox: &Sender<M>,
) {
    let (mut next_all, mut told) = (Instant::now(), false);
    let mut retry: Option<Duration> = None;
    loop {
        let job = match orders.recv_timeout(next_all.saturating_duration_since(Instant::now())) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                Job { suspects: Suspects::everybody(), culprits: Culprits::new(caller_of) }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let all = job.suspects.all;
        let kept = keeper.look(job);
        // No event tells when the reason of a failure is gone.
        retry = kept.failed.then(|| retry.map_or(RETRY, |wait| (wait * 2).min(FULL_DIFF)));
        if all || kept.failed {
            next_all = Instant::now() + retry.unwrap_or(FULL_DIFF);
        }
        // If there are no pods, nobody is woken.
        if kept.settled.is_empty() && kept.repaired == 0 && std::mem::replace(&mut told, true) {
            continue;
        }
        if inbox.send(kept.into()).is_err() {
            return;
        }
    }
}

/// Keeps what the records say.
#[derive(Debug)]
pub struct Keeper<K, N> {
    kernel: K,
    ports: Ports<N>,
    guard: Guard<N>,
    records: Records,
    /// The complaints that were made and still hold, with their subjects.
    complaints: BTreeSet<(String, String)>,
}

/// Why a pod was not looked at to the end.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the kernel cannot be looked at: {0}")]
    Kernel(#[from] Error),
}

/// The result of a look.
#[derive(Debug, Default)]
struct Outcome {
    settled: Vec<Settled>,
    repaired: Vec<String>,
    complaints: BTreeSet<(String, String)>,
    failed: bool,
}

impl<K: Bridges + Traffic + Places + Peers, N: Netfilter> Keeper<K, N> {
    /// A keeper of the records in `runtime_dir`. The directory of the records is made if it is missing.
    pub fn new((kernel, ports, guard): (K, Ports<N>, Guard<N>), runtime_dir: &Path) -> Self {
        let keeper =
            Self { kernel, ports, guard, records: Records::new(runtime_dir), complaints: BTreeSet::new() };
        if let Err(error) = keeper.records.make() {
            tracing::error!(
                "{error}; let routed write to the runtime directory; what pods have on the host is not kept"
            );
        }
        keeper
    }

    /// Looks at the suspects and puts right what is not as it has to be. Returns the pods of which all is right.
    pub fn look(&mut self, Job { suspects, mut culprits }: Job) -> Kept {
        let mut outcome = Outcome::default();
        let guarded = suspects.all || suspects.guard;
        let everybody = guarded || suspects.ports;
        let by = culprits.take_table();
        if guarded {
            self.keep_guard(by.as_deref(), &mut outcome);
        } else {
            self.follow(&suspects, &mut outcome);
        }
        let names =
            if everybody { self.names(&mut outcome) } else { suspects.links.iter().cloned().collect() };
        let mut kept = Vec::new();
        for name in &names {
            // Of the other pods only the ports are doubtful.
            let looked = if suspects.all || suspects.links.contains(name) {
                self.look_at(name, &mut outcome)
            } else {
                self.read(name).map_err(LookError::from)
            };
            match looked {
                Ok(made) => kept.extend(made),
                Err(error) => outcome.fail(name.as_str(), &error.to_string()),
            }
        }
        if guarded {
            self.keep_senders(&kept, by.as_deref(), &mut outcome);
        }
        if (suspects.all || suspects.ports)
            && let Err(error) = self.keep_ports(&kept, by.as_deref(), &mut outcome)
        {
            outcome.fail(PORTS, &error.to_string());
        }
        if suspects.all {
            self.look_at_shares(&kept, &mut outcome);
        }
        self.tell(&suspects, outcome, &culprits)
    }

    /// Names the pods that are over their share of the table of connections. The kernel tells of none.
    fn look_at_shares(&mut self, pods: &[HostSide], outcome: &mut Outcome) {
        match self.guard.over_their_share() {
            Ok(elements) => {
                elements.iter().for_each(|element| outcome.complain(SHARE, &share::sentence(element, pods)));
            }
            Err(error) => tracing::debug!("which pods are over their share cannot be looked at: {error}"),
        }
    }

    fn keep_guard(&mut self, by: Option<&str>, outcome: &mut Outcome) {
        let guard::Outcome { repaired, complaints } = self.guard.keep(by);
        outcome.repaired.extend(repaired);
        complaints.iter().for_each(|line| outcome.fail(GUARD, &format!("{line}; {UNGUARDED}")));
    }

    /// Lets the guard follow the ports that have come and gone. What fails is looked at again with everything else.
    fn follow(&mut self, suspects: &Suspects, outcome: &mut Outcome) {
        for port in &suspects.gone {
            outcome.failed |= self.guard.remove_port(port).is_err();
        }
        for port in &suspects.added {
            match self.read(port) {
                Ok(None) => {}
                Ok(Some(made)) => outcome.failed |= self.guard.add_port(&made).is_err(),
                Err(error) => outcome.fail(port.as_str(), &error.to_string()),
            }
        }
    }

    /// Keeps what the ports of bridges may send under. `kept` are all pods.
    fn keep_senders(&mut self, kept: &[HostSide], by: Option<&str>, outcome: &mut Outcome) {
        // The table is missing, and that was complained of.
        if outcome.complaints.iter().any(|(about, _)| about == GUARD) {
            return;
        }
        let kernel = &mut self.kernel;
        let is_there = |port: &IfName| !matches!(kernel.link(port), Ok(None));
        match self.guard.keep_ports(kept, is_there, by) {
            // A table that was deleted took them along, and that was told.
            Ok(told) if outcome.repaired.is_empty() => outcome.repaired.extend(told),
            Ok(_) => {}
            Err(error) => {
                outcome.fail(GUARD, &format!("pods on bridges are not guarded: {error}; {UNGUARDED}"));
            }
        }
    }

    fn keep_ports(
        &mut self,
        kept: &[HostSide],
        by: Option<&str>,
        outcome: &mut Outcome,
    ) -> Result<(), PortsError> {
        if kept.iter().all(|made| made.ports.is_none()) {
            return Ok(());
        }
        let own = nodes_own(&self.kernel.places()?).collect();
        let ports = self.ports.keep((kept, &own), &self.records, by)?;
        outcome.repaired.extend(ports.repaired);
        ports.complaints.iter().for_each(|line| outcome.complain(PORTS, line));
        Ok(())
    }

    /// The host's ends of which there are records.
    fn names(&self, outcome: &mut Outcome) -> Vec<IfName> {
        self.records.names().unwrap_or_else(|error| {
            outcome.fail(RECORDS, &error.to_string());
            Vec::new()
        })
    }

    /// Logs what is new.
    fn tell(&mut self, suspects: &Suspects, mut outcome: Outcome, culprits: &Culprits) -> Kept {
        let repaired: Vec<_> = outcome.repaired.iter().map(|line| culprits.named(line)).collect();
        log_lines(&repaired, repaired.len(), "more things of pods put back", |line| tracing::warn!("{line}"));
        let fresh: Vec<_> =
            outcome.complaints.difference(&self.complaints).map(|(_, line)| line.clone()).collect();
        log_lines(&fresh, fresh.len(), "more things of pods that cannot be put back", |line| {
            tracing::error!("{line}");
        });
        // An old complaint still holds if its subject was not looked at.
        let was_looked_at = |about: &str| {
            suspects.all
                || suspects.ports && [PORTS, RECORDS].contains(&about)
                || suspects.guard && about == GUARD
                || suspects.links.iter().any(|name| name.as_str() == about)
        };
        self.complaints.retain(|(about, _)| !was_looked_at(about));
        self.complaints.append(&mut outcome.complaints);
        Kept { settled: outcome.settled, all: suspects.all, repaired: repaired.len(), failed: outcome.failed }
    }

    /// What there has to be, if it still has to be kept.
    fn read(&self, name: &IfName) -> Result<Option<HostSide>, RecordError> {
        Ok(match self.records.read(name)? {
            Record::Kept(made) => Some(*made),
            Record::None => None,
            // An ADD is writing it, or was killed. In the second case the runtime sends a DEL.
            Record::Unreadable(reason) => {
                tracing::debug!("the record of {name} cannot be read: {reason}");
                None
            }
        })
    }

    fn look_at(&mut self, name: &IfName, outcome: &mut Outcome) -> Result<Option<HostSide>, LookError> {
        let Some(made) = self.read(name)? else { return Ok(None) };
        let Some(link) = self.kernel.link(name)? else {
            self.gone(&made)?;
            return Ok(None);
        };
        let mut ways = Vec::new();
        for wanted in made.ways(link.index) {
            let neighbour = self.kernel.neighbour(wanted.neighbour.0)?;
            let route = self.kernel.route_match(wanted.neighbour.0.address)?;
            ways.push(Found { wanted, neighbour, route });
        }
        let mut fixes = repair::fixes(&made, &link, &ways);
        let bridge = self.bridge(&made, &link, &mut fixes, outcome)?;
        let is_right = self.put_right(&made, &fixes, outcome)?;
        self.look_at_mac(&made, name, outcome)?;
        let records = &self.records;
        let is_limited = !made.limits.is_none();
        let ifb = if is_limited {
            limits::keep(&mut self.kernel, &made, &link, || records.has(name), &mut outcome.repaired)?
        } else {
            None
        };
        if is_right {
            let (ways, link) = (made.ways(link.index).collect(), right(link, &fixes));
            outcome.settled.push(Settled { link, ways, bridge, ifb, is_limited });
        }
        Ok(Some(made))
    }

    /// Another program, or the pod itself, may have set the MAC of the pod's end. In mode `routed` the pod's neighbour
    /// entries went with the old MAC, and only the pod can put them back. In mode `bridge` the guard lets the pod send
    /// under the old one only.
    fn look_at_mac(&mut self, made: &HostSide, name: &IfName, outcome: &mut Outcome) -> Result<(), Error> {
        let given = match &made.way {
            Way::Routed { pod_mac, .. } => Some(*pod_mac),
            Way::Bridge { pod, .. } => pod.as_ref().filter(|_| self.guard.checks_macs()).map(|end| end.mac),
        };
        if let Some(given) = given
            && self.kernel.mac_of_peer(name)?.is_some_and(|mac| mac != given)
        {
            outcome.complain(name.as_str(), &repair::other_mac(made, given));
        }
        Ok(())
    }

    /// Looks at the bridge of a pod that has one, and at the pod's place there. What is to be done is added to `fixes`.
    fn bridge(
        &mut self,
        made: &HostSide,
        link: &Link,
        fixes: &mut Vec<Fix>,
        outcome: &mut Outcome,
    ) -> Result<Option<(Link, BridgePort)>, Error> {
        let Way::Bridge { name, mac, isolated, gateways, .. } = &made.way else { return Ok(None) };
        let wanted = bridge::Wanted { name, mac: *mac, isolated: *isolated, gateways };
        match bridge::find(&mut self.kernel, made, link, &wanted)? {
            Some(found) => {
                fixes.extend(found.fixes);
                outcome.repaired.extend(found.repaired);
                let bridge = Link { up: true, mac: mac.or(found.bridge.mac), ..found.bridge };
                Ok(Some((bridge, found.port)))
            }
            None => {
                let of = repair::of(made);
                outcome.complain(
                    made.link().as_str(),
                    &format!("the link {name} is no bridge: remove or rename it, so that its pods are connected again{of}"),
                );
                Ok(None)
            }
        }
    }

    /// The host's end is gone, and there was no DEL. It cannot be made again, because the pod's end has gone with it.
    fn gone(&mut self, made: &HostSide) -> Result<(), LookError> {
        let (name, kernel) = (made.link(), &mut self.kernel);
        if self.records.clear(&name, || matches!(kernel.link(&name), Ok(None)))? {
            let lives = Path::new(&made.netns).exists();
            let line = repair::gone(made, lives);
            if lives { tracing::error!("{line}") } else { tracing::info!("{line}") }
        }
        Ok(())
    }

    /// Carries out the fixes. Returns whether the kernel granted all of them.
    fn put_right(&mut self, made: &HostSide, fixes: &[Fix], outcome: &mut Outcome) -> Result<bool, Error> {
        if fixes.is_empty() {
            return Ok(true);
        }
        let ops: Vec<_> = fixes.iter().map(|fix| fix.op.clone()).collect();
        let mut answers = self.kernel.apply(&ops)?;
        // This is how the kernel says that IPv6 is switched off on the link: `fib6_nh_init`.
        if answers.iter().any(|answer| answer.as_ref().is_err_and(|why| why.errno == Errno::EACCES)) {
            outcome.repaired.extend(switch_ipv6_on(made));
            answers = self.kernel.apply(&ops)?;
        }
        let mut all = true;
        for (fix, answer) in fixes.iter().zip(answers) {
            match answer {
                Ok(()) => outcome.repaired.extend(fix.said.clone()),
                // The link has gone meanwhile.
                Err(Refusal { errno: Errno::ENODEV, .. }) => all = false,
                Err(why) => {
                    all = false;
                    let (link, what) = (made.link(), &fix.op);
                    let reason = report::reason(&fix.op, &why);
                    outcome.complain(
                        link.as_str(),
                        &format!("cannot put back {what} ({link}, pod {}): {reason}", made.pod),
                    );
                }
            }
        }
        Ok(all)
    }
}

impl Outcome {
    /// A complaint about what was not looked at to the end.
    fn fail(&mut self, about: &str, line: &str) {
        self.failed = true;
        self.complain(about, line);
    }

    fn complain(&mut self, about: &str, line: &str) {
        self.complaints.insert((about.to_owned(), line.to_owned()));
    }
}

/// The link as it is after the fixes.
fn right(mut link: Link, fixes: &[Fix]) -> Link {
    if let Some(Fix { op: Op::SetLink(index, change), .. }) = fixes.first()
        && *index == link.index
    {
        link.up |= change.up.is_some();
        link.mtu = change.mtu.unwrap_or(link.mtu);
        link.mac = change.mac.or(link.mac);
    }
    link
}

/// Container runtimes and hardening switch IPv6 off, but a pod with an IPv6 address needs it.
fn switch_ipv6_on(made: &HostSide) -> Option<String> {
    let (link, has_ipv6) = match &made.way {
        Way::Routed { addresses, .. } => {
            (made.link(), addresses.iter().any(|address| Family::of(*address) == Family::V6))
        }
        Way::Bridge { name, gateways, .. } => (name.clone(), gateways.iter().any(IpNetwork::is_ipv6)),
    };
    if !has_ipv6 {
        return None;
    }
    let switched = sysctl::set(&format!("net/ipv6/conf/{link}/disable_ipv6"), "0").unwrap_or(false);
    switched
        .then(|| format!("IPv6 of {link} was switched off by someone else; switched on{}", repair::of(made)))
}
