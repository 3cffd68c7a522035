//! Records as they lie in the store: what a commit says, in few bytes. Pure. Where they lie is `journal`'s.

use crate::compact::{Broken, Compact, Packed, array, byte, number, put_number};
use crate::service::{Change, Former, Released};
use ferrule_wire::Lease;
use std::net::IpAddr;
use std::time::Duration;

/// A record. One that is read later has the last word on its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// A lease was given.
    Given(Packed<Lease>),
    /// A lease ended.
    Ended,
    /// An address was released.
    Released(Released),
    /// The release of an address does not matter any more.
    Forgotten,
    /// The boot that the times belong to.
    Boot(String),
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// The lease of the attachment with this hash.
    Lease([u8; 16]),
    /// The release of this address.
    Release(IpAddr),
    /// The boot.
    Boot,
}

const GIVEN: u8 = 1;
const ENDED: u8 = 2;
const RELEASED: u8 = 3;
const FORGOTTEN: u8 = 4;
const BOOT: u8 = 5;

impl Record {
    /// Whether it leaves something to be known, as opposed to ending it.
    pub(super) const fn stays(&self) -> bool {
        !matches!(self, Self::Ended | Self::Forgotten)
    }

    /// Takes a record off the front, with its subject and its bytes.
    pub(super) fn take<'a>(from: &mut &'a [u8]) -> Result<(Subject, Self, &'a [u8]), Broken> {
        let whole = *from;
        let (subject, record) = match byte(from)? {
            GIVEN => {
                let lease = Packed::<Lease>::take(from)?;
                (Subject::Lease(lease.attachment().hash().bytes()), Self::Given(lease))
            }
            ENDED => (Subject::Lease(array(from)?), Self::Ended),
            RELEASED => {
                let address = IpAddr::read(from)?;
                let at = Duration::from_nanos(number(from)?);
                let of = if byte(from)? == 1 { Some(Packed::take(from)?) } else { None };
                (Subject::Release(address), Self::Released(Released { address, at, of }))
            }
            FORGOTTEN => (Subject::Release(IpAddr::read(from)?), Self::Forgotten),
            BOOT => {
                let length = usize::from(byte(from)?);
                let (id, rest) = from.split_at_checked(length).ok_or(Broken)?;
                *from = rest;
                (Subject::Boot, Self::Boot(String::from_utf8(id.to_vec()).map_err(|_| Broken)?))
            }
            _ => return Err(Broken),
        };
        Ok((subject, record, &whole[..whole.len() - from.len()]))
    }
}

/// Adds a change; its subject, and whether the record stays.
pub(super) fn put(to: &mut Vec<u8>, change: &Change) -> (Subject, bool) {
    let hash = |lease: &Lease| lease.attachment.hash().bytes();
    match change {
        Change::Given(lease) => {
            to.push(GIVEN);
            lease.write(to);
            (Subject::Lease(hash(lease)), true)
        }
        Change::Ended(lease) => {
            to.push(ENDED);
            to.extend(hash(lease));
            (Subject::Lease(hash(lease)), false)
        }
        Change::Released(Released { address, at, of }) => {
            to.push(RELEASED);
            address.write(to);
            put_number(to, u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
            to.push(of.is_some().into());
            to.extend(of.iter().flat_map(|former: &Packed<Former>| former.bytes()));
            (Subject::Release(*address), true)
        }
        Change::Forgotten(address) => {
            to.push(FORGOTTEN);
            address.write(to);
            (Subject::Release(*address), false)
        }
    }
}

/// Adds the boot's id, of which 255 bytes are kept; the kernel's has 36.
pub(super) fn put_boot(to: &mut Vec<u8>, boot_id: &str) {
    let id = &boot_id.as_bytes()[..boot_id.len().min(u8::MAX.into())];
    to.push(BOOT);
    to.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
    to.extend(id);
}
