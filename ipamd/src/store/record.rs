//! Records in the form that the store keeps: what a commit says, in few bytes. Pure. `journal` and `commits` decide
//! where a record is kept.

use super::commits::Mark;
use crate::decide::compact::Former;
use crate::decide::compact::{Broken, Compact, Packed, array, attachment_hash, byte, number, put_number};
use crate::decide::holdings::Batch;
use crate::decide::holdings::{Change, Released};
use ferrule_wire::Lease;
use std::net::IpAddr;
use std::time::Duration;

/// A record in a commit or an entry. It was checked to be readable. If two records are about one subject, the later one
/// counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a>(&'a [u8]);

/// What a record tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// A lease was given.
    Given(Packed<Lease>),
    /// An address was released.
    Released(Released),
    /// The boot that the times belong to.
    Boot(String),
    /// The last commit that the journal has.
    Last(Mark),
    /// The subject no longer exists: a lease ended, or the release of an address does not matter any more.
    Gone,
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// The lease of the attachment with this hash.
    Lease([u8; HASH]),
    /// The release of this address.
    Release(IpAddr),
    /// The boot.
    Boot,
    /// The last commit that the journal has.
    Last,
}

/// Length of an attachment's hash in bytes.
const HASH: usize = 16;

const GIVEN: u8 = 1;
const ENDED: u8 = 2;
const RELEASED: u8 = 3;
const FORGOTTEN: u8 = 4;
const BOOT: u8 = 5;
const LAST: u8 = 6;

impl<'a> Record<'a> {
    /// Reads a record from the front and removes it.
    pub(super) fn take(from: &mut &'a [u8]) -> Result<Self, Broken> {
        let whole = *from;
        match byte(from)? {
            GIVEN => Lease::skip(from)?,
            ENDED => drop(array::<HASH>(from)?),
            RELEASED => drop(released(from, Former::skip)?),
            FORGOTTEN => drop(IpAddr::read(from)?),
            BOOT => drop(boot(from)?),
            LAST => drop(last(from)?),
            _ => return Err(Broken),
        }
        Ok(Self(&whole[..whole.len() - from.len()]))
    }

    /// Its bytes.
    pub(super) const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether the record says something about its subject. Otherwise it ends the subject.
    pub(super) fn stays(self) -> bool {
        !matches!(self.0.first(), Some(&(ENDED | FORGOTTEN)))
    }

    /// What it is about.
    pub(super) fn subject(self) -> Result<Subject, Broken> {
        let mut rest = self.0;
        Ok(match byte(&mut rest)? {
            GIVEN => Subject::Lease(attachment_hash(rest)?.bytes()),
            ENDED => Subject::Lease(array(&mut rest)?),
            RELEASED | FORGOTTEN => Subject::Release(IpAddr::read(&mut rest)?),
            LAST => Subject::Last,
            _ => Subject::Boot,
        })
    }

    /// What it tells.
    pub(super) fn told(self) -> Result<Told, Broken> {
        let mut rest = self.0;
        Ok(match byte(&mut rest)? {
            GIVEN => Told::Given(Packed::of_bytes(rest)),
            RELEASED => {
                let (address, at, of) = released(&mut rest, |former| Ok(Packed::of_bytes(former)))?;
                Told::Released(Released { address, at, of })
            }
            BOOT => Told::Boot(boot(&mut rest)?.to_owned()),
            LAST => Told::Last(last(&mut rest)?),
            _ => Told::Gone,
        })
    }
}

/// Address, time and former holder of a release.
fn released<T>(
    from: &mut &[u8],
    former: impl FnOnce(&mut &[u8]) -> Result<T, Broken>,
) -> Result<(IpAddr, Duration, Option<T>), Broken> {
    let address = IpAddr::read(from)?;
    let at = Duration::from_nanos(number(from)?);
    let of = if byte(from)? == 1 { Some(former(from)?) } else { None };
    Ok((address, at, of))
}

/// A boot's id.
fn boot<'a>(from: &mut &'a [u8]) -> Result<&'a str, Broken> {
    let length = usize::from(byte(from)?);
    let (id, rest) = from.split_at_checked(length).ok_or(Broken)?;
    *from = rest;
    str::from_utf8(id).map_err(|_| Broken)
}

/// Number and checksum of a commit.
fn last(from: &mut &[u8]) -> Result<Mark, Broken> {
    let number = number(from)?;
    Ok(Mark { number, checksum: u32::from_be_bytes(array(from)?) })
}

/// The records of a batch.
pub(super) fn records(batch: &Batch) -> Vec<u8> {
    let mut records = Vec::with_capacity(4096);
    batch.changes.iter().for_each(|change| put(&mut records, change));
    if let Some(boot_id) = &batch.boot_id {
        put_boot(&mut records, boot_id);
    }
    records
}

/// Adds a change.
fn put(to: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Given(lease) => {
            to.push(GIVEN);
            to.extend(lease.bytes());
        }
        Change::Ended(lease) => {
            to.push(ENDED);
            to.extend(lease.hash().bytes());
        }
        Change::Released(Released { address, at, of }) => {
            to.push(RELEASED);
            address.write(to);
            put_number(to, u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
            to.push(of.is_some().into());
            to.extend(of.iter().flat_map(|former: &Packed<Former>| former.bytes()));
        }
        Change::Forgotten(address) => {
            to.push(FORGOTTEN);
            address.write(to);
        }
    }
}

/// Adds the boot's id. At most 255 bytes of it are kept; the kernel's has 36.
fn put_boot(to: &mut Vec<u8>, boot_id: &str) {
    let id = &boot_id.as_bytes()[..boot_id.len().min(u8::MAX.into())];
    to.push(BOOT);
    to.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
    to.extend(id);
}

/// Adds which commit is the last that the journal has.
pub(super) fn put_last(to: &mut Vec<u8>, last: Mark) {
    to.push(LAST);
    put_number(to, last.number);
    to.extend(last.checksum.to_be_bytes());
}
