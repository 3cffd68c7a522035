//! What the readers of a watched file are told, and what they are not told.

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

/// How long it may take until a change is told.
const DEADLINE: Duration = Duration::from_secs(20);

/// Changes something and waits until that is told.
async fn told(watch: &mut FileWatch, what: &str, change: impl FnOnce()) {
    change();
    timeout(DEADLINE, watch.changed()).await.unwrap_or_else(|_| panic!("not told of: {what}"));
}

/// Whether the watch has something to tell now. The kernel queues the events before a change returns. So they are
/// delivered once the reactor runs.
async fn tells(watch: &mut FileWatch) -> bool {
    tokio::select! {
        biased;
        () = watch.changed() => true,
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
    let mut watch = FileWatch::new(&path);
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
    let mut watch = FileWatch::new(&path);
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
    let mut watch = FileWatch::new(&path);
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
    let mut watch = FileWatch::new(&path);
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
    let mut watch = FileWatch::new(&path);
    told(&mut watch, "the directories and the file", || {
        fs::create_dir_all(parent).unwrap();
        fs::write(&path, "1").unwrap();
    })
    .await;
    told(&mut watch, "removal of all", || fs::remove_dir_all(directory.path().join("a")).unwrap()).await;

    // The whole tree comes back at once, by a rename: the only event is in the topmost directory.
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

    let mut watch = FileWatch::new(at("nodes.toml"));
    told(&mut watch, "the swap", || {
        symlink("..two", at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
    })
    .await;
    assert_eq!(fs::read(at("nodes.toml")).unwrap(), b"2");
    told(&mut watch, "writing in place after the swap", || fs::write(at("..two/nodes.toml"), "3").unwrap())
        .await;
    fs::write(at("..one/nodes.toml"), "4").unwrap();
    assert!(!tells(&mut watch).await, "what is mounted no longer concerns nobody");
}

#[tokio::test]
async fn a_file_elsewhere_is_followed_through_every_link_of_the_chain() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    for name in ["etc", "deep/store/v1", "other"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("deep/store/v1/nodes.toml"), "1").unwrap();
    fs::write(at("other/nodes.toml"), "other").unwrap();
    // A relative link, an absolute link to a directory, and a link with steps up.
    symlink("v1", at("deep/store/current")).unwrap();
    symlink(at("deep/store"), at("store")).unwrap();
    symlink("../store/./current/nodes.toml", at("etc/nodes.toml")).unwrap();

    let path = at("etc/nodes.toml");
    let mut watch = FileWatch::new(&path);
    let real = at("deep/store/v1/nodes.toml");
    told(&mut watch, "writing the target in place", || fs::write(&real, "2").unwrap()).await;
    told(&mut watch, "replacing the target", || write_atomically(&real, b"3").unwrap()).await;
    let swap = |link: &str, target: &str| {
        symlink(target, at("new")).unwrap();
        fs::rename(at("new"), at(link)).unwrap();
    };
    fs::create_dir(at("deep/store/v2")).unwrap();
    fs::write(at("deep/store/v2/nodes.toml"), "4").unwrap();
    told(&mut watch, "a link in the middle", || swap("deep/store/current", "v2")).await;
    assert!(!tells(&mut watch).await);
    fs::write(&real, "5").unwrap();
    assert!(!tells(&mut watch).await, "the old target is nobody's");
    told(&mut watch, "the new target", || fs::write(at("deep/store/v2/nodes.toml"), "6").unwrap()).await;
    told(&mut watch, "the link itself", || swap("etc/nodes.toml", "../other/nodes.toml")).await;
    told(&mut watch, "its target", || fs::write(at("other/nodes.toml"), "7").unwrap()).await;
    // The target goes with its directory, and comes back.
    told(&mut watch, "a dangling link", || fs::remove_dir_all(at("other")).unwrap()).await;
    fs::create_dir(at("other")).unwrap();
    told(&mut watch, "the target that is back", || fs::write(at("other/nodes.toml"), "8").unwrap()).await;
    told(&mut watch, "a plain file instead", || write_atomically(&path, b"9").unwrap()).await;
    fs::write(at("other/nodes.toml"), "10").unwrap();
    assert!(!tells(&mut watch).await);
}

#[tokio::test]
async fn links_in_a_circle_are_a_file_that_is_missing() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    symlink("b", at("a")).unwrap();
    symlink("a", at("b")).unwrap();
    let mut watch = FileWatch::new(at("a"));
    assert!(!tells(&mut watch).await);
    told(&mut watch, "the way out", || write_atomically(&at("b"), b"1").unwrap()).await;
}

/// A kernel that gives no watches; see below.
#[tokio::test]
#[ignore = "runs as another process, which has no watches"]
async fn without_watches() {
    let directory = directory();
    let path = directory.path().join("nodes.toml");
    let mut watch = FileWatch::new(&path);
    told(&mut watch, "creation", || fs::write(&path, "1").unwrap()).await;
    told(&mut watch, "replacement", || write_atomically(&path, b"3").unwrap()).await;
    told(&mut watch, "removal", || fs::remove_file(&path).unwrap()).await;
    println!("all of it was told of");
}

#[test]
fn where_the_kernel_has_no_watches_left_the_file_is_looked_at() {
    for (limit, errno) in [("max_inotify_instances", "EMFILE"), ("max_inotify_watches", "ENOSPC")] {
        // This runs in a user namespace of its own, so that it affects no other process.
        let script = format!("echo 0 >/proc/sys/user/{limit} && exec \"$@\"");
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-ec", &script, "sh"]);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "without_watches", "--nocapture"]);
        let output = command.output().expect("install util-linux");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("all of it was told of"),
            "{errno}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
