//! What every [`Traffic`] promises. The same tests show it on the fake kernel and on the real one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use ferrule_model::{Bucket, IfIndex, IfName, Mac, VethSpec};
use ferrule_netlink::fake::FakeWorld;
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Kernel, Netlink, netns};

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn spec() -> VethSpec {
    VethSpec {
        host_name: name("fer0"),
        host_mac: Mac::local([2, 0, 0, 0, 0, 1]),
        alias: None,
        pod_name: name("eth0"),
        pod_mac: Mac::local([2, 0, 0, 0, 0, 2]),
    }
}

fn test<K: Kernel + Traffic>(kernel: &mut K, pod: &K::Netns) {
    let veth = kernel.create_veth(&spec(), pod).unwrap().index;
    assert_eq!(kernel.limit_of(veth).unwrap(), None);
    assert_eq!(kernel.redirect_of(veth).unwrap(), None);

    for rate in [1, 1_250_000, 5_000_000_000] {
        let tbf = Bucket { rate, burst: 65_536 };
        kernel.limit(veth, tbf).unwrap();
        assert_eq!(kernel.limit_of(veth).unwrap(), Some(tbf));
    }
    let ifb = kernel.add_ifb(&name("fei0"), 9000, "pods: default/web").unwrap();
    assert_eq!((ifb.mtu, ifb.up), (9000, true));
    assert_eq!(ifb.alias.as_deref(), Some("pods: default/web"));
    assert_eq!(
        kernel.add_ifb(&name("fei0"), 9000, "pods: default/web").unwrap().index,
        ifb.index,
        "it is there already"
    );
    let second = kernel.add_ifb(&name("fei1"), 1500, "pods: default/web").unwrap();
    for to in [second.index, ifb.index] {
        kernel.redirect(veth, to).unwrap();
        assert_eq!(kernel.redirect_of(veth).unwrap(), Some(to));
    }
    assert!(kernel.limit(IfIndex(4711), Bucket { rate: 1, burst: 1 }).is_err());
    assert!(kernel.redirect(IfIndex(4711), ifb.index).is_err());
    assert!(kernel.delete_link(&name("fei0")).unwrap().is_some());
    assert_ne!(kernel.redirect_of(veth).unwrap(), Some(ifb.index));
}

#[test]
fn fake_kernel() {
    let world = FakeWorld::new();
    test(&mut world.kernel(&world.netns()), &world.netns());
}

#[test]
fn real_kernel() {
    let host = netns::make().expect("CAP_SYS_ADMIN: run through tests/in-namespace");
    let pod = netns::make().unwrap();
    test(&mut Netlink::open_in(&host).unwrap(), &pod);
}
