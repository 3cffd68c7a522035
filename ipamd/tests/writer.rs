//! The writer: one commit for many calls, nothing acknowledged that is not stored, queued releases in their place.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use ferrule_wire::{
    Allocate, AllocateReply, Attachment, CallError, ReleaseReply, Status, find_queued, make_queue,
    queue_release, queued,
};
use ipamd::decide::holdings::{Batch, Contents};
use ipamd::decide::pool::PoolSpec;
use ipamd::decide::service::{Answer, ServiceRequest, Settings};
use ipamd::look::clock::Clock;
use ipamd::serve::writer::{Handle, Writer};
use ipamd::store::{Faults, MemoryStore, SledStore, Store, StoreError, Waited};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

const COOLDOWN: Duration = Duration::from_secs(30);

/// A clock that tests turn.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let hand = self.clone();
        Arc::new(move || Duration::from_secs(hand.0.load(Ordering::SeqCst)))
    }
}

/// A store whose commits wait for a word each.
struct Gate {
    store: MemoryStore,
    entered: mpsc::Sender<()>,
    open: mpsc::Receiver<()>,
}

impl Store for Gate {
    fn load(&mut self) -> Result<Contents, StoreError> {
        self.store.load()
    }

    fn commit(&mut self, batch: &Batch) -> Result<Waited, StoreError> {
        // Nobody listens for the later ones.
        let _ = self.entered.send(());
        self.open.recv().unwrap();
        self.store.commit(batch)
    }
}

fn settings(subnet: &str) -> Settings {
    let pool =
        PoolSpec { name: "node".into(), subnets: vec![subnet.parse().unwrap()], ..PoolSpec::default() };
    Settings {
        pools: vec![pool],
        cooldown: COOLDOWN,
        mtu: None,
        why_no_pool: String::new(),
        held: std::collections::BTreeMap::new(),
    }
}

fn open(store: Box<dyn Store>, subnet: &str, dir: &Path, hand: &Hand) -> (Handle, JoinHandle<()>) {
    let writer = Writer::open(store, settings(subnet), dir.to_owned(), "boot".into(), hand.clock()).unwrap();
    writer.start().unwrap()
}

fn attachment(container_id: &str) -> Attachment {
    Attachment { network: "pods".into(), container_id: container_id.into(), ifname: "eth0".into() }
}

async fn allocate(handle: &Handle, container_id: &str) -> Result<AllocateReply, CallError> {
    allocate_within(handle, container_id, None).await
}

async fn allocate_within(
    handle: &Handle,
    container_id: &str,
    patience: Option<Duration>,
) -> Result<AllocateReply, CallError> {
    let call = Allocate::new(attachment(container_id));
    match handle.ask(ServiceRequest::Allocate(call), patience).await? {
        Answer::Allocate(reply) => Ok(reply),
        other => panic!("{other:?}"),
    }
}

async fn address(handle: &Handle, container_id: &str) -> String {
    allocate(handle, container_id).await.unwrap().lease.addresses[0].to_string()
}

async fn release(handle: &Handle, container_id: &str) -> Result<ReleaseReply, CallError> {
    match handle.ask(ServiceRequest::Release(attachment(container_id)), None).await? {
        Answer::Release(reply) => Ok(reply),
        other => panic!("{other:?}"),
    }
}

async fn leases(handle: &Handle) -> Vec<String> {
    match handle.ask(ServiceRequest::Leases { after: None }, None).await.unwrap() {
        Answer::Leases(page) => page.leases.into_iter().map(|lease| lease.attachment.container_id).collect(),
        other => panic!("{other:?}"),
    }
}

fn is_store_failed<T>(result: &Result<T, CallError>) -> bool {
    matches!(result, Err(CallError::StoreFailed { .. }))
}

type Asked = Pin<Box<dyn Future<Output = Result<AllocateReply, CallError>>>>;

/// A call that is with the writer when this returns.
fn ask(handle: &Handle, container_id: String, patience: Option<Duration>) -> Asked {
    let handle = handle.clone();
    let mut call: Asked = Box::pin(async move { allocate_within(&handle, &container_id, patience).await });
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    call
}

/// Twenty calls that come while the writer commits another.
struct Rush {
    handle: Handle,
    faults: Faults,
    rush: Vec<Asked>,
    first: Asked,
    open: mpsc::Sender<()>,
    hand: Hand,
    dir: tempfile::TempDir,
}

