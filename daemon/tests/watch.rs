//! What a watched file's readers are told, and what they are spared.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test: what fails is to be seen"
)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::Duration;

use ferrule_daemon::{FileWatch, write_atomically};
use tempfile::TempDir;
use tokio::time::timeout;

/// How long a change may take to be told of.
const DEADLINE: Duration = Duration::from_secs(20);

/// Changes something and waits until it is told of.
async fn told(watch: &mut FileWatch, what: &str, change: impl FnOnce()) {
    change();
    timeout(DEADLINE, watch.changed()).await.unwrap_or_else(|_| panic!("not told of: {what}")).unwrap();
}

/// True if the watch has something to tell now. The kernel queues the events before a change returns, so letting the
/// reactor run is enough to have them delivered.
async fn tells(watch: &mut FileWatch) -> bool {
    tokio::select! {
        biased;
        told = watch.changed() => told.map(|()| true).unwrap(),
        () = yield_often() => false,
    }
}

/// Lets the reactor run often enough to deliver what is queued already.
async fn yield_often() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn every_way_to_change_a_file_is_told_of() {
    let directory = directory();
    let path = directory.path().join("nodes.toml");
    let other = directory.path().join("other");
    let mut watch = FileWatch::new(&path).unwrap();
    told(&mut watch, "creation", || fs::write(&path, "1").unwrap()).await;
    told(&mut watch, "writing in place", || fs::write(&path, "2").unwrap()).await;
    told(&mut watch, "replacement", || write_atomically(&path, b"3").unwrap()).await;
    told(&mut watch, "removal", || fs::remove_file(&path).unwrap()).await;
    fs::write(&other, "4").unwrap();
    told(&mut watch, "hard link", || fs::hard_link(&other, &path).unwrap()).await;
    told(&mut watch, "renaming away", || fs::rename(&path, directory.path().join("gone")).unwrap()).await;
    told(&mut watch, "symbolic link", || symlink(&other, &path).unwrap()).await;
}

#[tokio::test]
async fn what_changes_while_nobody_waits_is_kept_and_told_as_one() {
    let directory = directory();
    let path = directory.path().join("nodes.toml");
    let mut watch = FileWatch::new(&path).unwrap();
    for round in 0..100 {
        write_atomically(&path, format!("{round}").as_bytes()).unwrap();
    }
    told(&mut watch, "the last of many", || {}).await;
    assert!(!tells(&mut watch).await);
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_not_told_of() {
    let directory = directory();
    let path = directory.path().join("nodes.toml");
    let mut watch = FileWatch::new(&path).unwrap();
    let mut file = File::create(&path).unwrap();
    file.write_all(b"half").unwrap();
    assert!(!tells(&mut watch).await);
    drop(file);
    assert!(tells(&mut watch).await);
}

#[tokio::test]
async fn neighbours_in_the_directory_are_not_told_of() {
    let directory = directory();
    let path = directory.path().join("node.json");
    write_atomically(&path, b"{}").unwrap();
    let mut watch = FileWatch::new(&path).unwrap();
    let neighbour = directory.path().join("neighbour");
    write_atomically(&neighbour, b"x").unwrap();
    fs::remove_file(&neighbour).unwrap();
    assert!(!tells(&mut watch).await);
    fs::remove_file(&path).unwrap();
    assert!(tells(&mut watch).await);
}

#[tokio::test]
async fn a_directory_that_is_missing_is_waited_for_and_may_go_again() {
    let directory = directory();
    let path = directory.path().join("a/b/nodes.toml");
    let parent = path.parent().unwrap();
    let mut watch = FileWatch::new(&path).unwrap();
    told(&mut watch, "the directories and the file", || {
        fs::create_dir_all(parent).unwrap();
        fs::write(&path, "1").unwrap();
    })
    .await;
    told(&mut watch, "removal of all", || fs::remove_dir_all(directory.path().join("a")).unwrap()).await;

    // The whole tree comes back at once, by rename: no event but the one in the topmost directory.
    let staged = directory.path().join("staged");
    fs::create_dir_all(staged.join("b")).unwrap();
    fs::write(staged.join("b/nodes.toml"), "2").unwrap();
    told(&mut watch, "return", || fs::rename(&staged, directory.path().join("a")).unwrap()).await;
    told(&mut watch, "writing after the return", || fs::write(&path, "3").unwrap()).await;

    told(&mut watch, "renaming the directory away", || {
        fs::rename(parent, directory.path().join("c")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_mounted_configmap_that_is_swapped_is_told_of() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("..one")).unwrap();
    fs::write(at("..one/nodes.toml"), "1").unwrap();
    fs::create_dir(at("..two")).unwrap();
    fs::write(at("..two/nodes.toml"), "2").unwrap();
    symlink("..one", at("..data")).unwrap();
    symlink("..data/nodes.toml", at("nodes.toml")).unwrap();

    let mut watch = FileWatch::new(at("nodes.toml")).unwrap();
    told(&mut watch, "the swap", || {
        symlink("..two", at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
    })
    .await;
    assert_eq!(fs::read(at("nodes.toml")).unwrap(), b"2");
}
