//! Attributes behind a message's header. This module writes those for which the packet crates have no types. It reads
//! in place those that occur by the thousand.

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLA_TYPE_MASK};

/// Kinds and values of the attributes in these bytes. An attribute that is cut short is `None`, and the last one.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        (!bytes.is_empty()).then(|| {
            let (&[l0, l1, k0, k1], _) = bytes.split_first_chunk()?;
            let length = usize::from(u16::from_ne_bytes([l0, l1]));
            let value = bytes.get(4..length)?;
            self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value))
        })
    }
}

/// An attribute that holds others.
pub(crate) fn nested(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    let mut value = Vec::new();
    append(&mut value, inside);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

/// Appends the attributes.
pub(crate) fn append(payload: &mut Vec<u8>, attributes: &[DefaultNla]) {
    let start = payload.len();
    payload.resize(start + attributes.buffer_len(), 0);
    attributes.emit(&mut payload[start..]);
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NlasIterator;

    use super::*;

    /// Two attributes, with every length that the first may claim, cut off at every byte.
    #[test]
    fn attributes_are_read_as_the_packet_crate_reads_them() {
        for length in 0..20_u8 {
            let bytes = [length, 0, 1, 0x80, 1, 2, 3, 4, 8, 0, 2, 0x40, 8, 0, 3, 0, 9, 9];
            for bytes in (0..=bytes.len()).map(|end| &bytes[..end]) {
                let ours: Vec<_> = Attributes(bytes).collect();
                let theirs: Vec<_> = NlasIterator::new(bytes).collect();
                let theirs = theirs.iter().map(|attribute| {
                    attribute.as_ref().ok().map(|attribute| (attribute.kind(), attribute.value()))
                });
                assert_eq!(ours, theirs.collect::<Vec<_>>(), "{bytes:?}");
            }
        }
    }
}
