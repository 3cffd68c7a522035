//! Finds what stands in a route's place if ours cannot stand there.

use ferrule_model::{IpNetwork, PROTOCOL, Route, RouteKey};
use ferrule_netlink::{Error, Kernel, Refusal};

/// What stands where a route should be.
pub(crate) enum Found {
    Route(Route),
    None,
    /// A more specific route keeps the kernel from answering the question.
    Hidden,
}

/// Looks for the route with this very key.
pub(crate) fn route_at<K: Kernel>(kernel: &mut K, key: &RouteKey) -> Result<Found, Error> {
    // The last address of a prefix is the least likely to have a more specific route of its own.
    let last = match key.dst {
        IpNetwork::V4(prefix) => prefix.broadcast().into(),
        IpNetwork::V6(prefix) => prefix.broadcast().into(),
    };
    Ok(match kernel.route_match(last)? {
        Some((found, route)) if found == *key => Found::Route(route),
        Some((found, _)) if found.dst.prefix() > key.dst.prefix() => Found::Hidden,
        _ if *key == RouteKey::main(key.dst) => Found::None,
        // The answer is about neither the table nor the metric that was asked for.
        _ => Found::Hidden,
    })
}

/// Adds to a refusal whose route has the place.
pub(crate) fn name_foreign<K: Kernel>(
    kernel: &mut K,
    key: &RouteKey,
    refusal: &mut Refusal,
) -> Result<(), Error> {
    if let Found::Route(Route { protocol, .. }) = route_at(kernel, key)?
        && protocol != PROTOCOL
    {
        let reason = format!("a route of protocol {protocol} has the same destination and metric");
        refusal.reason = Some(reason);
    }
    Ok(())
}
