//! Records as they lie in the store: keys with a prefix, values as versioned JSON. Pure.

use super::{Batch, Contents, StoreError};
use crate::service::{Change, Former, Released};
use ferrule_wire::Lease;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// Version of the records. A change that an earlier program would misread takes the next number.
const VERSION: u64 = 1;

const LEASE: &str = "lease/";
const RELEASED: &str = "released/";
const BOOT: &str = "boot";

/// One write: a key and its value, or `None` for its removal.
pub(super) type Write = (String, Option<Vec<u8>>);

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u64,
    #[serde(flatten)]
    record: T,
}

#[derive(Serialize, Deserialize)]
struct LeaseRecord {
    lease: Lease,
}

#[derive(Serialize, Deserialize)]
struct ReleasedRecord {
    address: IpAddr,
    released_at_boottime_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<Former>,
}

#[derive(Serialize, Deserialize)]
struct BootRecord {
    boot_id: String,
}

/// The writes of a batch, in order.
pub(super) fn writes(batch: &Batch) -> Result<Vec<Write>, serde_json::Error> {
    let changes = batch.changes.iter().map(write);
    let boot = batch
        .boot_id
        .iter()
        .map(|boot_id| Ok((BOOT.to_owned(), Some(value(BootRecord { boot_id: boot_id.clone() })?))));
    changes.chain(boot).collect()
}

fn write(change: &Change) -> Result<Write, serde_json::Error> {
    Ok(match change {
        Change::Given(lease) => (lease_key(lease), Some(value(LeaseRecord { lease: lease.clone() })?)),
        Change::Ended(lease) => (lease_key(lease), None),
        Change::Released(Released { address, at, of }) => {
            let released_at_boottime_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
            let record = ReleasedRecord { address: *address, released_at_boottime_ns, of: of.clone() };
            (released_key(address), Some(value(record)?))
        }
        Change::Forgotten(address) => (released_key(address), None),
    })
}

fn value<T: Serialize>(record: T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Versioned { version: VERSION, record })
}

fn lease_key(lease: &Lease) -> String {
    format!("{LEASE}{}", lease.attachment.hash())
}

fn released_key(address: &IpAddr) -> String {
    format!("{RELEASED}{address}")
}

/// Adds one record to what is known. A key that does not fit its value, as after damage, is an error.
pub(super) fn read(contents: &mut Contents, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    let key = String::from_utf8_lossy(key).into_owned();
    let known = if key.starts_with(LEASE) {
        let LeaseRecord { lease } = parse(&key, value)?;
        let known = lease_key(&lease);
        contents.holdings.leases.push(lease);
        known
    } else if key.starts_with(RELEASED) {
        let record: ReleasedRecord = parse(&key, value)?;
        let at = Duration::from_nanos(record.released_at_boottime_ns);
        let key_of = released_key(&record.address);
        contents.holdings.released.push(Released { address: record.address, at, of: record.of });
        key_of
    } else if key == BOOT {
        contents.boot_id = Some(parse::<BootRecord>(&key, value)?.boot_id);
        BOOT.to_owned()
    } else {
        return Err(StoreError::Damaged { key, reason: "no record is called so".to_owned() });
    };
    if known == key {
        return Ok(());
    }
    Err(StoreError::Damaged { reason: format!("its value belongs to {known:?}"), key })
}

fn parse<T: for<'a> Deserialize<'a>>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    let damaged =
        |error: serde_json::Error| StoreError::Damaged { key: key.into(), reason: error.to_string() };
    // The version alone first: a later record need not have the fields of this one.
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let Version { version } = serde_json::from_slice(value).map_err(damaged)?;
    if version != VERSION {
        return Err(StoreError::Version { key: key.to_owned(), version });
    }
    serde_json::from_slice::<Versioned<T>>(value).map(|versioned| versioned.record).map_err(damaged)
}
