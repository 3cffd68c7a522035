//! Names and numbers that tell Ferrule's objects from everybody else's.

use std::fmt;

use crate::{Attachment, Mac};
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

/// `rtm_protocol` of every route and `nh_protocol` of every nexthop object that Ferrule makes; `conf/` ships its name
/// for `rt_protos.d`.
pub const PROTOCOL: u8 = 70;

/// The beginning of the names of host veths. [`HOST_VETH_DIGITS`] hex digits follow.
const HOST_VETH_PREFIX: &str = "fer";
/// The beginning of the names of devices that limit what pods send. As many digits follow.
const IFB_PREFIX: &str = "fei";
/// The beginning of the second names of hosts' ends. As many digits follow.
const SECOND_PREFIX: &str = "fea";
/// The name of the WireGuard device, unless the configuration says otherwise.
pub const WIREGUARD_DEVICE: &str = "ferrule-wg";
/// The beginnings of the names of VXLAN devices, Ferrule's and flannel's, unless the configuration says otherwise. The
/// VNI follows.
const TUNNEL_PREFIXES: [&str; 3] = ["ferrule.", "flannel.", "flannel-v6."];
/// 3 + 12 fill the 15 bytes that the kernel has for a name.
const HOST_VETH_DIGITS: usize = 12;

/// A network interface name that the kernel takes literally. It is one that `dev_valid_name` accepts, and it has no
/// special meaning to the kernel: `%d` would become a number of the kernel's choice, and `all` and `default` are
/// directories of `/proc/sys/net`.
///
/// ```
/// use ferrule_model::IfName;
///
/// assert_eq!(IfName::new("eth0")?.as_str(), "eth0");
/// // The kernel would make eth0, eth1 and so on of it.
/// let error = IfName::new("eth%d").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "\"eth%d\" is not an interface name: it contains `%`, in whose place the kernel would put a number"
/// );
/// # Ok::<(), ferrule_model::IfNameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// Why a text is not an interface name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not an interface name: {reason}")]
pub struct IfNameError {
    name: String,
    reason: &'static str,
}

impl IfName {
    /// `IFNAMSIZ`, less the NUL.
    pub const MAX_LEN: usize = 15;

    /// Checks `name`.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, IfNameError> {
        // The kernel's `isspace` looks at single bytes. It takes 0xa0 for a space, even inside of a longer letter.
        const SPACES: [u8; 7] = [b' ', b'\t', b'\n', 0x0b, 0x0c, b'\r', 0xa0];
        let name = name.into();
        let reason = match name.as_str() {
            "" => "it is empty",
            "." | ".." => "`.` and `..` are directories in /sys/class/net",
            "all" | "default" => {
                "the kernel has settings for all links under this name (/proc/sys/net/ipv4/conf)"
            }
            _ if name.len() > Self::MAX_LEN => "it has more than 15 bytes",
            _ if name.contains(['/', ':']) => "it contains `/` or `:`",
            _ if name.contains('%') => "it contains `%`, in whose place the kernel would put a number",
            _ if name.contains(|c: char| c.is_whitespace() || c.is_control()) => "it contains white space",
            _ if name.bytes().any(|byte| SPACES.contains(&byte)) => {
                "it contains a letter that the kernel takes for white space"
            }
            _ => return Ok(Self(name)),
        };
        Err(IfNameError { name, reason })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name has a form that Ferrule gives to links of pods or to the devices that limit them.
    pub fn is_of_pods(&self) -> bool {
        [HOST_VETH_PREFIX, SECOND_PREFIX, IFB_PREFIX].into_iter().any(|prefix| has_digits(&self.0, prefix))
    }

    /// Whether it is a tunnel's name, as Ferrule and flannel choose it unless they are told another.
    pub fn is_of_tunnels(&self) -> bool {
        let number = |prefix: &str| {
            let digits = self.0.strip_prefix(prefix).filter(|digits| !digits.is_empty());
            digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        };
        self.0 == WIREGUARD_DEVICE || TUNNEL_PREFIXES.into_iter().any(number)
    }
}

impl TryFrom<String> for IfName {
    type Error = IfNameError;

