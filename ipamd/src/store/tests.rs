//! What every store promises, held against both; and what the one on disk does with records it should not trust.

mod keeper;

use super::commits::Mark;
use super::journal::{Journal, Loading};
use super::record::records;
use super::*;
use crate::decide::compact::{Former, Packed};
use crate::decide::holdings::{Change, Holdings, Released};
use ferrule_wire::{Attachment, Lease, Pod};
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

fn lease(container_id: &str, address: &str) -> Lease {
    Lease {
        attachment: Attachment {
            network: "pods".into(),
            container_id: container_id.into(),
            ifname: "eth0".into(),
        },
        addresses: vec![address.parse().unwrap(), "fd00::1/128".parse().unwrap()],
        pool: "node".into(),
        pod: Some(Pod { namespace: "shop".into(), name: "web-0".into(), uid: String::new() }),
        netns: None,
        given_at_boottime_ms: 12_345,
    }
}

fn commit(store: &mut dyn Store, changes: Vec<Change>) {
    store.commit(&Batch { changes, boot_id: None }).unwrap();
}

fn contract(store: &mut dyn Store) {
    assert_eq!(store.load().unwrap(), Contents::default());
    let boot = Batch { changes: Vec::new(), boot_id: Some("this".into()) };
    store.commit(&boot).unwrap();

    let (one, two) = (lease("a", "10.0.0.1/32"), lease("b", "10.0.0.2/32"));
    commit(store, vec![Change::Given(Packed::new(&one)), Change::Given(Packed::new(&two))]);
    let address = "10.0.0.1".parse().unwrap();
    let at = Duration::from_nanos(1_234_567_890_123);
    let of = Packed::new(&Former { attachment: one.attachment.clone(), pod: one.pod.clone() });
    let released = Released { address, at, of: Some(of) };
    commit(store, vec![Change::Ended(Packed::new(&one)), Change::Released(released.clone())]);
    let expected = |leases: Vec<Lease>, released| Contents {
        boot_id: Some("this".into()),
        holdings: Holdings { leases: leases.iter().map(Packed::new).collect(), released },
    };
    assert_eq!(store.load().unwrap(), expected(vec![two.clone()], vec![released]));

    // The last word of a batch on a key counts, and removing what is not there is no error.
    let again = vec![
        Change::Forgotten(address),
        Change::Given(Packed::new(&one)),
        Change::Ended(Packed::new(&one)),
        Change::Ended(Packed::new(&two)),
        Change::Ended(Packed::new(&lease("nobody", "10.0.0.9/32"))),
        Change::Given(Packed::new(&one)),
    ];
    commit(store, again);
    assert_eq!(store.load().unwrap(), expected(vec![one], Vec::new()));
}

#[test]
fn both_stores_keep_the_contract() {
    contract(&mut MemoryStore::default());
    let dir = tempfile::tempdir().unwrap();
    contract(&mut SledStore::new(&dir.path().join("ipam")));
}

#[test]
fn the_disk_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/ipam");
    let mut store = SledStore::new(&path);
    store.load().unwrap();
    commit(&mut store, vec![Change::Given(Packed::new(&lease("a", "10.0.0.1/32")))]);
    drop(store);
    let contents = SledStore::new(&path).load().unwrap();
    assert_eq!(contents.holdings.leases, [Packed::new(&lease("a", "10.0.0.1/32"))]);
}

#[test]
fn a_store_that_was_not_read_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SledStore::new(&dir.path().join("ipam"));
    assert!(matches!(store.commit(&Batch::default()), Err(StoreError::Write(_))));
}

#[test]
fn a_failed_commit_in_memory_writes_nothing_or_all() {
    let faults = Faults::default();
    let mut store = MemoryStore::new(faults.clone());
    let batch =
        Batch { changes: vec![Change::Given(Packed::new(&lease("a", "10.0.0.1/32")))], boot_id: None };
    faults.fail_commits(1);
    assert!(store.commit(&batch).is_err());
    assert_eq!(store.load().unwrap(), Contents::default());
    faults.fail_commits_after_writing(1);
    assert!(store.commit(&batch).is_err());
    assert_eq!(store.load().unwrap().holdings.leases.len(), 1);
    faults.fail_loads(1);
    assert!(store.load().is_err());
    assert!(store.load().is_ok());
}

