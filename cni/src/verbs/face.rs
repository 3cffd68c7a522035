//! `ferrule-ipam`: the same program under its other name serves `ipamd`'s addresses to other plugins, such as bridge,
//! ptp and macvlan, which make the links. It makes nothing itself and needs no right but to call `ipamd`.

use ferrule_model::{IpNetwork, family, host_prefix};

use crate::ask::addresses::{self, AddressSource};
use crate::decide::pod::anywhere;
use crate::edge::error::{Error, Failure};
use crate::edge::request::{Add, Check, Del, Gc};
use crate::edge::result::{AddResult, Ip, Route};

/// Gives addresses with the length of their subnet's prefix, and a gateway that no pod ever gets. Unless the
/// configuration has routes, everything goes by the gateway.
///
/// # Errors
/// `ipamd` gives none, or the result does not arrive; then the addresses are given back.
pub fn add(request: &Add, tell: impl FnOnce(AddResult) -> Result<(), Error>) -> Result<(), Failure> {
    let mut ipam = AddressSource::wait(&request.config)?;
    ipam.ask(request)?;
    let (grant, existing) = match ipam.answer() {
        Ok(answer) => answer,
        // Nobody knows whether the daemon gave a lease before the connection broke, so it is released.
        Err(error @ Error::IpamUnreachable { .. }) => {
            let released = addresses::release(&request.config, &request.attachment);
            return Err(Failure { error, clean_up: released.err().into_iter().collect() });
        }
        Err(error) => return Err(error.into()),
    };
    let ip = |granted: &crate::decide::grant::Granted| Ip {
        version: None,
        interface: None,
        address: granted.address,
        gateway: granted.gateway,
    };
    let out = |granted: &crate::decide::grant::Granted| {
        Route::plain(anywhere(family(&granted.address)), granted.gateway)
    };
    let told = tell(AddResult {
        ips: grant.addresses.iter().map(ip).collect(),
        routes: match &request.config.routes {
            Some(routes) => routes.clone(),
            None => grant.addresses.iter().map(out).collect(),
        },
        ..AddResult::default()
    });
    told.map_err(|error| {
        let released =
            if existing { Ok(()) } else { addresses::release(&request.config, &request.attachment) };
        Failure { error, clean_up: released.err().into_iter().collect() }
    })
}

/// Gives them back.
///
/// # Errors
/// The release can neither be done nor queued.
pub fn del(request: &Del) -> Result<(), Failure> {
    Ok(addresses::release(&request.config, &request.attachment)?)
}

/// Is the lease one of the addresses that the plugin set up?
///
/// # Errors
/// It is not, or `ipamd` does not answer.
pub fn check(request: &Check) -> Result<(), Failure> {
    let all: Vec<IpNetwork> = request.result.ips.iter().map(|ip| host_prefix(ip.address.ip())).collect();
    Ok(addresses::check(&request.config, &request.attachment, &all, &all)?)
}

/// Could ADD be served?
///
/// # Errors
/// Code 50.
pub fn status(config: &crate::edge::config::Config) -> Result<(), Failure> {
    Ok(addresses::status(config).map(drop)?)
}

/// Releases what none of the runtime's attachments has.
///
/// # Errors
/// `ipamd` does not answer.
pub fn gc(request: &Gc) -> Result<(), Failure> {
    Ok(addresses::collect(&request.config, &request.valid, &std::collections::BTreeSet::new())?)
}
