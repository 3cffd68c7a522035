//! Bridges and their ports, for those who make some: beside [`Kernel`], because nobody else needs them.

use ferrule_model::{BridgePort, BridgeSpec, IfIndex, IfName};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::link::{
    InfoBridgePort, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use crate::encode::{self, request, rtm};
use crate::fake::FakeKernel;
use crate::socket::Request;
use crate::{Error, Kernel, Netlink};

/// A kernel with bridges.
pub trait Bridges: Kernel {
    /// Makes a bridge, switched on. Its MAC is set by us, so that it does not follow its ports'.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken.
    fn create_bridge(&mut self, spec: &BridgeSpec) -> Result<(), Error>;

    /// Puts a link on a bridge, or changes what kind of port it is.
    ///
    /// # Errors
    /// The kernel refused one of both; the link may be on the bridge then.
    fn set_port(&mut self, link: IfIndex, port: BridgePort) -> Result<(), Error>;

    /// The bridge that the link is on, and what kind of port it is.
    ///
    /// # Errors
    /// The socket failed.
    fn port(&mut self, link: &IfName) -> Result<Option<BridgePort>, Error>;
}

impl Bridges for Netlink {
    fn create_bridge(&mut self, spec: &BridgeSpec) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(spec.name.to_string()),
            LinkAttribute::Address(spec.mac.octets().to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        let make = request(rtm::NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message);
        self.all(&[make], || format!("link add {} type bridge", spec.name))
    }

    /// Two requests of one message: what kind of port it is can be said of a port only.
    fn set_port(&mut self, link: IfIndex, port: BridgePort) -> Result<(), Error> {
        let change = |attribute| {
            let mut message = LinkMessage::default();
            message.header.index = link.0;
            message.attributes = vec![attribute];
            request(rtm::NEWLINK, 0, &message)
        };
        let flags = vec![InfoBridgePort::HairpinMode(port.hairpin), InfoBridgePort::Isolated(port.isolated)];
        let join = change(LinkAttribute::Controller(port.bridge.0));
        let set = change(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(flags)),
        ]));
        self.all(&[join, set], || format!("link set dev {link} master {}", port.bridge))
    }

    fn port(&mut self, link: &IfName) -> Result<Option<BridgePort>, Error> {
        let found = self.message_about(encode::link_named(link), format!("link show {link}"))?;
        Ok(found.and_then(|message| port(&LinkMessage::parse(&message.payload).ok()?)))
    }
}

impl Netlink {
    fn all(&mut self, requests: &[Request], name: impl Fn() -> String) -> Result<(), Error> {
        let refused = self.batch(requests)?.into_iter().find_map(Result::err);
        refused.map_or(Ok(()), |refusal| Err(Error::Refused { request: name(), refusal }))
    }
}

fn port(message: &LinkMessage) -> Option<BridgePort> {
    let mut bridge = None;
    let (mut hairpin, mut isolated) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Controller(index) => bridge = Some(IfIndex(*index)),
            LinkAttribute::LinkInfo(infos) => {
                let data = infos.iter().filter_map(|info| match info {
                    LinkInfo::PortData(InfoPortData::BridgePort(data)) => Some(data),
                    _ => None,
                });
                for flag in data.flatten() {
                    match flag {
                        InfoBridgePort::HairpinMode(on) => hairpin = Some(*on),
                        InfoBridgePort::Isolated(on) => isolated = *on,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // A link can be under something else than a bridge.
    Some(BridgePort { bridge: bridge?, hairpin: hairpin?, isolated })
}

impl Bridges for FakeKernel {
    fn create_bridge(&mut self, spec: &BridgeSpec) -> Result<(), Error> {
        self.make_bridge(spec)
    }

    fn set_port(&mut self, link: IfIndex, port: BridgePort) -> Result<(), Error> {
        self.put_port(link, port)
    }

    fn port(&mut self, link: &IfName) -> Result<Option<BridgePort>, Error> {
        self.port_of(link)
    }
}
