//! What the store holds, turned into a service. Pure.

use crate::decide::compact::Packed;
use crate::decide::holdings::{Batch, Contents};
use crate::decide::holdings::{Change, Released};
use crate::decide::service::{Service, Settings};
use ipnetwork::IpNetwork;
use std::time::Duration;

/// The store contradicts itself: an address belongs to two.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store is damaged: {address} is leased to {first} and to {second}; keep the store and ask the running pods"
)]
pub struct Doubled {
    address: IpNetwork,
    first: String,
    second: String,
}

/// A service that goes on where the store's last commit left it, and what the store is to be told of it.
///
/// A reboot ends all namespaces, and so every lease of an earlier boot is over, wherever the store lies. The times in
/// the store mean nothing after a reboot, so all addresses rest anew from now on. If the store does not say which boot
/// it is of, its leases stay: an address that may be in use is never given.
///
/// # Errors
/// An address has two leases: nothing may be given out.
pub fn recover(
    mut contents: Contents,
    settings: Settings,
    boot_id: &str,
    now: Duration,
) -> Result<(Service, Batch), Doubled> {
    once_each(&contents)?;
    let mut batch = Batch::default();
    if contents.boot_id.as_deref() != Some(boot_id) {
        batch.boot_id = Some(boot_id.to_owned());
        for released in &mut contents.holdings.released {
            released.at = now;
            batch.changes.push(Change::Released(released.clone()));
        }
        if contents.boot_id.is_some() {
            end_all(&mut contents, now, &mut batch.changes);
        }
    }
    let mut service = Service::new(settings, contents.holdings);
    batch.changes.extend(service.forget_rested(now));
    Ok((service, batch))
}

/// Ends every lease; the addresses rest from now on.
fn end_all(contents: &mut Contents, now: Duration, changes: &mut Vec<Change>) {
    for lease in std::mem::take(&mut contents.holdings.leases) {
        let of = lease.former();
        for address in lease.addresses().map(|address| address.ip()) {
            let released = Released { address, at: now, of: Some(of.clone()) };
            contents.holdings.released.push(released.clone());
            changes.push(Change::Released(released));
        }
        changes.push(Change::Ended(lease));
    }
}