/// What the store on disk says to an entry that was put there behind its back.
fn with_entry(key: &[u8], value: &[u8]) -> StoreError {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipam");
    let db = sled::open(&path).unwrap();
    db.insert(key, value).unwrap();
    db.flush().unwrap();
    drop(db);
    SledStore::new(&path).load().unwrap_err()
}

#[test]
fn entries_of_a_later_version_and_damaged_ones_are_refused_by_name() {
    let later = with_entry(&7u64.to_be_bytes(), &[2, 99, 98]);
    assert!(matches!(&later, StoreError::Version { version: 2, key } if key == "entry 7"), "{later}");
    for value in [&[][..], &[1, 99], &[1, 1, 0], &[1, 5, 9, b'x']] {
        let error = with_entry(&7u64.to_be_bytes(), value);
        assert!(matches!(&error, StoreError::Damaged { key, .. } if key == "entry 7"), "{value:?}: {error}");
    }
}

/// Such as a store of a version that was never released: kept aside, and its leases are made anew from the kernel.
#[test]
fn what_is_no_journal_counts_as_damaged() {
    let error = with_entry(b"released/10.0.0.1", br#"{"version":1}"#);
    assert!(error.is_damage() && error.to_string().contains("released/10.0.0.1"), "{error}");
}

/// A commit each that gives a lease with this id and the next ones; the journal has some of them.
fn give(store: &mut dyn Store, id: &str, many: usize) {
    for number in 0..many {
        let id = format!("{id} {number}");
        commit(store, vec![Change::Given(Packed::new(&lease(&id, "10.0.0.1/32")))]);
    }
}

#[test]
fn a_missing_entry_counts_as_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipam");
    let mut store = SledStore::new(&path);
    store.load().unwrap();
    give(&mut store, "a", 300);
    drop(store);
    let db = SledStore::new(&path).open_sled().unwrap();
    db.remove(2u64.to_be_bytes()).unwrap().unwrap();
    db.flush().unwrap();
    drop(db);
    let error = SledStore::new(&path).load().unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("entry 2"), "{error}");
}

/// What is left of a history, by subject, beside the journal that tells the same.
#[derive(Clone, Default)]
struct Plain {
    leases: BTreeMap<String, Lease>,
    released: BTreeMap<IpAddr, Released>,
}

impl Plain {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Given(lease) => {
                let lease = lease.open();
                drop(self.leases.insert(lease.attachment.container_id.clone(), lease));
            }
            Change::Ended(lease) => drop(self.leases.remove(&lease.attachment().container_id)),
            Change::Released(released) => drop(self.released.insert(released.address, released.clone())),
            Change::Forgotten(address) => drop(self.released.remove(address)),
        }
    }

    fn is(&self, contents: Contents) -> bool {
        let Holdings { leases, mut released } = contents.holdings;
        let mut leases: Vec<Lease> = leases.iter().map(Packed::open).collect();
        leases.sort_by(|a, b| a.attachment.cmp(&b.attachment));
        released.sort_by_key(|released| released.address);
        leases.iter().eq(self.leases.values()) && released.iter().eq(self.released.values())
    }
}

fn change(kind: u8, subject: u16, number: u64) -> Change {
    let [high, low] = subject.to_be_bytes();
    let lease = Lease {
        given_at_boottime_ms: number,
        ..lease(&subject.to_string(), &format!("10.0.{high}.{low}/32"))
    };
    let address = lease.addresses[0].ip();
    match kind {
        0 | 1 => Change::Given(Packed::new(&lease)),
        2 => Change::Ended(Packed::new(&lease)),
        3 => Change::Released(Released { address, at: Duration::from_nanos(number), of: None }),
        _ => Change::Forgotten(address),
    }
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    const fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// Up to `most` changes, one at least.
    fn changes(&mut self, subjects: u64, most: u64, number: &mut u64) -> Vec<Change> {
        let some = 0..=self.roll(most);
        some.map(|_| {
            *number += 1;
            change(self.roll(5) as u8, self.roll(subjects) as u16, *number)
        })
        .collect()
    }
}

