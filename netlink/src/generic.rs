//! Generic netlink (`linux/genetlink.h`): the socket, which is opened when it is first needed, the number of a family
//! by its name, and what the messages of all families have in common. The content of a family's messages is in its own
//! module (`wireguard`).

use netlink_packet_core::{DefaultNla, NlasIterator};
use nix::errno::Errno;

use crate::attributes::append;
use crate::netns::Netns;
use crate::socket::{Answers, Request, Socket};
use crate::{Error, Netlink};

/// `NETLINK_GENERIC`.
const PROTOCOL: isize = 16;
/// `GENL_ID_CTRL`, and the version of its messages.
const CONTROL: u16 = 0x10;
const CONTROL_VERSION: u8 = 1;
/// `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME`.
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Length of `struct genlmsghdr`: command, version, two unused bytes.
pub(crate) const HEADER_LEN: usize = 4;

impl Netlink {
    /// The socket, in the same namespace as the one for route netlink.
    pub(crate) fn generic(&mut self) -> Result<&mut Socket, Error> {
        let open = || Socket::of(PROTOCOL);
        let socket = match self.generic.take() {
            Some(socket) => socket,
            None if self.elsewhere => {
                Socket::opened_in(&Netns::of_socket(&self.socket).map_err(Error::Open)?, open)?
            }
            None => open()?,
        };
        Ok(self.generic.insert(socket))
    }

    /// The number of the family of this name. `None` if the kernel has no such family, or not yet.
    pub(crate) fn generic_family(&mut self, name: &str) -> Result<Option<u16>, Error> {
        let Answers { results, messages } = self.generic()?.batch(&[family(name)])?;
        match results.into_iter().next() {
            Some(Err(refusal)) if refusal.errno == Errno::ENOENT => Ok(None),
            Some(Err(refusal)) => Err(Error::Refused { request: format!("ctrl get name {name}"), refusal }),
            _ => Ok(messages.iter().find_map(|answer| parse_family(&answer.payload))),
        }
    }
}

/// A command of the family with this number, in this version.
pub(crate) fn request(family: u16, (command, version): (u8, u8), attributes: &[DefaultNla]) -> Request {
    let mut payload = vec![command, version, 0, 0];
    append(&mut payload, attributes);
    Request { kind: family, flags: 0, payload }
}

fn family(name: &str) -> Request {
    let name = DefaultNla::new(FAMILY_NAME, [name.as_bytes(), &[0]].concat());
    request(CONTROL, (GET_FAMILY, CONTROL_VERSION), &[name])
}

fn parse_family(payload: &[u8]) -> Option<u16> {
    let found = attributes(payload.get(HEADER_LEN..)?).find(|(kind, _)| *kind == FAMILY_ID)?;
    Some(u16::from_ne_bytes(found.1.try_into().ok()?))
}

/// The attributes in these bytes, up to the first that cannot be read.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|nla| (nla.kind(), nla.value().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_is_there_has_a_number_and_another_has_none() {
        let mut kernel = Netlink::open().unwrap();
        assert_eq!(kernel.generic_family("nlctrl").unwrap(), Some(CONTROL));
        assert_eq!(kernel.generic_family("no-such-family").unwrap(), None);
    }

    #[test]
    fn nonsense_has_no_number() {
        let good = [[1, 1, 0, 0], [6, 0, 1, 0], [9, 0, 0, 0]].concat();
        assert_eq!(parse_family(&good), cfg!(target_endian = "little").then_some(9));
        for end in 0..10 {
            assert_eq!(parse_family(&good[..end]), None);
        }
    }
}
