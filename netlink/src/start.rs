//! The start of a program that takes less than two milliseconds, without what the standard library does before `main`.
//!
//! The standard library reads `/proc/self/maps` to find the end of the stack, and makes a second stack, so that a crash
//! message can name an overflow. The kernel ends such a program either way. What programs rely on is done here: the
//! standard streams are open, and writing to a pipe that nobody reads is an error and no signal.
#![expect(unsafe_code, reason = "the symbol `main`, signal(2)")]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;

/// Makes a whole program out of a function that returns the exit status. The program is marked `#![no_main]`.
#[macro_export]
macro_rules! start {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main(
            _: ::core::ffi::c_int,
            _: *const *const ::core::ffi::c_char,
        ) -> ::core::ffi::c_int {
            let main: fn() -> u8 = $main;
            $crate::start::prepare();
            main().into()
        }
    };
}

/// Prepares the process before the program's first line. For [`start!`](crate::start!).
pub fn prepare() {
    for stream in 0..=2 {
        if !is_open(stream) {
            // Otherwise the next file that is opened, a socket, would get this number, because the kernel gives the
            // lowest free one. The program has to notice that its output is closed, so writing to this file fails.
            let file = if stream == 1 { "/dev/full" } else { "/dev/null" };
            let open = |file| open(file, OFlag::O_RDWR, Mode::empty());
            std::mem::forget(open(file).or_else(|_| open("/dev/null")));
        }
    }
    // SAFETY: no other thread runs yet that could set the signal differently.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fn is_open(stream: RawFd) -> bool {
    // SAFETY: if the number is no file, the call says so.
    let flags = unsafe { libc::fcntl(stream, libc::F_GETFD) };
    flags != -1 || Errno::last() != Errno::EBADF
}
