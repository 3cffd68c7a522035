//! The compact form against the plain one: what is packed is what is opened, whatever it is, and any bytes are read or
//! refused.

use super::*;
use proptest::prelude::*;

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9/._-]{0,20}",
        "[0-9a-f]{0,70}",
        "(/var/run/netns/cni-)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "\\PC{0,12}",
    ]
}

fn attachments() -> impl Strategy<Value = Attachment> {
    (texts(), texts(), texts()).prop_map(|(network, container_id, ifname)| Attachment {
        network,
        container_id,
        ifname,
    })
}

fn leases() -> impl Strategy<Value = Lease> {
    let pods = prop::option::of((texts(), texts(), texts()));
    let addresses = prop::collection::vec((any::<IpAddr>(), 0u8..=32), 0..3);
    (attachments(), addresses, texts(), pods, prop::option::of(texts()), any::<u64>()).prop_map(
        |(attachment, addresses, pool, pod, netns, given_at_boottime_ms)| Lease {
            attachment,
            addresses: addresses
                .into_iter()
                .map(|(ip, prefix)| IpNetwork::new(ip, prefix).unwrap())
                .collect(),
            pool,
            pod: pod.map(|(namespace, name, uid)| Pod { namespace, name, uid }),
            netns,
            given_at_boottime_ms,
        },
    )
}

/// A lease with a byte changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    (leases(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(lease, place, byte)| {
        let mut bytes = Packed::new(&lease).bytes().to_vec();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        bytes
    })
}

proptest! {
    #[test]
    fn what_is_packed_is_what_is_opened(lease in leases(), behind in prop::collection::vec(any::<u8>(), 0..3)) {
        let packed = Packed::new(&lease);
        prop_assert_eq!(&packed.open(), &lease);
        let bytes = [packed.bytes(), &behind].concat();
        let mut rest = &*bytes;
        prop_assert_eq!(Lease::skip(&mut rest), Ok(()));
        prop_assert_eq!(&Packed::of_bytes(&bytes[..bytes.len() - rest.len()]), &packed);
        prop_assert_eq!(rest, behind);
        prop_assert_eq!(&packed.attachment(), &lease.attachment);
        prop_assert_eq!(packed.hash(), lease.attachment.hash());
        let former = Former { attachment: lease.attachment.clone(), pod: lease.pod.clone() };
        prop_assert_eq!(packed.former(), Packed::new(&former));
        prop_assert_eq!(packed.addresses().collect::<Vec<_>>(), lease.addresses);
        prop_assert!(packed.is_of_pool(&lease.pool) && packed.is_of_network(&lease.attachment.network));
        prop_assert!(!packed.is_of_pool("another") || lease.pool == "another");
    }

    #[test]
    fn the_order_is_that_of_attachments(one in attachments(), other in attachments()) {
        let lease = |attachment: &Attachment| {
            let (addresses, pool) = (Vec::new(), String::new());
            let attachment = attachment.clone();
            Packed::new(&Lease { attachment, addresses, pool, pod: None, netns: None, given_at_boottime_ms: 0 })
        };
        let (a, b) = (lease(&one), lease(&other));
        prop_assert_eq!(a.cmp_attachment(&b), one.cmp(&other));
        if !format!("{one}{other}").contains('\0') {
            prop_assert!(a.prefix() == b.prefix() || a.prefix().cmp(&b.prefix()) == one.cmp(&other));
        }
        prop_assert_eq!(a.cmp_attachment(&Packed::probe(&one)), Ordering::Equal);
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), damaged()],
    ) {
        let (mut read, mut skipped) = (&*bytes, &*bytes);
        let (lease, passed) = (Lease::read(&mut read), Lease::skip(&mut skipped));
        prop_assert_eq!(lease.is_ok(), passed.is_ok());
        if let Ok(lease) = lease {
            prop_assert_eq!(read, skipped);
            prop_assert_eq!(Packed::new(&lease).open(), lease);
        }
    }
}

#[test]
fn a_lease_as_a_kubelet_asks_for_it_is_small() {
    let lease = Lease {
        attachment: Attachment {
            network: "pods".into(),
            container_id: "0123456789abcdef".repeat(4),
            ifname: "eth0".into(),
        },
        addresses: vec!["10.244.1.7/32".parse().unwrap()],
        pool: "node".into(),
        pod: Some(Pod {
            namespace: "shop".into(),
            name: "web-5d4f8c7b9-x2x4z".into(),
            uid: "01234567-89ab-cdef-0123-456789abcdef".into(),
        }),
        netns: Some("/var/run/netns/cni-01234567-89ab-cdef-0123-456789abcdef".into()),
        given_at_boottime_ms: 123_456_789,
    };
    let json = serde_json::to_vec(&lease).unwrap().len();
    let packed = Packed::new(&lease).bytes().len();
    assert!(5 * packed < 2 * json, "{packed} bytes, JSON {json}");
}