/// Whether every address has one lease.
pub(crate) fn once_each(contents: &Contents) -> Result<(), Doubled> {
    let leases = &contents.holdings.leases;
    // Sorted, not hashed: of many leases this is the least that finds two of a kind.
    let mut held: Vec<IpNetwork> = Vec::with_capacity(2 * leases.len());
    held.extend(leases.iter().flat_map(Packed::addresses));
    held.sort_unstable();
    let Some(address) = held.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]) else {
        return Ok(());
    };
    let mut holders = leases.iter().filter(|lease| lease.addresses().any(|held| held == address));
    let mut holder = || holders.next().map(|lease| lease.attachment().to_string()).unwrap_or_default();
    Err(Doubled { address, first: holder(), second: holder() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::compact::Former;
    use crate::decide::holdings::Holdings;
    use crate::decide::pool::PoolSpec;
    use crate::decide::service::{Answer, ServiceRequest};
    use ferrule_model::Attachment;
    use ferrule_wire::messages::{Allocate, Lease};

    fn settings() -> Settings {
        let subnets = vec!["10.0.0.0/31".parse().unwrap()];
        let pools = vec![PoolSpec { name: "node".into(), subnets, ..PoolSpec::default() }];
        let cooldown = Duration::from_secs(30);
        Settings {
            pools,
            cooldown,
            mtu: None,
            why_no_pool: String::new(),
            held: std::collections::BTreeMap::new(),
        }
    }

    fn attachment(container_id: &str) -> Attachment {
        Attachment { network: "pods".into(), container_id: container_id.into(), ifname: "eth0".into() }
    }

    fn lease(container_id: &str, address: &str) -> Lease {
        Lease {
            attachment: attachment(container_id),
            addresses: vec![address.parse().unwrap()],
            pool: "node".into(),
            pod: None,
            netns: None,
            given_at_boottime_ms: 7,
        }
    }

    fn contents(boot_id: Option<&str>, leases: &[Lease], released: &[(&str, u64)]) -> Contents {
        let released = released.iter().map(|(ip, at)| released_at(ip, Duration::from_secs(*at))).collect();
        let leases = leases.iter().map(Packed::new).collect();
        Contents { boot_id: boot_id.map(str::to_owned), holdings: Holdings { leases, released } }
    }

    fn released_at(ip: &str, at: Duration) -> Released {
        Released { address: ip.parse().unwrap(), at, of: None }
    }

    fn next(service: &mut Service, now: u64) -> String {
        let call = Allocate::new(attachment("next"));
        match service.handle(ServiceRequest::Allocate(call), Duration::from_secs(now), &mut Vec::new()) {
            Ok(Answer::Allocate(reply)) => reply.lease.addresses[0].to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_empty_store_learns_the_boot() {
        let (service, batch) =
            recover(Contents::default(), settings(), "boot", Duration::from_secs(1)).unwrap();
        assert!(service.is_empty());
        assert_eq!(batch, Batch { changes: Vec::new(), boot_id: Some("boot".into()) });
    }

    #[test]
    fn in_the_same_boot_leases_and_times_stay_and_nothing_is_written() {
        let contents = contents(Some("boot"), &[lease("a", "10.0.0.0/32")], &[("10.0.0.1", 5)]);
        let (mut service, batch) = recover(contents, settings(), "boot", Duration::from_secs(9)).unwrap();
        assert!(batch.is_empty());
        assert_eq!(service.len(), 1);
        assert_eq!(next(&mut service, 9), "10.0.0.1/32");
    }

    #[test]
    fn another_boot_ends_all_leases_and_addresses_rest_anew() {
        let contents = contents(Some("old"), &[lease("a", "10.0.0.0/32")], &[("10.0.0.1", 90_000)]);
        let now = Duration::from_secs(3);
        let (mut service, batch) = recover(contents, settings(), "new", now).unwrap();
        assert!(service.is_empty());
        assert_eq!(batch.boot_id.as_deref(), Some("new"));
        let of = Some(Packed::new(&Former { attachment: attachment("a"), pod: None }));
        let ended = Released { address: "10.0.0.0".parse().unwrap(), at: now, of };
        let expected = [
            Change::Released(released_at("10.0.0.1", now)),
            Change::Released(ended),
            Change::Ended(Packed::new(&lease("a", "10.0.0.0/32"))),
        ];
        assert_eq!(batch.changes, expected);
        assert_eq!(next(&mut service, 4), "10.0.0.0/32", "both rest, and nothing else is left");
    }

    #[test]
    fn a_store_that_does_not_know_its_boot_keeps_its_leases() {
        let contents = contents(None, &[lease("a", "10.0.0.0/32")], &[]);
        let (service, batch) = recover(contents, settings(), "new", Duration::ZERO).unwrap();
        assert_eq!((service.len(), batch.changes), (1, Vec::new()));
    }

    #[test]
    fn what_no_pool_gives_any_more_is_forgotten_once_rested() {
        let contents = contents(Some("boot"), &[], &[("10.9.0.1", 5), ("10.9.0.2", 50)]);
        let (_, batch) = recover(contents, settings(), "boot", Duration::from_secs(60)).unwrap();
        assert_eq!(batch.changes, [Change::Forgotten("10.9.0.1".parse().unwrap())]);
    }

    #[test]
    fn an_address_with_two_leases_stops_everything() {
        let leases = [lease("a", "10.0.0.0/32"), lease("b", "10.0.0.0/32")];
        let error =
            recover(contents(None, &leases, &[]), settings(), "boot", Duration::ZERO).map(drop).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("10.0.0.0/32") && text.contains("pods/a/eth0"), "{text}");
    }
}
