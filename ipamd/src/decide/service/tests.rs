//! The service against plain expectations, and against a naive reference under random sequences.

use super::*;
use crate::decide::compact::Former;
use ferrule_wire::messages::{AddressRange, Pod};
use proptest::prelude::*;

const COOLDOWN: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn spec(name: &str, subnets: &[&str]) -> PoolSpec {
    let subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
    PoolSpec { name: name.into(), subnets, ..PoolSpec::default() }
}

fn settings(pools: Vec<PoolSpec>) -> Settings {
    Settings {
        pools,
        cooldown: COOLDOWN,
        mtu: Some(1450),
        why_no_pool: "wait for node.json".into(),
        held: BTreeMap::new(),
    }
}

fn service(subnets: &[&str]) -> Service {
    Service::new(settings(vec![spec("node", subnets)]), Holdings::default())
}

fn attachment(container_id: &str) -> Attachment {
    Attachment { network: "pods".into(), container_id: container_id.into(), ifname: "eth0".into() }
}

fn call(container_id: &str) -> Allocate {
    Allocate::new(attachment(container_id))
}

fn do_(service: &mut Service, request: ServiceRequest, now: u64) -> (Result<Answer, CallError>, Vec<Change>) {
    let mut changes = Vec::new();
    let answer = service.handle(request, at(now), &mut changes);
    (answer, changes)
}

fn allocate(service: &mut Service, container_id: &str, now: u64) -> Result<AllocateReply, CallError> {
    match do_(service, ServiceRequest::Allocate(call(container_id)), now).0? {
        Answer::Allocate(reply) => Ok(reply),
        other => panic!("{other:?}"),
    }
}

fn release(service: &mut Service, container_id: &str, now: u64) -> Vec<IpNetwork> {
    match do_(service, ServiceRequest::Release(attachment(container_id)), now).0 {
        Ok(Answer::Release(reply)) => reply.released,
        other => panic!("{other:?}"),
    }
}

fn nets(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_lease_is_given_once_and_repeated_as_it_is() {
    let mut service = service(&["fd00::/64", "10.0.0.0/24"]);
    let pod = Some(Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() });
    let first = Allocate { pod: pod.clone(), netns: Some("/run/netns/a".into()), ..call("a") };
    let (answer, changes) = do_(&mut service, ServiceRequest::Allocate(first), 7);
    let Ok(Answer::Allocate(given)) = answer else { panic!("{answer:?}") };
    assert_eq!(given.lease.addresses, nets(&["10.0.0.1/32", "fd00::1/128"]));
    assert_eq!((given.existing, given.mtu, given.lease.given_at_boottime_ms), (false, Some(1450), 7000));
    assert_eq!((&given.lease.pod, given.lease.netns.as_deref()), (&pod, Some("/run/netns/a")));
    assert_eq!(changes, [Change::Given(Packed::new(&given.lease))]);

    let (answer, changes) = do_(&mut service, ServiceRequest::Allocate(call("a")), 9);
    assert_eq!(answer, Ok(Answer::Allocate(AllocateReply { existing: true, ..given })));
    assert_eq!(changes, [], "nothing to store");
}

#[test]
fn network_container_and_interface_together_are_the_key() {
    let mut service = service(&["10.0.0.0/24"]);
    let mut keys = vec![call("a"), call("b"), call("a"), call("a")];
    keys[2].attachment.network = "other".into();
    keys[3].attachment.ifname = "eth1".into();
    for key in keys {
        do_(&mut service, ServiceRequest::Allocate(key), 0).0.unwrap();
    }
    assert_eq!(service.len(), 4);
}

