//! Deletes a link without waiting for what the kernel does after the deletion.
//!
//! RTM_DELLINK takes the device out of its namespace, with its name, addresses and routes, and a veth's other end with
//! it. That takes about a millisecond, and a notification tells of it. Then `netdev_run_todo` waits for RCU readers, 15
//! to 30 ms, before the sender gets its thread back. So a child process sends the request and waits, and the parent
//! returns at the notification.
#![expect(unsafe_code, reason = "clone(2)")]

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use ferrule_model::{IfIndex, IfName};
use nix::errno::Errno;
use nix::libc;
use rustix::net::SendFlags;

use crate::encode::rtm;
use crate::socket::{Message, Socket, is_acknowledgement, verdict};
use crate::{Error, link};

/// `RTNLGRP_LINK`.
const GROUP_LINK: u32 = 1;
/// Longest wait for the end of a link, if notifications were lost.
const DELETED: Duration = Duration::from_secs(5);
/// Time between two questions whether the link is gone.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// Deletes the link `index` of the socket's namespace. Returns `false` if it was gone already. `name` is for errors.
///
/// The child process is left behind, and whoever reaps the caller's orphans reaps it. It holds none of the caller's
/// standard streams, so a program that waits for the end of those streams does not wait for it.
pub(crate) fn link(socket: &mut Socket, index: IfIndex, name: &IfName) -> Result<bool, Error> {
    let (request, sequence) = socket.prepare(&link::delete(index));
    socket.subscribed(GROUP_LINK, |socket| {
        send_from_child(socket.as_raw_fd(), request)?;
        announced(socket, index, sequence, name)
    })
}

/// Waits for the notification of the end of the link, or for the kernel's answer to the request.
fn announced(socket: &mut Socket, index: IfIndex, sequence: u32, name: &IfName) -> Result<bool, Error> {
    loop {
        let messages = match socket.receive() {
            // Too many notifications came at once. Some were lost, perhaps ours.
            Err(Error::Receive(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                return gone(socket, index, name);
            }
            messages => messages?,
        };
        for message in &messages {
            if is_acknowledgement(message) && message.sequence == sequence {
                return acknowledged(message, name);
            }
            if announces_the_end_of(message, index) {
                return Ok(true);
            }
        }
    }
}

/// Asks for the link until it does not exist.
fn gone(socket: &mut Socket, index: IfIndex, name: &IfName) -> Result<bool, Error> {
    let deadline = Instant::now() + DELETED;
    while Instant::now() < deadline {
        let answers = socket.batch(&[link::numbered(index)])?;
        if matches!(&answers.results[..], [Err(refusal)] if refusal.errno == Errno::ENODEV) {
            return Ok(true);
        }
        std::thread::sleep(ASK_AGAIN);
    }
    Err(Error::Refused { request: format!("link del {name}"), refusal: Errno::EBUSY.into() })
}

fn acknowledged(message: &Message, name: &IfName) -> Result<bool, Error> {
    match verdict(message)? {
        Ok(()) => Ok(true),
        Err(refusal) if refusal.errno == Errno::ENODEV => Ok(false),
        Err(refusal) => Err(Error::Refused { request: format!("link del {name}"), refusal }),
    }
}

fn announces_the_end_of(message: &Message, index: IfIndex) -> bool {
    message.kind == rtm::DELLINK && link::index(&message.payload) == Some(index)
}

/// What the child needs.
struct Errand {
    socket: RawFd,
    request: Vec<u8>,
}

/// The child's stack: 16 KiB, far more than its few calls need.
const STACK: usize = 1 << 10;

/// Sends `request` from a child that shares the socket, and the memory too. So no memory has to be copied, neither now
/// nor when one of the two processes writes, and the end of the parent need not take the memory apart.
fn send_from_child(socket: RawFd, request: Vec<u8>) -> Result<(), Error> {
    // This memory is never freed, because nobody learns when the child is done. The caller is the plugin, which ends
    // soon.
    let errand = Box::leak(Box::new(Errand { socket, request }));
    let stack = Box::leak(Box::<[u128]>::new_uninit_slice(STACK));
    // SAFETY: the stack belongs to the child alone, has the right alignment, and grows downwards from its end. Stack
    // and errand stay for ever. In the memory that it shares with the parent, the child writes nothing but its stack.
    let child = unsafe {
        let top = stack.as_mut_ptr_range().end;
        libc::clone(child, top.cast(), libc::CLONE_VM | libc::SIGCHLD, std::ptr::from_mut(errand).cast())
    };
    Errno::result(child).map(drop).map_err(Error::Fork)
}

/// The child. It also shares the parent's thread-local storage. So none of its calls to the C library may fail, because
/// that would write to `errno`. It uses rustix instead, which calls the kernel itself.
extern "C" fn child(errand: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `send_from_child` passes an errand that stays for ever. The child has a file table of its own, so the
    // parent keeps its streams, and the socket stays open here whatever the parent does.
    unsafe {
        let errand = &*errand.cast::<Errand>();
        for stream in 0..=2 {
            rustix::io::close(stream);
        }
        // The parent receives the answer.
        let _ = rustix::net::send(BorrowedFd::borrow_raw(errand.socket), &errand.request, SendFlags::empty());
    }
    0
}