fn rush(patience: Option<Duration>) -> Rush {
    let dir = tempfile::tempdir().unwrap();
    let (faults, hand) = (Faults::default(), Hand::default());
    let (entered, has_entered) = mpsc::channel();
    let (open_gate, gate) = mpsc::channel();
    open_gate.send(()).unwrap();
    let store = Gate { store: MemoryStore::new(faults.clone()), entered, open: gate };
    let (handle, _thread) = open(Box::new(store), "10.0.0.0/24", dir.path(), &hand);
    has_entered.recv().unwrap();
    let first = ask(&handle, "first".to_owned(), None);
    has_entered.recv().unwrap();
    let rush = (0..20).map(|index| ask(&handle, format!("{index:02}"), patience)).collect();
    Rush { handle, faults, rush, first, open: open_gate, hand, dir }
}

#[tokio::test]
async fn calls_that_wait_together_are_committed_together() {
    let rush = rush(None);
    assert_eq!(rush.faults.commits(), 1, "that of the start");
    rush.open.send(()).unwrap();
    rush.open.send(()).unwrap();
    assert!(rush.first.await.is_ok());
    let mut addresses = Vec::new();
    for call in rush.rush {
        addresses.push(call.await.unwrap().lease.addresses);
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 20);
    assert_eq!(rush.faults.commits(), 3, "the start, the first call, all others");
}

#[tokio::test]
async fn a_failed_commit_fails_its_whole_batch_and_nothing_else() {
    let rush = rush(None);
    rush.open.send(()).unwrap();
    assert!(rush.first.await.is_ok());
    rush.faults.fail_commits(1);
    rush.open.send(()).unwrap();
    for call in rush.rush {
        let result = call.await;
        assert!(is_store_failed(&result), "{result:?}");
    }
    assert_eq!(leases(&rush.handle).await, ["first"]);
    rush.open.send(()).unwrap();
    assert_eq!(address(&rush.handle, "next").await, "10.0.0.2/32", "no address was lost");
}

#[tokio::test]
async fn a_call_that_waited_too_long_changes_nothing() {
    let rush = rush(Some(Duration::from_secs(5)));
    rush.hand.set(5);
    rush.open.send(()).unwrap();
    for call in rush.rush {
        assert_eq!(call.await, Err(CallError::DeadlineExceeded {}));
    }
    assert_eq!(leases(&rush.handle).await, ["first"]);
    assert_eq!(rush.faults.commits(), 2);
}

fn with_faults(dir: &Path) -> (Handle, Faults) {
    let faults = Faults::default();
    let store = Box::new(MemoryStore::new(faults.clone()));
    (open(store, "10.0.0.0/29", dir, &Hand::default()).0, faults)
}

#[tokio::test]
async fn a_batch_that_was_written_although_it_failed_is_known_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, faults) = with_faults(dir.path());
    faults.fail_commits_after_writing(1);
    assert!(is_store_failed(&allocate(&handle, "a").await));
    let again = allocate(&handle, "a").await.unwrap();
    assert!(again.existing);
    assert_eq!(address(&handle, "b").await, "10.0.0.2/32");

    faults.fail_commits_after_writing(1);
    assert!(is_store_failed(&release(&handle, "a").await));
    assert_eq!(release(&handle, "a").await.unwrap().released, []);
}

#[tokio::test]
async fn a_failed_release_leaves_the_lease() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, faults) = with_faults(dir.path());
    allocate(&handle, "a").await.unwrap();
    faults.fail_commits(1);
    assert!(is_store_failed(&release(&handle, "a").await));
    assert!(allocate(&handle, "a").await.unwrap().existing);
    assert_eq!(release(&handle, "a").await.unwrap().released.len(), 1);
}

#[tokio::test]
async fn status_tells_of_a_failing_store_until_it_works_again() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, faults) = with_faults(dir.path());
    let status = async || handle.ask(ServiceRequest::Status(Status::default()), None).await;
    assert!(status().await.is_ok());
    faults.fail_commits(2);
    assert!(is_store_failed(&allocate(&handle, "a").await));
    assert!(is_store_failed(&status().await));
    assert!(status().await.is_ok());
}

#[tokio::test]
async fn a_store_that_cannot_be_read_again_is_tried_at_each_call() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, faults) = with_faults(dir.path());
    allocate(&handle, "a").await.unwrap();
    faults.fail_commits(1);
    faults.fail_loads(2);
    assert!(is_store_failed(&allocate(&handle, "b").await));
    assert!(is_store_failed(&allocate(&handle, "a").await));
    assert!(allocate(&handle, "a").await.unwrap().existing);
}

#[tokio::test]
async fn a_queued_release_comes_first_in_the_round_that_reads_the_store_again_too() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, faults) = with_faults(dir.path());
    allocate(&handle, "a").await.unwrap();
    faults.fail_commits(1);
    faults.fail_loads(1);
    assert!(is_store_failed(&allocate(&handle, "b").await));
    queue_release(dir.path(), &attachment("a")).unwrap();
    assert!(!allocate(&handle, "a").await.unwrap().existing);
    handle.drain_queue().await;
    assert_eq!(leases(&handle).await, ["a"]);
}