#[test]
fn release_frees_rests_and_is_idempotent() {
    let mut service = service(&["10.0.0.0/31"]);
    let lease = allocate(&mut service, "a", 0).unwrap().lease;
    let (answer, changes) = do_(&mut service, ServiceRequest::Release(attachment("a")), 5);
    assert_eq!(answer, Ok(Answer::Release(ReleaseReply { released: nets(&["10.0.0.0/32"]) })));
    let address = lease.addresses[0].ip();
    let of = Some(Packed::new(&Former { attachment: lease.attachment.clone(), pod: lease.pod.clone() }));
    assert_eq!(
        changes,
        [Change::Ended(Packed::new(&lease)), Change::Released(Released { address, at: at(5), of })]
    );
    let (answer, changes) = do_(&mut service, ServiceRequest::Release(attachment("a")), 6);
    assert_eq!(answer, Ok(Answer::Release(ReleaseReply { released: Vec::new() })));
    assert_eq!(changes, []);

    assert_eq!(allocate(&mut service, "b", 7).unwrap().lease.addresses, nets(&["10.0.0.1/32"]));
    let (answer, changes) = do_(&mut service, ServiceRequest::Allocate(call("c")), 8);
    let Ok(Answer::Allocate(reply)) = answer else { panic!("{answer:?}") };
    assert_eq!(reply.lease.addresses, nets(&["10.0.0.0/32"]), "only a resting one is left");
    assert_eq!(changes, [Change::Forgotten(address), Change::Given(Packed::new(&reply.lease))]);
}

#[test]
fn exhaustion_names_pool_family_and_counts() {
    let mut service = service(&["10.0.0.0/30", "fd00::/64"]);
    assert_eq!(
        do_(&mut service, ServiceRequest::Status(Status::default()), 0).0,
        Ok(Answer::Status(StatusReply {}))
    );
    allocate(&mut service, "a", 0).unwrap();
    allocate(&mut service, "b", 0).unwrap();
    let error = CallError::PoolExhausted {
        pool: "node".into(),
        family: Family::Ipv4,
        in_use: 2,
        resting: 0,
        reserved: "2".into(),
        gone: 0,
    };
    let (answer, changes) = do_(&mut service, ServiceRequest::Allocate(call("c")), 0);
    assert_eq!((answer, changes), (Err(error.clone()), Vec::new()));
    assert_eq!(do_(&mut service, ServiceRequest::Status(Status::default()), 0).0, Err(error));
    assert!(allocate(&mut service, "a", 0).unwrap().existing, "who has a lease keeps getting it");
}

#[test]
fn pools_are_chosen_by_name() {
    let pools = vec![spec("blue", &["10.1.0.0/24"]), spec("green", &["10.2.0.0/24"])];
    let mut service = Service::new(settings(pools), Holdings::default());
    assert_eq!(allocate(&mut service, "a", 0).unwrap().lease.pool, "blue");
    let green = Allocate { pool: Some("green".into()), ..call("b") };
    let Ok(Answer::Allocate(reply)) = do_(&mut service, ServiceRequest::Allocate(green), 0).0 else {
        panic!()
    };
    assert_eq!((reply.lease.pool.as_str(), &reply.lease.addresses), ("green", &nets(&["10.2.0.1/32"])));
    let red = Allocate { pool: Some("red".into()), ..call("c") };
    let error = do_(&mut service, ServiceRequest::Allocate(red), 0).0.unwrap_err();
    assert!(error.to_string().contains("\"red\"") && error.to_string().contains("blue, green"), "{error}");
}

