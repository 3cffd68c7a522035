//! Attributes that the packet crates have no types for, put behind a message's header.

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};

/// One that holds others.
pub(crate) fn nested(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    let mut value = Vec::new();
    append(&mut value, inside);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

/// Puts them at the end.
pub(crate) fn append(payload: &mut Vec<u8>, attributes: &[DefaultNla]) {
    let start = payload.len();
    payload.resize(start + attributes.buffer_len(), 0);
    attributes.emit(&mut payload[start..]);
}
