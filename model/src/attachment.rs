//! The key of everything that belongs to one interface of one pod.

use std::fmt;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

/// One interface of one container in one network: what the CNI specification calls an attachment. The three together
/// are the key by which a lease, a host veth and a queued release are found.
///
/// Names and MACs of a pod's links are made from it, so that whoever knows the attachment finds the links without
/// asking anybody:
///
/// ```
/// use ferrule_model::{Attachment, host_mac, host_veth_name, ifb_name, is_host_veth, pod_mac, second_name};
///
/// let attachment = Attachment {
///     network: "ferrule".to_owned(),
///     container_id: "c0ffee".to_owned(),
///     ifname: "eth0".to_owned(),
/// };
/// let host_end = host_veth_name(&attachment);
/// assert_eq!(host_end.as_str(), "fer5bd0a454f72e");
/// assert!(is_host_veth(host_end.as_str()));
/// // The second name of the same link, and the device that limits what the pod sends.
/// assert_eq!(second_name(&host_end).unwrap().as_str(), "fea5bd0a454f72e");
/// assert_eq!(ifb_name(&attachment).as_str(), "fei5bd0a454f72e");
/// // The MACs of the two ends differ in their last octet.
/// assert_eq!(host_mac(&attachment).octets()[..5], pod_mac(&attachment).octets()[..5]);
/// assert_ne!(host_mac(&attachment), pod_mac(&attachment));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// `name` of the network configuration.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// 128 bits that stand for an [`Attachment`]. They are the same on every machine and in every version, because names of
/// links and of queued releases are made from them. They are displayed as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttachmentHash([u8; 16]);

impl Attachment {
    /// The hash from which names are made.
    pub fn hash(&self) -> AttachmentHash {
        AttachmentHash::of([&self.network, &self.container_id, &self.ifname].map(|field| field.as_bytes()))
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}

impl AttachmentHash {
    /// The hash of an attachment with these fields: network, container id, name of the interface.
    pub fn of(fields: [&[u8]; 3]) -> Self {
        let mut hasher = SipHasher13::new();
        for field in fields {
            hasher.write(field);
            // No field can hold NUL, so no two attachments feed the same bytes.
            hasher.write(&[0]);
        }
        Self(hasher.finish128().as_bytes())
    }

    /// The bytes.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for AttachmentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AttachmentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(network: &str, container_id: &str, ifname: &str) -> Attachment {
        Attachment { network: network.into(), container_id: container_id.into(), ifname: ifname.into() }
    }

    /// A node is upgraded with pods running: a hash that changed would orphan every veth.
    #[test]
    fn the_hash_never_changes() {
        assert_eq!(
            attachment("ferrule", "c0ffee", "eth0").hash().to_string(),
            "5bd0a454f72ed50dc9b70df1270fb7d8"
        );
    }

    #[test]
    fn moving_a_character_across_a_field_border_is_another_attachment() {
        assert_ne!(attachment("a", "bc", "eth0").hash(), attachment("ab", "c", "eth0").hash());
    }
}