#[test]
fn a_requested_address_finds_its_pool_and_says_who_has_it() {
    let pools = vec![spec("blue", &["10.1.0.0/24"]), spec("green", &["10.2.0.0/24"])];
    let mut service = Service::new(settings(pools), Holdings::default());
    let ask = |service: &mut Service, id: &str, address: &str, pool: Option<&str>| {
        let requested = vec![address.parse().unwrap()];
        let call = Allocate { requested, pool: pool.map(str::to_owned), ..call(id) };
        do_(service, ServiceRequest::Allocate(call), 0)
    };
    let (answer, _) = ask(&mut service, "a", "10.2.0.7", None);
    let Ok(Answer::Allocate(reply)) = answer else { panic!("{answer:?}") };
    assert_eq!((reply.lease.pool.as_str(), &reply.lease.addresses), ("green", &nets(&["10.2.0.7/32"])));
    let (again, changes) = ask(&mut service, "a", "10.2.0.7", None);
    assert!(matches!(again, Ok(Answer::Allocate(reply)) if reply.existing) && changes.is_empty());

    let refused = |answer: (Result<Answer, CallError>, Vec<Change>)| {
        assert_eq!(answer.1, [], "an error changes nothing");
        answer.0.unwrap_err()
    };
    let other = refused(ask(&mut service, "a", "10.2.0.8", None));
    assert!(matches!(&other, CallError::LeaseMismatch { claimed, .. } if *claimed == nets(&["10.2.0.8/32"])));
    let in_use = refused(ask(&mut service, "b", "10.2.0.7", None));
    let address = "10.2.0.7".parse().unwrap();
    assert_eq!(in_use, CallError::AddressInUse { address, attachment: attachment("a") });
    for (address, pool) in [("10.2.0.9", Some("blue")), ("10.3.0.1", None)] {
        let stray = refused(ask(&mut service, "b", address, pool));
        assert!(
            matches!(&stray, CallError::InvalidArgument { field, .. } if field == "requested"),
            "{stray}"
        );
    }
    let twice = Allocate { requested: vec![address, address], ..call("b") };
    assert!(do_(&mut service, ServiceRequest::Allocate(twice), 0).0.is_err());
}

#[test]
fn requested_ranges_are_checked_and_narrow() {
    let mut service = service(&["10.1.0.0/24"]);
    let mut ask = |first: &str, last: &str| {
        let ranges = vec![AddressRange { first: first.parse().unwrap(), last: last.parse().unwrap() }];
        do_(&mut service, ServiceRequest::Allocate(Allocate { ranges, ..call("a") }), 0).0
    };
    for (first, last) in [("10.1.0.9", "10.1.0.8"), ("10.1.0.9", "fd00::1"), ("10.9.0.1", "10.9.0.2")] {
        let Err(CallError::InvalidArgument { field, .. }) = ask(first, last) else {
            panic!("{first}-{last}")
        };
        assert_eq!(field, "ranges");
    }
    let Ok(Answer::Allocate(reply)) = ask("10.1.0.8", "10.1.0.9") else { panic!() };
    assert_eq!(reply.lease.addresses, nets(&["10.1.0.8/32"]));
}

#[test]
fn status_is_of_the_pool_that_is_asked_for() {
    let pools = vec![spec("one", &["10.1.0.0/32"]), spec("two", &["10.2.0.0/32"])];
    let mut service = Service::new(settings(pools), Holdings::default());
    allocate(&mut service, "a", 0).unwrap();
    let mut status = |pool: Option<&str>| {
        do_(&mut service, ServiceRequest::Status(Status { pool: pool.map(str::to_owned) }), 0).0.map(drop)
    };
    assert!(matches!(status(None), Err(CallError::PoolExhausted { in_use: 1, .. })));
    assert_eq!(status(Some("two")), Ok(()));
    assert!(matches!(status(Some("three")), Err(CallError::NoPool { .. })));
}

#[test]
fn what_fills_a_pool_is_told_apart_with_the_remedy() {
    let mut full = service(&["10.1.0.0/30"]);
    for id in ["a", "b"] {
        allocate(&mut full, id, 0).unwrap();
    }
    let text = allocate(&mut full, "c", 0).unwrap_err().to_string();
    assert!(text.contains("2 in use, 0 resting, 2 reserved") && text.contains("add a subnet"), "{text}");
    release(&mut full, "a", 1);
    assert_eq!(
        allocate(&mut full, "c", 2).unwrap().lease.addresses,
        nets(&["10.1.0.1/32"]),
        "rather than failing"
    );

    let reserved = PoolSpec { reserved: nets(&["10.1.0.0/30"]), ..spec("node", &["10.1.0.0/30"]) };
    let mut empty = Service::new(settings(vec![reserved]), Holdings::default());
    let text = allocate(&mut empty, "a", 0).unwrap_err().to_string();
    assert!(
        text.contains("0 in use, 0 resting, 4 reserved") && text.contains("take addresses out"),
        "{text}"
    );
    let status = do_(&mut empty, ServiceRequest::Status(Status::default()), 0).0.unwrap_err();
    assert_eq!(status.to_string(), text);
}

