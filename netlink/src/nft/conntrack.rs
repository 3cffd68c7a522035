//! The connections that the kernel tracks, as netlink messages, in both directions.

use std::net::IpAddr;

use ferrule_model::Family;
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, ParseableParametrized};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily, NetfilterSubsystem};

use super::codec::{HEADER_LEN, request};
use crate::socket::{Message, Request};

/// `CTA_FILTER`, `CTA_FILTER_ORIG_FLAGS`, and its flags for protocol and destination port.
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_PORT: u32 = 1 << 5;
/// `CTA_ZONE`.
const ZONE: u16 = 18;

/// A connection that the kernel tracks, described by its first packet and by its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Where the first packet came from.
    pub source: IpAddr,
    /// Where it was sent.
    pub destination: IpAddr,
    /// The port to which it was sent.
    pub port: u16,
    /// Where the answers come from: the destination after translation.
    pub answers_from: IpAddr,
    /// The port from which the answers come.
    pub answering_port: u16,
    /// Where the answers go: the source after translation.
    pub answers_to: IpAddr,
    /// Whether there was an answer.
    pub answered: bool,
}

fn conntrack(family: Family, message: &ConntrackMessage) -> Request {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    let header = NetfilterHeader::new(family, 0, 0);
    request(NetfilterSubsystem::Conntrack, message.message_type().into(), 0, &header, message)
}

/// The UDP connections whose first packet was sent to `port`, or to any port. Kernels before Linux 5.8 do not know the
/// filter and list all connections.
pub(super) fn udp_flows(family: Family, port: Option<u16>) -> Request {
    let mut first_packet = vec![ProtoTuple::Protocol(Protocol::Udp)];
    first_packet.extend(port.map(ProtoTuple::DestinationPort));
    let attributes = vec![ConntrackAttribute::CtaTupleOrig(vec![Tuple::Proto(first_packet)])];
    let mut request = conntrack(family, &ConntrackMessage::Get(attributes));
    // The packet crate's attribute loses the flag for nesting, and the kernel refuses this attribute without it.
    let of = FILTER_PROTOCOL | if port.is_some() { FILTER_PORT } else { 0 };
    let flags = DefaultNla::new(FILTER_ORIG_FLAGS, of.to_ne_bytes().to_vec());
    let filter = DefaultNla::new(FILTER | NLA_F_NESTED, emitted(&flags));
    request.payload.extend(emitted(&filter));
    request
}

fn emitted(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    bytes
}

/// A UDP connection, and the request that deletes it.
pub(super) fn parse_udp_flow(message: &Message, family: Family) -> Option<(Flow, Request)> {
    let [_, kind] = message.kind.to_be_bytes();
    let payload = message.payload.get(HEADER_LEN..)?;
    let ConntrackMessage::New(attributes) = ConntrackMessage::parse_with_param(payload, kind).ok()? else {
        return None;
    };
    let mut answered = false;
    let (mut first, mut answer) = (None, None);
    let mut key = Vec::new();
    for attribute in attributes {
        match &attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => {
                if !protocol(tuple).any(|field| *field == ProtoTuple::Protocol(Protocol::Udp)) {
                    return None;
                }
                let to = |field: &ProtoTuple| match field {
                    ProtoTuple::DestinationPort(port) => Some(*port),
                    _ => None,
                };
                first = addresses(tuple).zip(protocol(tuple).find_map(to));
                key.push(attribute);
            }
            ConntrackAttribute::CtaTupleReply(tuple) => {
                let from = |field: &ProtoTuple| match field {
                    ProtoTuple::SourcePort(port) => Some(*port),
                    _ => None,
                };
                answer = addresses(tuple).zip(protocol(tuple).find_map(from));
            }
            ConntrackAttribute::CtaStatus(status) => answered = status.contains(Status::SeenReply),
            ConntrackAttribute::Other(other) if netlink_packet_core::Nla::kind(other) == ZONE => {
                key.push(attribute);
            }
            _ => {}
        }
    }
    let ((source, destination), port) = first?;
    let ((answers_from, answers_to), answering_port) = answer?;
    let flow = Flow { source, destination, port, answers_from, answering_port, answers_to, answered };
    Some((flow, conntrack(family, &ConntrackMessage::Delete(key))))
}

fn protocol(tuple: &[Tuple]) -> impl Iterator<Item = &ProtoTuple> {
    tuple.iter().flat_map(|part| match part {
        Tuple::Proto(fields) => fields.as_slice(),
        _ => &[],
    })
}

/// Source and destination.
fn addresses(tuple: &[Tuple]) -> Option<(IpAddr, IpAddr)> {
    let fields = tuple.iter().find_map(|part| match part {
        Tuple::Ip(fields) => Some(fields),
        _ => None,
    })?;
    let source = fields.iter().find_map(|field| match field {
        IPTuple::SourceAddress(address) => Some(*address),
        _ => None,
    });
    let destination = fields.iter().find_map(|field| match field {
        IPTuple::DestinationAddress(address) => Some(*address),
        _ => None,
    });
    Some((source?, destination?))
}