/// A long history with few and with many leases, much longer than what is left of it.
#[test]
fn the_journal_stays_short_and_forgets_nothing_that_counts() {
    let mut store = MemoryStore::default();
    let (mut plain, mut number) = (Plain::default(), 0_u64);
    let (mut longest, mut most_records) = (0, 0);
    let mut dice = Dice(88_172_645_463_325_252);
    for (subjects, commits, most) in [(20, 9_000, 3), (3_000, 6_000, 3), (3_000, 300, 256), (5, 6_000, 40)] {
        for _ in 0..commits {
            let changes = dice.changes(subjects, most, &mut number);
            changes.iter().for_each(|change| plain.apply(change));
            let boot_id = (dice.roll(100) == 0).then(|| "boot".to_owned());
            store.commit(&Batch { changes, boot_id }).unwrap();
            let (entries, records) = store.size();
            (longest, most_records) = (longest.max(entries), most_records.max(records));
            if dice.roll(500) == 0 {
                assert!(plain.is(store.load().unwrap()), "after {number} changes");
            }
        }
        assert!(plain.is(store.load().unwrap()), "after {number} changes");
    }
    // 8,192 and twice what counts, 3,500 on the average; an entry has several records.
    assert!((8192..8192 + 2 * 3_600 + 256).contains(&most_records), "{most_records} records");
    assert!(longest < most_records / 3, "{longest} entries");
}

/// What commits leave a journal to be told, word by word.
fn words(journal: &Journal, commits: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    journal.last_words(commits, &mut HashSet::new(), |word| words.push(word.to_vec())).unwrap();
    words
}

/// What commits say of a lease that comes and goes between two looks of the journal is but a few bytes there.
#[test]
fn the_journal_gets_the_last_word_only() {
    let mut journal = Journal::default();
    let none = |_| -> Result<Vec<u8>, StoreError> { panic!("there is nothing to be read") };
    let take = |journal: &mut Journal, changes: Vec<Change>, number| {
        let batch = Batch { changes, boot_id: None };
        let before = journal.records();
        let words = words(journal, &records(&batch)).concat();
        let writes = journal.take(&words, Mark { number, checksum: 0 }, none).unwrap();
        assert!(writes.remove.is_empty());
        journal.records() - before
    };
    let round =
        |number| (0..100).flat_map(move |subject| [change(0, subject, number), change(2, subject, 0)]);
    assert_eq!(take(&mut journal, round(1).chain(round(2)).collect(), 1), 1, "that it has these commits");
    let stays = [change(0, 7, 1), change(2, 7, 0), change(0, 7, 2), change(3, 7, 2)];
    assert_eq!(take(&mut journal, stays.to_vec(), 2), 3);
    assert_eq!(take(&mut journal, vec![change(2, 7, 0), change(4, 7, 0), change(4, 8, 0)], 3), 3);
}

#[test]
fn of_several_commits_the_last_is_heard_first() {
    let mut journal = Journal::default();
    let one = |change| records(&Batch { changes: vec![change], boot_id: None });
    let (given, ended, released) = (one(change(0, 7, 1)), one(change(2, 7, 0)), one(change(3, 7, 2)));
    let mut heard = HashSet::new();
    let mut left = Vec::new();
    for commit in [&released, &ended, &given] {
        journal.last_words(commit, &mut heard, |word| left.push(word.to_vec())).unwrap();
    }
    assert_eq!(left, [released], "the lease came and went");
    let none = |_| -> Result<Vec<u8>, StoreError> { panic!("there is nothing to be read") };
    journal.take(&given, Mark { number: 1, checksum: 0 }, none).unwrap();
    assert_eq!(words(&journal, &ended), [ended], "the journal has a beginning");
}