#[test]
fn a_withdrawn_pool_is_shown_until_its_leases_are_gone() {
    let mut service = service(&["10.1.0.0/24"]);
    allocate(&mut service, "a", 0).unwrap();
    service.reconfigure(settings(vec![spec("other", &["10.2.0.0/24"])]));
    let pools = |service: &mut Service| match do_(service, ServiceRequest::Pools, 0).0 {
        Ok(Answer::Pools(reply)) => {
            reply.pools.into_iter().map(|pool| (pool.name, pool.draining, pool.size)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let other = ("other".to_owned(), 0, "256".to_owned());
    assert_eq!(pools(&mut service), [other.clone(), ("node".to_owned(), 1, "0".to_owned())]);
    release(&mut service, "a", 1);
    assert_eq!(pools(&mut service), [other]);
}

#[test]
fn without_a_pool_the_reason_is_given() {
    let mut service = Service::new(settings(Vec::new()), Holdings::default());
    let error = CallError::NoPool { pool: None, reason: "wait for node.json".into() };
    assert_eq!(allocate(&mut service, "a", 0), Err(error.clone()));
    assert_eq!(do_(&mut service, ServiceRequest::Status(Status::default()), 0).0, Err(error));
    assert_eq!(release(&mut service, "a", 0), []);
}

#[test]
fn check_compares_addresses_in_any_order() {
    let mut service = service(&["10.0.0.0/24", "fd00::/64"]);
    allocate(&mut service, "a", 0).unwrap();
    let mut ask = |container_id: &str, addresses: &[&str]| {
        let check = Check { attachment: attachment(container_id), addresses: nets(addresses) };
        do_(&mut service, ServiceRequest::Check(check), 0).0
    };
    assert_eq!(ask("a", &["fd00::1/128", "10.0.0.1/32"]), Ok(Answer::Check(CheckReply {})));
    assert_eq!(ask("b", &[]), Err(CallError::LeaseNotFound { attachment: attachment("b") }));
    for wrong in [&["10.0.0.1/32"][..], &[], &["10.0.0.2/32", "fd00::1/128"]] {
        let Err(CallError::LeaseMismatch { claimed, .. }) = ask("a", wrong) else { panic!("{wrong:?}") };
        assert_eq!(claimed, nets(wrong));
    }
}

#[test]
fn collect_releases_what_is_not_named_in_its_network_only() {
    let mut service = service(&["10.0.0.0/16"]);
    let count = PAGE + 10;
    for index in 0..count {
        allocate(&mut service, &index.to_string(), 0).unwrap();
    }
    let mut foreign = call("0");
    foreign.attachment.network = "other".into();
    do_(&mut service, ServiceRequest::Allocate(foreign), 0).0.unwrap();
    let collect = Collect { network: "pods".into(), valid: vec![attachment("3"), attachment("nobody")] };
    let mut collected = Vec::new();
    loop {
        let (answer, changes) = do_(&mut service, ServiceRequest::Collect(collect.clone()), 1);
        let Ok(Answer::Collect(reply)) = answer else { panic!("{answer:?}") };
        assert_eq!(changes.len(), 2 * reply.released.len());
        if reply.released.is_empty() {
            break;
        }
        collected.extend(reply.released);
    }
    assert_eq!((collected.len(), service.len()), (count - 1, 2));
}

#[test]
fn leases_are_listed_in_pages() {
    let mut service = service(&["10.0.0.0/16"]);
    for index in 0..PAGE * 2 + 1 {
        allocate(&mut service, &format!("{index:04}"), 0).unwrap();
    }
    let (mut after, mut seen, mut pages) = (None, Vec::new(), 0);
    loop {
        let Ok(Answer::Leases(page)) = do_(&mut service, ServiceRequest::Leases { after }, 0).0 else {
            panic!()
        };
        pages += 1;
        let Some(last) = page.leases.last() else { break };
        after = Some(last.attachment.clone());
        seen.extend(page.leases.into_iter().map(|lease| lease.attachment.container_id));
    }
    assert_eq!(pages, 4);
    assert_eq!(seen, (0..PAGE * 2 + 1).map(|index| format!("{index:04}")).collect::<Vec<_>>());
}

#[test]
fn arguments_that_cannot_be_served_are_refused_by_name() {
    let mut service = service(&["10.0.0.0/24"]);
    let pod = |name: String| Some(Pod { namespace: "n".into(), name, uid: String::new() });
    let mut wrong = vec![
        ("attachment.container_id", call("")),
        ("attachment.container_id", call(&"x".repeat(256))),
        ("attachment.container_id", call("a\nb")),
        ("attachment.network", call("a")),
        ("attachment.ifname", call("a")),
        ("pool", Allocate { pool: Some(String::new()), ..call("a") }),
        ("netns", Allocate { netns: Some("/".repeat(4096)), ..call("a") }),
        ("pod.name", Allocate { pod: pod("\u{1b}[31m".into()), ..call("a") }),
    ];
    wrong[3].1.attachment.network = String::new();
    wrong[4].1.attachment.ifname = "an-interface-too-long".into();
    for (expected, call) in wrong {
        let (answer, changes) = do_(&mut service, ServiceRequest::Allocate(call), 0);
        let Err(CallError::InvalidArgument { field, .. }) = &answer else { panic!("{expected}: {answer:?}") };
        assert_eq!((field.as_str(), changes), (expected, Vec::new()));
    }
}

#[test]
fn the_largest_page_fits_in_a_message() {
    let long = "\"".repeat(255);
    let mut lease_call = call(&long);
    lease_call.attachment =
        Attachment { network: long.clone(), container_id: long.clone(), ifname: "\"".repeat(15) };
    lease_call.netns = Some("\"".repeat(4095));
    lease_call.pod = Some(Pod { namespace: long.clone(), name: long.clone(), uid: long });
    let mut service = service(&["10.0.0.0/24", "fd00::/64"]);
    let Ok(Answer::Allocate(reply)) = do_(&mut service, ServiceRequest::Allocate(lease_call), 0).0 else {
        panic!()
    };
    let page = CollectReply { released: vec![reply.lease; PAGE] };
    ferrule_wire::encode(&ferrule_wire::Reply::success(page, true)).unwrap();
}

#[test]
fn added_subnets_are_used_and_withdrawn_ones_drain() {
    let mut service = service(&["10.1.0.0/31"]);
    allocate(&mut service, "a", 0).unwrap();
    allocate(&mut service, "b", 0).unwrap();
    assert!(allocate(&mut service, "c", 0).is_err());
    release(&mut service, "b", 1);

    let other = settings(vec![spec("node", &["10.2.0.0/31"])]);
    service.reconfigure(other);
    assert_eq!(service.forget_rested(at(2)), [], "10.1.0.1 still rests");
    assert_eq!(allocate(&mut service, "c", 2).unwrap().lease.addresses, nets(&["10.2.0.0/32"]));
    assert!(allocate(&mut service, "a", 2).unwrap().existing);
    let Ok(Answer::Pools(reply)) = do_(&mut service, ServiceRequest::Pools, 2).0 else { panic!() };
    assert_eq!((reply.pools[0].in_use, reply.pools[0].draining, reply.pools[0].free.as_str()), (1, 1, "1"));

    release(&mut service, "a", 10);
    let both = settings(vec![spec("node", &["10.2.0.0/31", "10.1.0.0/31"])]);
    service.reconfigure(both);
    let order: Vec<_> = ["d", "e", "f"]
        .map(|id| allocate(&mut service, id, 11).unwrap().lease.addresses[0].to_string())
        .into();
    assert_eq!(order, ["10.2.0.1/32", "10.1.0.1/32", "10.1.0.0/32"], "the cooldown was remembered");
}

#[test]
fn rested_addresses_of_withdrawn_subnets_are_forgotten() {
    let mut service = service(&["10.1.0.0/31"]);
    allocate(&mut service, "a", 0).unwrap();
    release(&mut service, "a", 0);
    service.reconfigure(settings(Vec::new()));
    assert_eq!(service.forget_rested(at(29)), []);
    assert_eq!(service.forget_rested(at(30)), [Change::Forgotten("10.1.0.0".parse().unwrap())]);
    assert_eq!(service.forget_rested(at(31)), []);
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(u8),
    Release(u8),
    Collect(Vec<u8>),
    Wait(u64),
    Restart,
    Configure(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..12).prop_map(Step::Allocate),
        4 => (0u8..12).prop_map(Step::Release),
        1 => prop::collection::vec(0u8..12, 0..6).prop_map(Step::Collect),
        2 => (0u64..40).prop_map(Step::Wait),
        1 => Just(Step::Restart),
        1 => (0u8..8).prop_map(Step::Configure),
    ];
    prop::collection::vec(step, 0..120)
}

/// What a store holds.
#[derive(Clone, Default)]
struct Held {
    leases: Vec<Lease>,
    released: Vec<Released>,
}

impl Held {
    fn holdings(&self) -> Holdings {
        let leases = self.leases.iter().map(Packed::new).collect();
        Holdings { leases, released: self.released.clone() }
    }
}

/// What a store would hold after these changes.
fn apply(held: &mut Held, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Given(lease) => held.leases.push(lease.open()),
            Change::Ended(lease) => held.leases.retain(|held| held.attachment != lease.attachment()),
            Change::Released(released) => held.released.push(released),
            Change::Forgotten(address) => held.released.retain(|released| released.address != address),
        }
    }
}

