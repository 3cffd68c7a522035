//! The other end of a veth pair, looked at from this end's namespace, so that no thread has to enter the other
//! namespace.

use ferrule_model::{IfName, Mac};

use crate::fake::FakeKernel;
use crate::{Error, Kernel, Netlink, link};

/// A kernel that tells of a pair's other end. It is not part of [`Kernel`], because only the keeper of pods needs it.
pub trait Peers: Kernel {
    /// The MAC of the other end of `link`; `None` if there is no such link, or if it may not be seen.
    ///
    /// # Errors
    /// The socket failed.
    fn mac_of_peer(&mut self, link: &IfName) -> Result<Option<Mac>, Error>;
}

impl Peers for Netlink {
    fn mac_of_peer(&mut self, link: &IfName) -> Result<Option<Mac>, Error> {
        let found = self.message_about(link::named(link), format!("link show {link}"))?;
        let Some((namespace, peer)) = found.and_then(|message| link::peer(&message.payload)) else {
            return Ok(None);
        };
        match self.one(link::in_namespace(namespace, peer), format!("link show {peer} in {namespace}")) {
            Ok(found) => Ok(found.and_then(|message| link::parse(&message.payload)?.mac)),
            // The other end has gone, or its namespace belongs to another user.
            Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The fake does not show the other end.
impl Peers for FakeKernel {
    fn mac_of_peer(&mut self, _link: &IfName) -> Result<Option<Mac>, Error> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns;
    use ferrule_model::{LinkChange, Op, VethSpec};

    #[test]
    fn the_other_ends_mac_is_seen_as_it_is_now() {
        let (host, pod) = (netns::make().unwrap(), netns::make().unwrap());
        let (mut host, mut inside) = (Netlink::open_in(&host).unwrap(), Netlink::open_in(&pod).unwrap());
        let spec = VethSpec {
            host_name: IfName::new("fer0").unwrap(),
            host_mac: Mac::local([1; 6]),
            alias: None,
            pod_name: IfName::new("eth0").unwrap(),
            pod_mac: Mac::local([2; 6]),
        };
        let peer = host.create_veth(&spec, &pod).unwrap().peer.unwrap();
        assert_eq!(host.mac_of_peer(&spec.host_name).unwrap(), Some(spec.pod_mac));
        let other = Mac::local([3; 6]);
        let change = Op::SetLink(peer, LinkChange { mac: Some(other), ..LinkChange::default() });
        inside.apply(&[change]).unwrap()[0].as_ref().unwrap();
        assert_eq!(host.mac_of_peer(&spec.host_name).unwrap(), Some(other));
        assert_eq!(host.mac_of_peer(&spec.pod_name).unwrap(), None, "no such link here");
    }
}
