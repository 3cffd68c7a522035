//! What a refusal means that is about rights, and what gives the right. It is in one place, so that every program says
//! the same. Pure.

use std::io;

use nix::errno::Errno;

/// The right that the kernel wants before it changes anything of a network namespace.
const NET_ADMIN: &str = "CAP_NET_ADMIN in this network namespace is needed: run this as root, by its unit, or in a container with \
                         NET_ADMIN";
/// What may keep a program from a socket that needs no right.
const PROFILE: &str = "a unit or a container's profile forbids netlink sockets: allow AF_NETLINK (RestrictAddressFamilies=, seccomp, \
                       AppArmor, SELinux)";

/// What gives the right that the kernel missed when it refused a request with this error; `None` if it missed none. The
/// kernel checks rights first, and `EACCES` is never about rights: it says that IPv6 is off on a link.
pub fn of_request(errno: Errno) -> Option<&'static str> {
    (errno == Errno::EPERM).then_some(NET_ADMIN)
}

/// The same for a netlink socket that cannot be opened.
pub fn of_socket(error: &io::Error) -> Option<&'static str> {
    let errno = Errno::from_raw(error.raw_os_error()?);
    matches!(errno, Errno::EPERM | Errno::EACCES | Errno::EAFNOSUPPORT).then_some(PROFILE)
}

/// The same for the kernel's events. Those of nftables take a right (`netlink_bind`).
pub fn of_events(error: &io::Error) -> Option<&'static str> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::EPERM => Some(NET_ADMIN),
        _ => of_socket(error),
    }
}

/// The same for a file of `/proc/sys`.
pub fn of_sysctl(error: &io::Error) -> Option<&'static str> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::EROFS => {
            Some("/proc/sys must not be read-only: ProtectKernelTunables=no, or a privileged container")
        }
        Errno::EPERM | Errno::EACCES => Some("to write to /proc/sys, run this as root, with CAP_NET_ADMIN"),
        _ => None,
    }
}

/// The same for what a program such as `nft` says in the C library's words.
pub fn of_program(said: &str) -> Option<&'static str> {
    let permission = ["Operation not permitted", "Permission denied", "you must be root"];
    permission.iter().any(|words| said.contains(words)).then_some(NET_ADMIN)
}

/// What has to be done so that a program can run. `package` is the one that contains it.
pub fn to_run(error: &io::Error, package: &str) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("install the package {package}"),
        io::ErrorKind::PermissionDenied => {
            "let this process execute it (its mode, a mount with noexec, AppArmor, SELinux)".to_owned()
        }
        _ => "it is tried again".to_owned(),
    }
}

/// A remedy as the end of a message; nothing if there is none.
pub fn behind(remedy: Option<&str>) -> String {
    remedy.map_or_else(String::new, |remedy| format!("; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::NetnsError;
    use crate::nft::NftError;
    use crate::{Error, Refusal};

    fn io(errno: Errno) -> io::Error {
        errno.into()
    }

    #[test]
    fn a_missing_right_is_told_with_what_gives_it() {
        let refused =
            |errno| Error::Refused { request: "link add".into(), refusal: Refusal::from(errno) }.to_string();
        assert!(refused(Errno::EPERM).contains("CAP_NET_ADMIN in this network namespace"));
        for errno in [Errno::EPERM, Errno::EACCES, Errno::EAFNOSUPPORT] {
            let text = Error::Open(io(errno)).to_string();
            assert!(text.contains("AF_NETLINK"), "{text}");
        }
        let nft =
            NftError::Refused("netlink: Error: cache initialization failed: Operation not permitted".into());
        assert!(nft.to_string().contains("CAP_NET_ADMIN"), "{nft}");
        let enter = NetnsError::Enter { path: "/run/netns/a".into(), errno: Errno::EPERM };
        let text = Error::Netns(enter).to_string();
        assert!(text.contains("/run/netns/a") && text.contains("CAP_SYS_ADMIN"), "{text}");
        assert!(of_events(&io(Errno::EPERM)).unwrap().contains("CAP_NET_ADMIN"));
        assert!(of_events(&io(Errno::EACCES)).unwrap().contains("AF_NETLINK"));
        assert!(of_sysctl(&io(Errno::EACCES)).unwrap().contains("CAP_NET_ADMIN"));
        assert!(of_sysctl(&io(Errno::EROFS)).unwrap().contains("ProtectKernelTunables"));
    }

    #[test]
    fn what_is_no_missing_right_is_not_called_one() {
        for errno in [Errno::EACCES, Errno::EEXIST, Errno::EAFNOSUPPORT] {
            let text =
                Error::Refused { request: "addr add".into(), refusal: Refusal::from(errno) }.to_string();
            assert!(!text.contains("CAP_"), "{text}");
        }
        assert_eq!(of_socket(&io(Errno::EMFILE)), None);
        assert_eq!(of_sysctl(&io(Errno::ENOENT)), None);
        assert_eq!(of_program("Error: No such file or directory"), None);
    }

    #[test]
    fn a_program_that_cannot_be_run_is_not_always_missing() {
        let missing = NftError::Run(io(Errno::ENOENT)).to_string();
        assert!(missing.contains("install the package nftables"), "{missing}");
        let forbidden = NftError::Run(io(Errno::EACCES)).to_string();
        assert!(forbidden.contains("execute it") && !forbidden.contains("install"), "{forbidden}");
    }
}