/// The promises, checked on what an outside observer sees: the answers and the store.
fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let subnets =
        [["10.1.0.0/30", "fd01::/126"], ["10.2.0.0/31", "fd02::/127"], ["10.3.0.0/29", "fd03::/125"]];
    let configure = |mask: u8| {
        let chosen = subnets.iter().enumerate().filter(|(index, _)| mask & (1 << index) != 0);
        let flat: Vec<&str> = chosen.flat_map(|(_, pair)| pair.iter().copied()).collect();
        settings(if flat.is_empty() { Vec::new() } else { vec![spec("node", &flat)] })
    };
    let (mut mask, mut now, mut held) = (5, 100, Held::default());
    let mut service = Service::new(configure(mask), Holdings::default());
    for step in steps {
        let before = held.clone();
        let mut changes = Vec::new();
        match step {
            Step::Wait(seconds) => now += seconds,
            Step::Restart => service = Service::new(configure(mask), held.holdings()),
            Step::Configure(other) => {
                mask = other;
                service.reconfigure(configure(mask));
                changes = service.forget_rested(at(now));
            }
            Step::Release(id) => {
                let had = held.leases.iter().find(|lease| lease.attachment == attachment(&id.to_string()));
                let expected = had.map(|lease| lease.addresses.clone()).unwrap_or_default();
                let answer;
                (answer, changes) =
                    do_(&mut service, ServiceRequest::Release(attachment(&id.to_string())), now);
                prop_assert_eq!(answer, Ok(Answer::Release(ReleaseReply { released: expected })));
            }
            Step::Collect(ids) => {
                let valid: Vec<_> = ids.iter().map(|id| attachment(&id.to_string())).collect();
                let gone = held.leases.iter().filter(|lease| !valid.contains(&lease.attachment)).count();
                let collect = Collect { network: "pods".into(), valid };
                let answer;
                (answer, changes) = do_(&mut service, ServiceRequest::Collect(collect), now);
                let Ok(Answer::Collect(reply)) = answer else { panic!("{answer:?}") };
                prop_assert_eq!(reply.released.len(), gone);
            }
            Step::Allocate(id) => {
                let answer;
                (answer, changes) = do_(&mut service, ServiceRequest::Allocate(call(&id.to_string())), now);
                judge(&before, &answer, &configure(mask), now)?;
            }
        }
        apply(&mut held, changes);
        let mut addresses: Vec<_> = held.leases.iter().flat_map(|lease| &lease.addresses).collect();
        let all = addresses.len();
        addresses.sort();
        addresses.dedup();
        prop_assert_eq!(addresses.len(), all, "an address has two leases");
        let mut listed = Vec::new();
        if let Answer::Leases(page) =
            service.handle(ServiceRequest::Leases { after: None }, at(now), &mut listed).unwrap()
        {
            let mut stored = held.leases.clone();
            stored.sort_by(|a, b| a.attachment.cmp(&b.attachment));
            prop_assert_eq!(page.leases, stored, "the service and its store disagree");
        }
    }
    Ok(())
}