/// sled gets commits in steps and may lose the last of them: then they are there with those in the file, and the
/// journal goes on from whatever is there.
#[test]
fn commits_that_are_cut_off_are_there_when_given_again_and_the_journal_goes_on() {
    let mut entries: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let (mut journal, mut plain, mut number) = (Journal::default(), Plain::default(), 0);
    let mut had = Mark::default();
    let mut dice = Dice(4_101_842_887_655_102_017);
    // What is in the file: commits that the journal was given before, and those that come next.
    let (mut before, mut next) = (Vec::<(u64, Vec<u8>)>::new(), Vec::new());
    let joined = |commits: &[(u64, Vec<u8>)]| {
        commits.iter().flat_map(|(_, records)| records.clone()).collect::<Vec<_>>()
    };
    let load = |entries: &BTreeMap<u64, Vec<u8>>, commits: &[u8]| {
        let mut loading = Loading::default();
        loading.take_commit(commits).unwrap();
        entries.iter().rev().for_each(|(number, entry)| loading.take(*number, entry).unwrap());
        loading.end()
    };
    let (mut cuts, mut cut_removals, mut several) = (0, 0, 0);
    for round in 0..2400 {
        let most = if round % 50 == 0 { 400 } else { 40 };
        // Leases that stay, and then others that come and go.
        let changes = match round {
            0..100 => (0..20).map(|place| change(0, 1_000 + round * 20 + place, number)).collect(),
            _ => dice.changes(200, most, &mut number),
        };
        let batch = Batch { changes, boot_id: None };
        batch.changes.iter().for_each(|change| plain.apply(change));
        next.push((u64::from(round) + 1, records(&batch)));
        if dice.roll(3) > 0 {
            continue;
        }
        let last = Mark { number: u64::from(round) + 1, checksum: 7 };
        // In two portions, of which only the second says that these commits are there.
        let words = words(&journal, &joined(&next));
        let (first, second) = words.split_at(dice.roll(words.len() as u64 + 1) as usize);
        let (reached, mut steps) = (entries.clone(), Vec::new());
        for (words, mark) in [(first, had), (second, last)] {
            let read = |number: u64| Ok(entries.get(&number).unwrap().clone());
            let writes = journal.take(&words.concat(), mark, read).unwrap();
            several += usize::from(writes.add.len() > 1);
            cut_removals += usize::from(!writes.remove.is_empty());
            entries.extend(writes.add.iter().cloned());
            writes.remove.iter().for_each(|gone| drop(entries.remove(gone)));
            steps.extend(writes.add.into_iter().map(|(number, entry)| (number, Some(entry))));
            steps.extend(writes.remove.into_iter().map(|number| (number, None)));
        }
        let is_told = steps.iter().rposition(|(_, entry)| entry.is_some()).unwrap();
        before.append(&mut next);
        // All steps are done, or only some of them.
        let done = if dice.roll(4) == 0 { dice.roll(steps.len() as u64 + 1) as usize } else { steps.len() };
        had = last;
        if done < steps.len() {
            cuts += 1;
            entries = reached;
            for (number, entry) in steps.drain(..done) {
                match entry {
                    Some(entry) => drop(entries.insert(number, entry)),
                    None => drop(entries.remove(&number)),
                }
            }
            let (continued, contents, has) = load(&entries, &joined(&before));
            assert!(plain.is(contents), "after {done} steps of {round}");
            assert_eq!(has == last, done > is_told, "after {done} steps of {round}");
            had = has;
            next = before.extract_if(.., |(number, _)| *number > has.number).collect();
            journal = continued;
        } else if dice.roll(2) == 0 {
            before.clear();
        }
    }
    before.append(&mut next);
    assert!(plain.is(load(&entries, &joined(&before)).1));
    assert!(
        cuts > 20 && cut_removals > 20 && several > 5,
        "{cuts} cuts, {cut_removals} of them in writes that remove, and {several} writes of several entries"
    );
}

