//! Who had an address that rests, for people who ask why it rests. Pure. `pool` knows that it rests, and until when.

use crate::decide::compact::{Former, Packed};
use crate::decide::holdings::Released;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// With fewer entries than this there is no sweep, because it would not be worth the walk.
const FEW: usize = 1024;

/// The former holders of the addresses that rest. Those of addresses that have rested go in a sweep now and then, so
/// that memory follows what rests, and not the line of released addresses.
#[derive(Debug, Clone)]
pub(crate) struct Formers {
    by_address: HashMap<IpAddr, (Duration, Packed<Former>)>,
    sweep_at: usize,
}

impl Formers {
    /// Those that the store knows.
    pub(crate) fn new(released: &[Released]) -> Self {
        let known = released.iter().filter_map(|r| Some((r.address, (r.at, r.of.clone()?))));
        Self { by_address: known.collect(), sweep_at: FEW }
    }

    /// An address was released by this one.
    pub(crate) fn keep(&mut self, address: IpAddr, at: Duration, former: Packed<Former>, cooldown: Duration) {
        if self.by_address.len() >= self.sweep_at {
            self.by_address.retain(|_, (released, _)| *released + cooldown > at);
            self.sweep_at = FEW.max(2 * self.by_address.len());
        }
        self.by_address.insert(address, (at, former));
    }

    /// An address has another holder now.
    pub(crate) fn forget(&mut self, address: IpAddr) {
        self.by_address.remove(&address);
    }

    /// Who had the address.
    pub(crate) fn of(&self, address: IpAddr) -> Option<Former> {
        self.by_address.get(&address).map(|(_, former)| former.open())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::Attachment;

    #[test]
    fn those_of_addresses_that_have_rested_do_not_pile_up() {
        let mut formers = Formers::new(&[]);
        let attachment =
            Attachment { network: "pods".into(), container_id: "a".into(), ifname: "eth0".into() };
        let former = Former { attachment, pod: None };
        for number in 0..100_000_u32 {
            let at = Duration::from_millis(number.into());
            formers.keep(
                IpAddr::from(number.to_be_bytes()),
                at,
                Packed::new(&former),
                Duration::from_millis(100),
            );
            assert!(formers.by_address.len() <= 2 * FEW);
            assert_eq!(formers.of(IpAddr::from(number.to_be_bytes())), Some(former.clone()));
        }
    }
}