/// Whether an Allocate was answered rightly, given what was stored before it.
fn judge(
    before: &Held,
    answer: &Result<Answer, CallError>,
    settings: &Settings,
    now: u64,
) -> Result<(), TestCaseError> {
    let subnets = settings.pools.first().map(|pool| pool.subnets.clone()).unwrap_or_default();
    let leased: HashSet<IpAddr> =
        before.leases.iter().flat_map(|l| &l.addresses).map(IpNetwork::ip).collect();
    let givable = |family: Family| {
        let hosts = subnets.iter().filter(move |s| Family::of(s) == family).flat_map(|subnet| {
            let small = subnet.size().bits_left() < 2;
            subnet.iter().filter(move |&ip| {
                let broadcast = subnet.is_ipv4() && ip == subnet.broadcast();
                small || (ip != subnet.network() && !broadcast)
            })
        });
        hosts.filter(|ip| !leased.contains(ip)).collect::<Vec<_>>()
    };
    let reply = match answer {
        Ok(Answer::Allocate(reply)) => reply,
        Err(CallError::NoPool { .. }) => {
            prop_assert!(subnets.is_empty());
            return Ok(());
        }
        Err(CallError::PoolExhausted { family, .. }) => {
            prop_assert!(givable(*family).is_empty(), "exhausted, but {:?} are left", givable(*family));
            return Ok(());
        }
        other => panic!("{other:?}"),
    };
    if reply.existing {
        prop_assert!(before.leases.contains(&reply.lease));
        return Ok(());
    }
    prop_assert_eq!(reply.lease.addresses.len(), 2);
    let resting = |ip: &IpAddr| before.released.iter().any(|r| r.address == *ip && r.at + COOLDOWN > at(now));
    for address in reply.lease.addresses.iter().map(IpNetwork::ip) {
        let choice = givable(if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 });
        prop_assert!(choice.contains(&address));
        prop_assert!(!resting(&address) || choice.iter().all(resting), "{address} rests, others do not");
    }
    Ok(())
}

trait BitsLeft {
    fn bits_left(&self) -> u8;
}

impl BitsLeft for ipnetwork::NetworkSize {
    /// Host bits of a network of this size.
    fn bits_left(&self) -> u8 {
        let size = match self {
            Self::V4(size) => u128::from(*size),
            Self::V6(size) => *size,
        };
        u8::try_from(size.trailing_zeros()).unwrap()
    }
}

proptest! {
    #[test]
    fn no_sequence_breaks_a_promise(steps in steps()) {
        run(steps)?;
    }
}
