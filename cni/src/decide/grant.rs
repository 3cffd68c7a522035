//! What an attachment is given, whoever gives it: addresses, and the ways out. Pure.

use std::net::IpAddr;

use ferrule_model::{Family, IpNetwork, family, host_prefix};
use ferrule_wire::messages::{Lease, PoolStatus};

use crate::edge::error::Error;
use crate::edge::result::{AddResult, Dns, Route};

/// What an attachment is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// The addresses, at least one.
    pub addresses: Vec<Granted>,
    /// Routes that were given with the addresses. If there are none, everything goes by the gateway.
    pub routes: Vec<Route>,
    /// Name service.
    pub dns: Dns,
    /// MTU of the interface in bytes. `None` means the kernel's default.
    pub mtu: Option<u32>,
}

/// An address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The address with the prefix length of its network.
    pub address: IpNetwork,
    /// The gateway out of that network, if the one who gave the address knows one.
    pub gateway: Option<IpAddr>,
}

impl Grant {
    /// Made from a lease of `ipamd`, for a pod that shares its link with nobody.
    pub(crate) fn alone(lease: &Lease, mtu: Option<u32>) -> Result<Self, Error> {
        usable(&lease.addresses)?;
        let granted = |address: &IpNetwork| Granted { address: *address, gateway: None };
        Ok(Self { addresses: lease.addresses.iter().map(granted).collect(), mtu, ..Self::default() })
    }

    /// Made from a lease of `ipamd`, for a pod that shares a link with the other pods of its subnet. `gateway` is the
    /// lease that reserves the gateway's address.
    pub(crate) fn shared(
        lease: &Lease,
        gateway: &Lease,
        pools: &[PoolStatus],
        mtu: Option<u32>,
    ) -> Result<Self, Error> {
        usable(&lease.addresses)?;
        let mut addresses = Vec::new();
        for address in &lease.addresses {
            let ip = address.ip();
            let way_out = gateway.addresses.iter().find(|other| family(other) == family(address));
            let subnets = pools.iter().filter(|pool| pool.name == lease.pool).flat_map(|pool| &pool.subnets);
            let subnet = subnets.into_iter().find(|subnet| subnet.contains(ip));
            let (Some(subnet), Some(way_out)) = (subnet, way_out) else {
                return Err(Error::Lease(format!(
                    "{ip} is in no subnet of pool {:?} with a gateway",
                    lease.pool
                )));
            };
            if !subnet.contains(way_out.ip()) {
                return Err(Error::Lease(format!(
                    "{ip} and the network's gateway {} are in different subnets: a network whose pods share a link \
                     needs a pool of its own with one subnet of each family",
                    way_out.ip()
                )));
            }
            let address =
                IpNetwork::new(ip, subnet.prefix()).map_err(|error| Error::Lease(error.to_string()))?;
            addresses.push(Granted { address, gateway: Some(way_out.ip()) });
        }
        Ok(Self { addresses, mtu, ..Self::default() })
    }

    /// Made from the result of another plugin.
    pub(crate) fn of(result: AddResult) -> Self {
        let granted = |ip: &crate::edge::result::Ip| Granted { address: ip.address, gateway: ip.gateway };
        let addresses = result.ips.iter().map(granted).collect();
        Self { addresses, routes: result.routes, dns: result.dns, mtu: None }
    }

    /// The addresses without their prefix lengths.
    pub fn hosts(&self) -> impl Iterator<Item = IpNetwork> {
        self.addresses.iter().map(|granted| host_prefix(granted.address.ip()))
    }

    /// The families that occur, IPv4 first.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let occurs =
            |wanted: &Family| self.addresses.iter().any(|granted| family(&granted.address) == *wanted);
        Family::BOTH.into_iter().filter(occurs)
    }
}

/// Checks whether pods can be given these: single addresses, at most one of each family.
fn usable(addresses: &[IpNetwork]) -> Result<(), Error> {
    let unusable = |reason: String| Err(Error::Lease(reason));
    for (place, address) in addresses.iter().enumerate() {
        if *address != host_prefix(address.ip()) {
            return unusable(format!("{address} is not a single address"));
        }
        if addresses[..place].iter().any(|other| family(other) == family(address)) {
            return unusable(format!("there is more than one {} address", family(address)));
        }
    }
    if addresses.is_empty() { unusable("there is no address in it".into()) } else { Ok(()) }
}
