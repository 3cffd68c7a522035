//! Addresses and networks as Kubernetes accepts them in its objects.
//!
//! Objects of old clusters have forms that are refused today, and kube-proxy goes on reading them (`ParseIPSloppy` and
//! `ParseCIDRSloppy` of `k8s.io/utils/net`).

use std::borrow::Cow;
use std::net::IpAddr;

use ferrule_model::IpNetwork;

/// Reads an address. Leading zeros of an IPv4 address mean nothing, and an IPv4 address that is written as IPv6
/// (`::ffff:192.0.2.1`) is an IPv4 address.
pub fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = without_zeros(text).parse().ok()?;
    Some(address.to_canonical())
}

/// Reads a network. Space around it means nothing, as do bits behind its prefix, and leading zeros of an IPv4 address.
pub fn network(text: &str) -> Option<IpNetwork> {
    let (address, prefix) = text.trim().split_once('/')?;
    if !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let address: IpAddr = without_zeros(address).parse().ok()?;
    let network = IpNetwork::new(address, prefix.parse().ok()?).ok()?;
    without_host_bits(network)
}

fn without_host_bits(network: IpNetwork) -> Option<IpNetwork> {
    IpNetwork::new(network.network(), network.prefix()).ok()
}

/// An IPv4 address without the leading zeros of its numbers; any other text as it is.
fn without_zeros(text: &str) -> Cow<'_, str> {
    let padded = |part: &str| part.len() > 1 && part.starts_with('0');
    if text.contains(':') || !text.split('.').any(padded) {
        return Cow::Borrowed(text);
    }
    let digits = |part| match str::trim_start_matches(part, '0') {
        "" if !part.is_empty() => "0",
        rest => rest,
    };
    Cow::Owned(text.split('.').map(digits).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_of_old_clusters_are_read() {
        let read = |text| address(text).map(|address| address.to_string());
        assert_eq!(read("010.000.0.08").as_deref(), Some("10.0.0.8"));
        assert_eq!(read("::ffff:192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(read("2001:DB8::1").as_deref(), Some("2001:db8::1"));
        for text in [
            "",
            "None",
            "10.0.0",
            "10.0.0.256",
            "1.2.3.4.5",
            "10..0.1",
            "0x0a.0.0.1",
            "+1.2.3.4",
            "fe80::1%eth0",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn networks_of_old_clusters_are_read() {
        let read = |text| network(text).map(|network| network.to_string());
        assert_eq!(read(" 192.0.02.77/24 ").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(read("2001:db8::1/64").as_deref(), Some("2001:db8::/64"));
        assert_eq!(read("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
        for text in [
            "",
            "/",
            "192.0.2.1",
            "192.0.2.0/33",
            "192.0.2.0/+8",
            "192.0.2.0/-1",
            "2001:db8::/129",
            "192.0.2.0/8/8",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_the_standard_library_reads_is_read_as_it_does(any in any::<IpAddr>(), prefix in 0_u8..=128) {
            prop_assert_eq!(address(&any.to_string()), Some(any.to_canonical()));
            let expected = IpNetwork::new(any, prefix).ok().and_then(without_host_bits);
            prop_assert_eq!(network(&format!("{any}/{prefix}")), expected);
        }

        #[test]
        fn no_text_panics(text in any::<String>(), almost in "[0-9./: ]{0,20}") {
            let _ = (address(&text), network(&text), address(&almost), network(&almost));
        }
    }
}
