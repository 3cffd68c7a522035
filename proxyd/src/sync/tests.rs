use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrule_model::{Element, Family, Value};
use ferrule_netlink::Error;
use ferrule_netlink::nft::{Change, FakeNetfilter, Flow, Netfilter, NftError};
use nix::errno::Errno;
use proptest::prelude::*;

use super::*;
use crate::decide::{Backend, Backends, Frontend, ServiceName};
use crate::nft::sets::{AFFINITY, ENDPOINTS, NODE_ENDPOINTS};
use crate::nft::{Shape, TABLE};
use crate::samples::{backend, frontend_at};

/// A fake that refuses whatever concerns these ports.
#[derive(Debug, Clone, Default)]
struct Kernel {
    fake: FakeNetfilter,
    refused: Arc<std::sync::Mutex<BTreeSet<u16>>>,
}

impl Kernel {
    fn refuses(&self, change: &Change<'_>) -> bool {
        let Change::Add(element) = change else { return false };
        let is_of = |port: &u16| {
            let [high, low] = port.to_be_bytes();
            element.key.windows(8).any(|part| part[1..] == [0, 0, 0, high, low, 0, 0])
        };
        self.refused.lock().unwrap().iter().any(is_of)
    }
}

impl Netfilter for Kernel {
    fn change(&mut self, table: &str, changes: &[Change<'_>], since: Option<u32>) -> Result<(), Error> {
        if changes.iter().any(|change| self.refuses(change)) {
            return Err(Error::Refused { request: "change".into(), refusal: Errno::ENOMEM.into() });
        }
        self.fake.change(table, changes, since)
    }
    fn elements(&mut self, table: &str, set: &'static str) -> Result<Vec<Element>, Error> {
        self.fake.elements(table, set)
    }
    fn has_table(&mut self, table: &str) -> Result<bool, Error> {
        self.fake.has_table(table)
    }
    fn generation(&mut self) -> Result<u32, Error> {
        self.fake.generation()
    }
    fn rules(&mut self, table: &str) -> Result<Option<String>, NftError> {
        self.fake.rules(table)
    }
    fn load(&mut self, script: &str) -> Result<(), NftError> {
        self.fake.load(script)
    }
    fn forget_udp(
        &mut self,
        family: Family,
        port: Option<u16>,
        wanted: &dyn Fn(&Flow) -> bool,
    ) -> Result<usize, Error> {
        self.fake.forget_udp(family, port, wanted)
    }
}

/// What the kernel holds, without saying which endpoint has which slot.
fn held(kernel: &Kernel) -> BTreeSet<(&'static str, Vec<u8>, Value, String)> {
    let mut slots: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
    let mut held = BTreeSet::new();
    for element in kernel.fake.all() {
        let Element { set, mut key, mut end, value, comment } = element;
        if [ENDPOINTS.0, ENDPOINTS.1, NODE_ENDPOINTS.0, NODE_ENDPOINTS.1].contains(&set) {
            let slot = u32::from_ne_bytes(key.split_off(key.len() - 4).try_into().unwrap());
            let (view, slot) = (slot >> 16, slot & 0xffff);
            assert!(slots.entry((set, key.clone(), view)).or_default().insert(slot));
            key.push(u8::try_from(view).unwrap());
        }
        key.append(&mut end);
        assert!(held.insert((set, key, value, comment)));
    }
    for (of, slots) in slots {
        assert!((0..).zip(&slots).all(|(number, slot)| number == *slot), "a hole in {of:?}: {slots:?}");
    }
    held
}

fn name(name: &str) -> Arc<ServiceName> {
    Arc::new(ServiceName { namespace: "default".into(), name: name.into() })
}

fn path(kernel: &Kernel) -> DataPath<Kernel> {
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let node_ports = networks(&["192.0.2.1/32"]);
    DataPath::new(kernel.clone(), Shape { node_ports, ..Shape::default() })
}

/// What these Services need, made from nothing.
fn from_nothing(services: &BTreeMap<u16, Vec<Frontend>>) -> BTreeSet<(&'static str, Vec<u8>, Value, String)> {
    let kernel = Kernel::default();
    path(&kernel).start(all(services), Instant::now()).unwrap();
    held(&kernel)
}

fn all(services: &BTreeMap<u16, Vec<Frontend>>) -> Vec<Wanted> {
    services.iter().map(|(number, frontends)| (name(&number.to_string()), frontends.clone())).collect()
}

/// Some Services, each with up to four frontends of its own port.
fn services() -> impl Strategy<Value = BTreeMap<u16, Vec<Frontend>>> {
    let service = |number: u16| {
        let places = [(true, true), (true, false), (false, true), (false, false)];
        places
            .map(move |(v4, node)| prop::option::of(frontend_at(number, v4, node)))
            .prop_map(move |frontends| (number, frontends.into_iter().flatten().collect::<Vec<_>>()))
    };
    prop::collection::vec((80_u16..90).prop_flat_map(service), 0..5).prop_map(|all| all.into_iter().collect())
}

/// The changes from some Services to others.
fn changes(before: &BTreeMap<u16, Vec<Frontend>>, after: &BTreeMap<u16, Vec<Frontend>>) -> Vec<Wanted> {
    let gone = before.keys().filter(|number| !after.contains_key(number));
    let mut changes: Vec<_> = gone.map(|number| (name(&number.to_string()), Vec::new())).collect();
    changes.extend(all(after));
    changes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_services_become_any_others(all_of_them in prop::collection::vec(services(), 2..5)) {
        let kernel = Kernel::default();
        let (mut path, now) = (path(&kernel), Instant::now());
        path.start(all(&all_of_them[0]), now).unwrap();
        for (before, after) in all_of_them.iter().zip(&all_of_them[1..]) {
            let report = path.change(changes(before, after), now).unwrap();
            prop_assert_eq!(&report.complaints, &[] as &[String]);
            prop_assert_eq!(held(&kernel), from_nothing(after));
            prop_assert_eq!(path.change(all(after), now).unwrap().elements, 0, "nothing is new");
        }
    }

    #[test]
    fn a_start_changes_only_what_differs(before in services(), after in services()) {
        let (kernel, now) = (Kernel::default(), Instant::now());
        path(&kernel).start(all(&before), now).unwrap();
        prop_assert_eq!(path(&kernel).start(all(&before), now).unwrap().elements, 0);
        let mut path = path(&kernel);
        path.start(all(&after), now).unwrap();
        prop_assert_eq!(held(&kernel), from_nothing(&after));
        // What was read is known as if it had been made.
        path.change(changes(&after, &before), now).unwrap();
        prop_assert_eq!(held(&kernel), from_nothing(&before));
    }

    #[test]
    fn what_others_did_is_undone(services in services(), others in services(), gone in any::<u8>()) {
        let (kernel, now) = (Kernel::default(), Instant::now());
        let mut path = path(&kernel);
        path.start(all(&services), now).unwrap();
        let wanted = kernel.fake.all();
        let mut netfilter = kernel.clone();
        if gone % 3 == 0 {
            // Somebody else's rules for the same: another daemon, or a mad one.
            self::path(&kernel).start(all(&others), now).unwrap();
        } else {
            let some: Vec<_> = wanted.iter().filter(|element| element.key.last() != Some(&(gone % 5))).collect();
            let deleted: Vec<_> = some.into_iter().map(Change::Delete).collect();
            netfilter.change(TABLE, &deleted, None).unwrap();
        }
        let is_different = kernel.fake.all() != wanted;
        let report = path.look(Some("somebody"), now).unwrap();
        prop_assert_eq!(report.repaired.is_some(), is_different);
        prop_assert_eq!(held(&kernel), from_nothing(&services));
        prop_assert_eq!(path.look(None, now).unwrap(), Report::default());
    }

    #[test]
    fn what_is_refused_holds_nothing_up(
        before in services(),
        after in services(),
        refused in prop::collection::btree_set(80_u16..90, 0..3),
    ) {
        let (kernel, mut now) = (Kernel::default(), Instant::now());
        let mut path = path(&kernel);
        path.start(all(&before), now).unwrap();
        kernel.refused.lock().unwrap().clone_from(&refused);
        path.change(changes(&before, &after), now).unwrap();
        let mut rest: HashMap<_, _> = after.iter().collect();
        let mut expected = after.clone();
        for number in &refused {
            let names: Vec<_> = path.refused();
            if names.iter().any(|line| line.starts_with(&format!("default/{number}:"))) {
                rest.remove(number);
                expected.remove(number);
                if let Some(old) = before.get(number) {
                    expected.insert(*number, old.clone());
                }
            }
        }
        prop_assert_eq!(held(&kernel), from_nothing(&expected), "those that are refused stay as they were");
        // Once the kernel takes them, they come by themselves.
        kernel.refused.lock().unwrap().clear();
        while let Some(due) = path.due() {
            now = due;
            path.turn(now).unwrap();
        }
        prop_assert_eq!(held(&kernel), from_nothing(&after));
        prop_assert_eq!(path.refused(), Vec::<String>::new());
    }
}

fn sample(number: u16, backends: &[u8]) -> Frontend {
    let strategy = frontend_at(number, true, false);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let frontend = Strategy::new_tree(&strategy, &mut runner).unwrap();
    let frontend = prop::strategy::ValueTree::current(&frontend);
    let to = match backends {
        [] => Backends::Refuse,
        some => Backends::To(some.iter().copied().map(|last| backend(Family::V4, last, false)).collect()),
    };
    Frontend { from_outside: to.clone(), from_inside: to, affinity: None, sources: None, ..frontend }
}

#[test]
fn a_frontend_changes_its_service_in_one_transaction() {
    let (kernel, now) = (Kernel::default(), Instant::now());
    let mut path = path(&kernel);
    path.start(vec![(name("a"), vec![sample(80, &[1, 2])]), (name("b"), vec![sample(82, &[3])])], now)
        .unwrap();
    let swapped = vec![(name("a"), vec![sample(82, &[1, 2])]), (name("b"), vec![sample(80, &[3])])];
    let report = path.change(swapped.clone(), now).unwrap();
    assert_eq!((report.transactions, report.complaints), (1, vec![]));
    // Also where something else is refused at the same time.
    kernel.refused.lock().unwrap().insert(84);
    let back = vec![
        (name("c"), vec![sample(84, &[9])]),
        (name("b"), vec![sample(82, &[3])]),
        (name("a"), vec![sample(80, &[1, 2])]),
    ];
    let report = path.change(back, now).unwrap();
    assert_eq!(report.complaints.len(), 1, "{report:?}");
    assert_eq!(path.change(swapped, now).unwrap().complaints, Vec::<String>::new());
}

#[test]
fn one_endpoint_of_thousands_costs_a_handful_of_elements() {
    let (kernel, now) = (Kernel::default(), Instant::now());
    let mut path = path(&kernel);
    let many = |skip: u16| {
        let all = (0_u16..5000).filter(|number| *number != skip).map(|number| {
            let [high, low] = number.to_be_bytes();
            Backend { address: [10, 245, high, low].into(), ..backend(Family::V4, 1, false) }
        });
        let to = Backends::To(all.collect());
        Frontend { from_outside: to.clone(), from_inside: to, ..sample(80, &[1]) }
    };
    let report = path.start(vec![(name("a"), vec![many(9999)])], now).unwrap();
    assert_eq!(
        (report.elements, report.transactions),
        (5002, 5),
        "the cluster IP, 5000 endpoints, the verdict"
    );
    let report = path.change(vec![(name("a"), vec![many(77)])], now).unwrap();
    assert_eq!((report.elements, report.transactions), (3, 1));
    let report = path.change(vec![(name("a"), vec![many(78)])], now).unwrap();
    assert_eq!((report.elements, report.transactions), (2, 1));
}

#[test]
fn connections_to_endpoints_that_are_gone_are_forgotten() {
    let (kernel, now) = (Kernel::default(), Instant::now());
    let mut path = path(&kernel);
    let flow = |port: u16, answers_from: [u8; 4], answering_port| Flow {
        source: [10, 244, 9, 9].into(),
        destination: [10, 96, 0, 1].into(),
        port,
        answers_from: answers_from.into(),
        answering_port,
        answers_to: [10, 244, 9, 9].into(),
        answered: false,
    };
    path.start(vec![(name("dns"), vec![sample(53, &[1, 2])]), (name("late"), vec![sample(55, &[])])], now)
        .unwrap();
    let flows = [
        flow(53, [10, 244, 0, 1], 8080),
        flow(53, [10, 244, 0, 2], 8080),
        // To nobody: there was no endpoint when it began.
        flow(55, [10, 96, 0, 1], 55),
        // To another port.
        flow(57, [10, 244, 0, 1], 8080),
    ];
    flows.into_iter().for_each(|flow| kernel.fake.add_udp_flow(Family::V4, flow));
    let changed = vec![(name("dns"), vec![sample(53, &[2, 3])]), (name("late"), vec![sample(55, &[4])])];
    assert_eq!(path.change(changed, now).unwrap().forgotten, 2);
    let mut left = Vec::new();
    kernel.clone().forget_udp(Family::V4, None, &|flow| flow.port == 57).unwrap();
    for (port, count) in [(53, 1), (55, 0)] {
        left.push((port, kernel.clone().forget_udp(Family::V4, Some(port), &|_| true).unwrap() == count));
    }
    assert_eq!(left, [(53, true), (55, true)]);
}

#[test]
fn clients_are_let_go_as_their_endpoint_goes() {
    let (kernel, now) = (Kernel::default(), Instant::now());
    let (mut netfilter, mut path) = (kernel.clone(), path(&kernel));
    let sticky =
        |backends: &[u8]| Frontend { affinity: std::num::NonZeroU32::new(10_800), ..sample(80, backends) };
    path.start(vec![(name("a"), vec![sticky(&[1, 2])]), (name("b"), vec![sample(82, &[1])])], now).unwrap();
    let entry = |client: u8, endpoint: u8| {
        let key = [[10, 244, 9, client], [10, 96, 0, 1], [6, 0, 0, 0], [0, 80, 0, 0]].concat();
        let value = Value::Data(vec![10, 244, 0, endpoint, 31, 144, 0, 0]);
        Element::of_map(AFFINITY, key, value, String::new())
    };
    let (gone, stays) = (entry(1, 1), entry(2, 2));
    let remember = [Change::Add(&gone), Change::Add(&stays)];
    netfilter.change(TABLE, &remember, None).unwrap();
    assert_eq!(path.change(vec![(name("a"), vec![sticky(&[2, 3])])], now).unwrap().forgotten, 1);
    assert_eq!(netfilter.elements(TABLE, AFFINITY).unwrap(), [stays]);
    // A packet that was under way writes it once more.
    netfilter.change(TABLE, &[Change::Add(&gone)], None).unwrap();
    assert_eq!(path.turn(path.due().unwrap()).unwrap().forgotten, 1);
    // Nobody stays any more.
    assert_eq!(path.change(vec![(name("a"), vec![sample(80, &[2, 3])])], now).unwrap().forgotten, 1);
    assert!(now + Duration::from_secs(1) > path.due().unwrap());
}
