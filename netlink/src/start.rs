//! The start of a program that is over within two milliseconds, without what the standard library does before `main`.
//!
//! That reads `/proc/self/maps` to find the end of the stack and makes a second stack, so as to name an overflow in the
//! message of a crash; the kernel ends such a program either way. What programs rely on is done here: the standard
//! streams are open, and a pipe that nobody reads is an error and no signal.
#![expect(unsafe_code, reason = "the symbol `main`, signal(2)")]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;

/// Makes a function, which gives the exit status, the whole of a program that is marked `#![no_main]`.
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

/// What has to be done before a program's first line. For [`start!`](crate::start!).
pub fn prepare() {
    for stream in 0..=2 {
        if !is_open(stream) {
            // Else the next file that is opened, a socket, would be taken for it. The lowest free number is given.
            // What is written to an output that is closed is not written, and the program has to notice.
            let file = if stream == 1 { "/dev/full" } else { "/dev/null" };
            let open = |file| open(file, OFlag::O_RDWR, Mode::empty());
            std::mem::forget(open(file).or_else(|_| open("/dev/null")));
        }
    }
    // SAFETY: nothing runs yet that could handle it otherwise.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fn is_open(stream: RawFd) -> bool {
    // SAFETY: a number that is no file is an answer.
    let flags = unsafe { libc::fcntl(stream, libc::F_GETFD) };
    flags != -1 || Errno::last() != Errno::EBADF
}