    fn try_from(name: String) -> Result<Self, IfNameError> {
        Self::new(name)
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Name of the host's end of the veth pair that serves `attachment`: `fer` and 12 hex digits. DEL finds the link by it
/// without asking anybody.
pub fn host_veth_name(attachment: &Attachment) -> IfName {
    let mut name = format!("{HOST_VETH_PREFIX}{}", attachment.hash());
    name.truncate(HOST_VETH_PREFIX.len() + HOST_VETH_DIGITS);
    IfName(name)
}

/// Name of the host's end for the attachment with this hash. `None` if the text is not a hash.
pub fn host_veth_of(hash: &str) -> Option<IfName> {
    let name = format!("{HOST_VETH_PREFIX}{}", hash.get(..HOST_VETH_DIGITS)?);
    is_host_veth(&name).then_some(IfName(name))
}

/// The second name of the host's end that was made under the name `made_as`: `fea` and the same digits. By it the link
/// is known even if somebody renames it. `None` if `made_as` is not the name of a host's end.
pub fn second_name(made_as: &IfName) -> Option<IfName> {
    let digits =
        made_as.as_str().strip_prefix(HOST_VETH_PREFIX).filter(|_| is_host_veth(made_as.as_str()))?;
    Some(IfName(format!("{SECOND_PREFIX}{digits}")))
}

/// The name under which the host's end with the second name `second` was made.
pub fn made_as(second: &str) -> Option<IfName> {
    let digits = second.strip_prefix(SECOND_PREFIX).filter(|_| has_digits(second, SECOND_PREFIX))?;
    Some(IfName(format!("{HOST_VETH_PREFIX}{digits}")))
}

/// Name of the device that limits what the pod of `attachment` sends: `fei` and the digits of its veth.
pub fn ifb_name(attachment: &Attachment) -> IfName {
    let mut name = format!("{IFB_PREFIX}{}", attachment.hash());
    name.truncate(IFB_PREFIX.len() + HOST_VETH_DIGITS);
    IfName(name)
}

/// Whether this is the name of such a device.
pub fn is_ifb(name: &str) -> bool {
    has_digits(name, IFB_PREFIX)
}

/// Whether this is the name of the host's end of a pod's veth pair that the plugin made.
pub fn is_host_veth(name: &str) -> bool {
    has_digits(name, HOST_VETH_PREFIX)
}

fn has_digits(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|digits| {
        digits.len() == HOST_VETH_DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// MAC of the host's end for `attachment`. The pod's permanent neighbour needs it before the link exists.
pub fn host_mac(attachment: &Attachment) -> Mac {
    let hash = attachment.hash().bytes();
    Mac::local([hash[6], hash[7], hash[8], hash[9], hash[10], !hash[11]])
}

/// MAC of the pod's end for `attachment`. It is never the same as that of the host's end.
pub fn pod_mac(attachment: &Attachment) -> Mac {
    let hash = attachment.hash().bytes();
    Mac::local([hash[6], hash[7], hash[8], hash[9], hash[10], hash[11]])
}

/// MAC of a bridge. It is the same whenever the bridge is made, because pods have it in their neighbour tables.
pub fn bridge_mac(name: &IfName) -> Mac {
    named_mac(b"bridge\0", name.as_str())
}

/// MAC of the VXLAN device of the node `name`. It is made from the name alone, so it survives reboots, and every other
/// node knows it without being told.
pub fn vtep_mac(name: &str) -> Mac {
    named_mac(b"vtep\0", name)
}

fn named_mac(of: &[u8], name: &str) -> Mac {
    let mut hasher = SipHasher13::new();
    hasher.write(of);
    hasher.write(name.as_bytes());
    let [a, b, c, d, e, f, ..] = hasher.finish128().as_bytes();
    Mac::local([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment { network: "ferrule".into(), container_id: "c0ffee".into(), ifname: "eth0".into() }
    }

    #[test]
    fn a_host_veth_is_recognised_by_its_name() {
        assert!(is_host_veth(host_veth_name(&attachment()).as_str()));
        for foreign in
            ["ferrule.1", "ferrule0", "fer", "fer0123456789aX", "fer0123456789a", "eth0", "fer0123456789ABC"]
        {
            assert!(!is_host_veth(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_pods_other_names_tell_its_veth() {
        let veth = host_veth_name(&attachment());
        assert_eq!(host_veth_of(&attachment().hash().to_string()), Some(veth.clone()));
        for nonsense in ["", "0123", "0123456789AB", "änderungen12"] {
            assert_eq!(host_veth_of(nonsense), None, "{nonsense}");
        }
        let ifb = ifb_name(&attachment());
        assert_eq!(ifb.as_str()[3..], veth.as_str()[3..]);
        let second = second_name(&veth).unwrap();
        assert!(second.as_str().len() <= 15 && second != veth && !is_host_veth(second.as_str()));
        assert_eq!(
            (made_as(second.as_str()), made_as(veth.as_str()), second_name(&second)),
            (Some(veth.clone()), None, None)
        );
        assert!(is_ifb(ifb.as_str()) && !is_ifb(veth.as_str()) && !is_host_veth(ifb.as_str()));
    }

    #[test]
    fn the_two_ends_have_different_macs() {
        assert_ne!(host_mac(&attachment()), pod_mac(&attachment()));
    }

    #[test]
    fn the_kernels_rules_for_names_hold() {
        for good in ["eth0", "ferrule.1", "a", "123456789012345", "all0", "defaults", "ü"] {
            assert_eq!(IfName::new(good).unwrap().as_str(), good);
        }
        for (bad, reason) in [
            ("", "empty"),
            (".", "directories"),
            ("..", "directories"),
            ("1234567890123456", "15 bytes"),
            ("a/b", "`/`"),
            ("a:b", "`:`"),
            ("a b", "white space"),
            ("a\n", "white space"),
            ("eth%d", "`%`"),
            ("%s", "`%`"),
            ("all", "all links"),
            ("default", "all links"),
            // 0xc3 0xa0: the kernel sees a space.
            ("à", "takes for white space"),
        ] {
            let error = IfName::new(bad).unwrap_err().to_string();
            assert!(error.contains(reason), "{bad:?}: {error}");
        }
    }

    #[test]
    fn names_that_ferrule_gives_itself_are_known() {
        let name = |text: &str| IfName::new(text).unwrap();
        let veth = host_veth_name(&attachment());
        for of_pods in [&veth, &second_name(&veth).unwrap(), &ifb_name(&attachment())] {
            assert!(of_pods.is_of_pods() && !of_pods.is_of_tunnels(), "{of_pods}");
        }
        for tunnel in ["ferrule.1", "ferrule.4096", "ferrule-wg", "flannel.1", "flannel-v6.1"] {
            assert!(name(tunnel).is_of_tunnels() && !name(tunnel).is_of_pods(), "{tunnel}");
        }
        for neither in ["ferrule0", "ferrule.", "ferrule.x", "cni0", "fer0", "feb0123456789ab"] {
            assert!(!name(neither).is_of_tunnels() && !name(neither).is_of_pods(), "{neither}");
        }
    }

    /// Every node works this out for every other one: a change would break a cluster in the middle of an upgrade.
    #[test]
    fn a_vtep_mac_never_changes() {
        assert_eq!(vtep_mac("node1").to_string(), "1e:ca:5c:48:e6:ef");
    }
}