#[tokio::test]
async fn a_queued_release_is_performed_before_an_allocate_of_its_attachment() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, faults) = with_faults(dir.path());
    assert_eq!(address(&handle, "a").await, "10.0.0.1/32");
    queue_release(dir.path(), &attachment("a")).unwrap();

    faults.fail_commits(1);
    assert!(is_store_failed(&allocate(&handle, "a").await));
    assert!(find_queued(dir.path(), &attachment("a")).is_some(), "it was not performed");

    let reply = allocate(&handle, "a").await.unwrap();
    assert!(!reply.existing);
    assert_eq!(reply.lease.addresses, ["10.0.0.2/32".parse().unwrap()]);
    assert_eq!(queued(dir.path()).unwrap(), [], "it must not end the new lease");
    handle.drain_queue().await;
    assert_eq!(leases(&handle).await, ["a"]);
}

#[tokio::test]
async fn a_queued_release_is_performed_once_however_often_its_round_comes_across_it() {
    let mut rush = rush(None);
    for call in rush.rush.drain(..) {
        drop(call);
    }
    queue_release(rush.dir.path(), &attachment("first")).unwrap();
    let again = [0, 1].map(|_| ask(&rush.handle, "first".to_owned(), None));
    rush.handle.drain_queue().await;
    rush.open.send(()).unwrap();
    rush.open.send(()).unwrap();
    assert_eq!(rush.first.await.unwrap().lease.addresses[0].to_string(), "10.0.0.1/32");
    let [one, two] = again;
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    assert_eq!((one.existing, two.existing), (false, true));
    assert_eq!(one.lease, two.lease);
    assert!(leases(&rush.handle).await.contains(&"first".to_owned()), "the new lease was ended");
    assert_eq!(queued(rush.dir.path()).unwrap(), []);
}

#[tokio::test]
async fn the_queue_is_drained_at_the_start_and_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("ipam");
    let hand = Hand::default();
    let start = || open(Box::new(SledStore::new(&store)), "10.0.0.0/29", dir.path(), &hand);
    let (handle, thread) = start();
    for container_id in ["a", "b", "c"] {
        allocate(&handle, container_id).await.unwrap();
    }
    drop(handle);
    thread.join().unwrap();

    queue_release(dir.path(), &attachment("a")).unwrap();
    queue_release(dir.path(), &attachment("nobody")).unwrap();
    let broken = make_queue(dir.path()).unwrap().join("00112233445566778899aabbccddeeff");
    std::fs::write(&broken, "not a release").unwrap();
    let (handle, _thread) = start();
    assert_eq!(leases(&handle).await, ["b", "c"]);
    assert_eq!(queued(dir.path()).unwrap(), []);
    assert!(broken.with_extension("broken").exists());

    queue_release(dir.path(), &attachment("b")).unwrap();
    handle.drain_queue().await;
    assert_eq!(leases(&handle).await, ["c"]);
    assert_eq!(queued(dir.path()).unwrap(), []);
}

#[tokio::test]
async fn the_cooldown_and_its_order_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("ipam");
    let hand = Hand::default();
    let start = || open(Box::new(SledStore::new(&store)), "10.0.0.0/29", dir.path(), &hand);
    let (handle, thread) = start();
    for container_id in ["a", "b", "c"] {
        allocate(&handle, container_id).await.unwrap();
    }
    for (second, container_id) in [(10, "c"), (11, "a")] {
        hand.set(second);
        release(&handle, container_id).await.unwrap();
    }
    drop(handle);
    thread.join().unwrap();

    hand.set(12);
    let (handle, _thread) = start();
    let mut order = Vec::new();
    for container_id in ["d", "e", "f", "g", "h"] {
        order.push(address(&handle, container_id).await);
    }
    // Three that nobody had, then those that rest, longest first: .3 (c), .1 (a).
    assert_eq!(order, [4, 5, 6, 3, 1].map(|host| format!("10.0.0.{host}/32")));
}

#[tokio::test]
async fn a_round_that_takes_longer_than_a_second_is_counted_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let store = Box::new(MemoryStore::new(faults.clone()));
    let (handle, _) = open(store, "10.0.0.0/24", dir.path(), &Hand::default());
    allocate(&handle, "a").await.unwrap();
    assert_eq!(handle.metrics().slow_rounds(), 0);
    faults.delay_commits(Duration::from_millis(1050));
    allocate(&handle, "b").await.unwrap();
    faults.delay_commits(Duration::ZERO);
    allocate(&handle, "c").await.unwrap();
    assert_eq!(handle.metrics().slow_rounds(), 1);
}