/// A store and the file of its commits, copied as they lie there.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
    std::fs::copy(SledStore::commits(from), SledStore::commits(to)).unwrap();
}

/// What lies there while the store is open is what a kill would leave: sled has a part of what was acknowledged.
#[test]
fn what_a_kill_leaves_is_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let place = |number: usize| dir.path().join(format!("{number}/ipam"));
    let mut store = SledStore::new(&place(0));
    store.load().unwrap();
    let (mut plain, mut number, mut dice) = (Plain::default(), 0, Dice(7_046_029_254_386_353_131));
    let mut lost = 0;
    for round in 1..=60 {
        for _ in 0..dice.roll(150) {
            let changes = dice.changes(500, 40, &mut number);
            changes.iter().for_each(|change| plain.apply(change));
            commit(&mut store, changes);
        }
        if round == 60 {
            // Longer than a half of the file.
            let changes: Vec<_> = (0..60_000).map(|subject| change(0, subject, 0)).collect();
            changes.iter().for_each(|change| plain.apply(change));
            commit(&mut store, changes);
            let long = std::fs::metadata(SledStore::commits(&place(round - 1))).unwrap().len();
            assert!(long > 2 << 20, "{long}");
        }
        lost += usize::from(store.settle() > 0);
        let (old, new) = (place(round - 1), place(round));
        std::fs::create_dir(new.parent().unwrap()).unwrap();
        copy(&old, &new);
        store = SledStore::new(&new);
        assert!(plain.is(store.load().unwrap()), "after {number} changes, round {round}");
        std::fs::remove_dir_all(old.parent().unwrap()).unwrap();
    }
    assert!(lost > 30, "sled itself had all in {} of 60 rounds: this proves little", 60 - lost);
}

/// The store or its last commits are another's, or older than the other part.
#[test]
fn parts_that_do_not_belong_together_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other, longer, young, place] =
        ["one", "other", "longer", "young", "place"].map(|name| dir.path().join(name));
    for (path, many) in [(&one, 600), (&other, 600), (&longer, 1600), (&young, 5)] {
        let mut store = SledStore::new(path);
        store.load().unwrap();
        // Calmly: where the keeper is late, other commits lie in the file.
        for part in 0..many / 5 {
            give(&mut store, &format!("{} {part}", path.display()), 5);
            store.settle();
        }
    }
    let mixed = |commits: Option<&Path>, sled: &Path| {
        copy(sled, &place);
        let file = SledStore::commits(&place);
        std::fs::remove_file(&file).unwrap();
        commits.map(|commits| std::fs::copy(SledStore::commits(commits), &file).unwrap());
        SledStore::new(&place).load()
    };
    for (commits, sled, said) in [
        (Some(&other), &one, "its commit 512 is not the one"),
        (Some(&longer), &one, "up to number 512, and the file of the last ones those from 1089 to 1600"),
        (Some(&young), &one, "up to number 512, and the file of the last ones those from 1 to 5"),
        (None, &one, "up to number 512, and the file of the last ones has none"),
        (Some(&one), &young, "up to number 0, and the file of the last ones those from 89 to 600"),
    ] {
        let error = mixed(commits.map(PathBuf::as_path), sled).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(said), "{error}");
    }
    let whole = mixed(Some(&one), &one).unwrap();
    assert_eq!(whole.holdings.leases.len(), 600);
}

#[test]
fn what_is_no_store_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = SledStore::new(&file).load().unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
}

/// A start that was killed, or found no space, while sled wrote its snapshot: that file is no damage.
#[test]
fn a_snapshot_that_was_not_finished_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipam");
    let mut store = SledStore::new(&path);
    store.load().unwrap();
    commit(&mut store, vec![Change::Given(Packed::new(&lease("a", "10.0.0.1/32")))]);
    drop(store);
    for unfinished in ["", "cut off", "long enough to be a snapshot with a checksum"] {
        std::fs::write(path.join("snap.00000000FFFFFFFF.generating"), unfinished).unwrap();
        let contents = SledStore::new(&path).load().unwrap();
        assert_eq!(contents.holdings.leases, [Packed::new(&lease("a", "10.0.0.1/32"))], "{unfinished:?}");
    }
}

