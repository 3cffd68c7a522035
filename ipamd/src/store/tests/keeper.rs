//! The keeper and the writer, when the one does not come on.

use super::*;

/// On a busy machine the keeper may not come to its work for seconds. No commit waits for it, nothing that the journal
/// does not have is written over meanwhile, and the file is cut down again.
#[test]
fn no_commit_waits_for_the_keeper_and_a_kill_meanwhile_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copied) = (dir.path().join("ipam"), dir.path().join("copy"));
    let mut store = SledStore::new(&path);
    store.load().unwrap();
    let size = || std::fs::metadata(SledStore::commits(&path)).unwrap().len();
    let (before, mut given, mut number) = (size(), BTreeMap::new(), 0_u32);
    let mut give_on = |store: &mut SledStore, given: &mut BTreeMap<String, Lease>, many: u32| {
        // Commits of some blocks each, of which the journal is told little: some dozens fill a half.
        for _ in 0..many {
            let id = format!("c{}", number % 150);
            let [_, _, high, low] = number.to_be_bytes();
            let lease = lease(&id, &format!("10.0.{high}.{low}/32"));
            commit(store, vec![Change::Given(Packed::new(&lease)); 400]);
            given.insert(id, lease);
            number += 1;
        }
    };
    let is_whole = |given: &BTreeMap<String, Lease>| {
        copy(&path, &copied);
        let found = SledStore::new(&copied).load().unwrap().holdings.leases;
        let found: BTreeMap<_, _> = found
            .iter()
            .map(Packed::open)
            .map(|lease| (lease.attachment.container_id.clone(), lease))
            .collect();
        assert!(found == *given, "{} of {}", found.len(), given.len());
    };
    for _ in 0..2 {
        // The keeper begins with a half and does not come on; two more halves and a little are written.
        let gate = store.gate();
        let held = gate.lock().unwrap();
        give_on(&mut store, &mut given, 200);
        assert!(size() > before, "they are behind both halves");
        is_whole(&given);
        drop(held);
        store.settle();
        give_on(&mut store, &mut given, 5);
        is_whole(&given);
        store.settle();
        give_on(&mut store, &mut given, 70);
        store.settle();
        give_on(&mut store, &mut given, 70);
        is_whole(&given);
    }
    store.settle();
    for _ in 0..5 {
        give_on(&mut store, &mut given, 30);
        store.settle();
    }
    assert_eq!(size(), before, "cut down again");
    assert_eq!(store.load().unwrap().holdings.leases.len(), given.len());
}