/// Bytes flipped, cut off, zeroed at random places: either everything is there or the store says that it is damaged.
#[test]
fn no_damage_goes_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, place) = (dir.path().join("ipam"), dir.path().join("copy"));
    let mut store = SledStore::new(&path);
    store.load().unwrap();
    for number in 0..1200 {
        let id = number.to_string();
        commit(&mut store, vec![Change::Given(Packed::new(&lease(&id, "10.0.0.1/32")))]);
        if number % 3 == 0 {
            commit(&mut store, vec![Change::Ended(Packed::new(&lease(&id, "10.0.0.1/32")))]);
        }
    }
    let whole = store.load().unwrap();
    drop(store);
    let bytes = std::fs::read(path.join("db")).unwrap();
    let mut noticed = 0;
    for round in 0..120_usize {
        let at = (round * 7_919 + 13) * 1_009 % bytes.len();
        let mut damaged = bytes.clone();
        match round % 3 {
            0 => damaged[at] ^= 1 << (round % 8),
            1 => damaged.truncate(at),
            _ => damaged.iter_mut().skip(at).take(512).for_each(|byte| *byte = 0),
        }
        copy(&path, &place);
        std::fs::write(place.join("db"), damaged).unwrap();
        match SledStore::new(&place).load() {
            Ok(contents) => assert_eq!(contents, whole, "round {round} at {at}"),
            Err(error) => {
                assert!(error.is_damage(), "round {round} at {at}: {error}");
                noticed += 1;
            }
        }
    }
    assert!(noticed > 15, "{noticed}: too little damage to prove anything");
    std::fs::remove_dir_all(&place).unwrap();
    let missing = SledStore::new(&place).load().unwrap_err();
    let missing = missing.to_string();
    let said = missing.split_once("up to number 0, and the file of the last ones those from ");
    let first = said.and_then(|(_, said)| said.strip_suffix(" to 1600"));
    // Where a half began goes by when the keeper got to the one before.
    assert!(first.is_some_and(|first| first.parse::<u32>().is_ok_and(|first| first > 1)), "{missing}");
}

/// The same of the commits that sled does not have yet: all of them are there, or the store says that it is damaged.
/// Only of the last one damage looks as if it had never been written whole.
#[test]
fn no_damage_to_the_last_commits_goes_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, left, place) = (dir.path().join("ipam"), dir.path().join("left"), dir.path().join("copy"));
    let mut store = SledStore::new(&path);
    store.load().unwrap();
    copy(&path, &left);
    for number in 0..100 {
        let id = number.to_string();
        commit(&mut store, vec![Change::Given(Packed::new(&lease(&id, "10.0.0.1/32")))]);
    }
    let whole = store.load().unwrap();
    let bytes = std::fs::read(SledStore::commits(&path)).unwrap();
    let written = 99 * 4096;
    let mut noticed = 0;
    for round in 0..120_usize {
        copy(&left, &place);
        let mut damaged = bytes.clone();
        let block = round * 7_919 % written / 4096 * 4096;
        match round % 3 {
            0 => damaged[block + round % 64] ^= 1 << (round % 8),
            1 => damaged[block..block + 4096].fill(0),
            _ => damaged.copy_within(block + 4096..block + 8192, block),
        }
        std::fs::write(SledStore::commits(&place), damaged).unwrap();
        match SledStore::new(&place).load() {
            Ok(contents) => assert_eq!(contents, whole, "round {round} in {block}"),
            Err(error) => {
                assert!(error.is_damage(), "round {round} in {block}: {error}");
                noticed += 1;
            }
        }
    }
    assert_eq!(noticed, 120, "sled had none of them");
}
