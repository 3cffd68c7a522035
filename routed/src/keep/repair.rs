//! Works out what has to be done so that a pod has on the host what its ADD made, and makes the sentences about it:
//! pure.

use ferrule_model::{HostSide, Link, Mac, Neighbour, Op, Route, RouteKey, WayTo};

use crate::decide::report;

/// What the kernel has for one address of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What has to be there.
    pub wanted: WayTo,
    /// The entry of the ARP or NDP table.
    pub neighbour: Option<Neighbour>,
    /// The route that a packet to the address would take.
    pub route: Option<(RouteKey, Route)>,
}

/// A change, and the sentence about it once it is made. There is no sentence if another one says the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// The change.
    pub op: Op,
    /// The sentence.
    pub said: Option<String>,
}

/// What is to be done. The link comes first, because what is on it is lost while it is off.
pub fn fixes(made: &HostSide, link: &Link, ways: &[Found]) -> Vec<Fix> {
    let mut fixes = Vec::new();
    let change = made.change(link);
    let was_off = change.as_ref().is_some_and(|change| change.up.is_some());
    if let Some(change) = change {
        let with = if was_off { ", with its routes and neighbours" } else { "" };
        let said = report::device_repair(link.name.as_str(), &change) + with + &of(made);
        fixes.push(Fix { op: Op::SetLink(link.index, change), said: Some(said) });
    }
    for Found { wanted, neighbour, route } in ways {
        let [put_neighbour, put_route] = wanted.ops();
        let (key, value) = wanted.neighbour;
        if was_off || *neighbour != Some(value) {
            let what = format!("neighbour {} on {}", key.address, link.name);
            let is_there = neighbour.is_some_and(|found| found.mac.is_some());
            fixes.push(Fix { op: put_neighbour, said: (!was_off).then(|| sentence(&what, is_there, made)) });
        }
        if was_off || *route != Some(wanted.route) {
            let (key, _) = wanted.route;
            let is_there = route.is_some_and(|(found, _)| found == key);
            let said = (!was_off).then(|| sentence(&format!("route {}", key.dst), is_there, made));
            fixes.push(Fix { op: put_route, said });
        }
    }
    fixes
}

fn sentence(what: &str, is_there: bool, made: &HostSide) -> String {
    let verb = if is_there { "changed" } else { "deleted" };
    format!("{what} was {verb} by someone else; put back{}", of(made))
}

/// The pod that it belongs to.
pub fn of(made: &HostSide) -> String {
    format!(" (pod {})", made.pod)
}

/// The sentence about a pod that has another MAC than `mac`, which its ADD gave it.
pub fn other_mac(made: &HostSide, mac: Mac) -> String {
    let (interface, link, pod) = (&made.attachment.ifname, made.link(), &made.pod);
    format!(
        "the MAC of {interface} in pod {pod} is no longer {mac}, so that the pod is cut off ({link}): if a plugin behind ferrule sets it, \
         such as tuning, let ferrule do that (capability \"mac\"), and attach the pod again"
    )
}

/// The sentence about a host's end that is gone.
pub fn gone(made: &HostSide, lives: bool) -> String {
    let (link, pod, netns) = (made.link(), &made.pod, &made.netns);
    if lives {
        format!(
            "link {link} was deleted by someone else, and pod {pod} is cut off, as its own end went with it: delete the pod, so that \
             it is made anew"
        )
    } else {
        format!(
            "link {link} of pod {pod} went with its network namespace {netns}; nothing is kept for it any more"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::{Attachment, IfIndex, Limits, LinkChange, LinkKind, Way, host_mac};

    const LINK: IfIndex = IfIndex(7);

    fn made() -> HostSide {
        let attachment =
            Attachment { network: "pods".into(), container_id: "c0ffee".into(), ifname: "eth0".into() };
        let addresses = vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let way = Way::Routed { pod_mac: Mac::local([9; 6]), addresses };
        HostSide {
            attachment,
            pod: "default/web".into(),
            netns: "/run/netns/a".into(),
            mtu: 1450,
            way,
            ports: None,
            limits: Limits::default(),
        }
    }

    fn link(made: &HostSide) -> Link {
        Link {
            index: LINK,
            name: made.link(),
            mac: Some(host_mac(&made.attachment)),
            mtu: 1450,
            up: true,
            carrier: true,
            alias: None,
            peer: None,
            kind: LinkKind::Veth,
        }
    }

    fn right(made: &HostSide) -> Vec<Found> {
        let found = |wanted: WayTo| {
            let (neighbour, route) = (Some(wanted.neighbour.1), Some(wanted.route));
            Found { wanted, neighbour, route }
        };
        made.ways(LINK).map(found).collect()
    }

    fn lines(fixes: &[Fix]) -> Vec<(String, String)> {
        fixes.iter().map(|fix| (fix.op.to_string(), fix.said.clone().unwrap_or_default())).collect()
    }

    #[test]
    fn what_is_right_is_left_alone() {
        assert_eq!(fixes(&made(), &link(&made()), &right(&made())), []);
        // The pod's end is off, or its cable is out. That is the pod's affair.
        let without_carrier = Link { carrier: false, ..link(&made()) };
        assert_eq!(fixes(&made(), &without_carrier, &right(&made())), []);
    }

    #[test]
    fn a_link_that_was_off_is_put_right_with_all_that_went_with_it_in_one_sentence() {
        let made = made();
        let fixes = fixes(&made, &Link { up: false, ..link(&made) }, &right(&made));
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        assert_eq!(fixes[0].op, Op::SetLink(LINK, up));
        let ways: Vec<_> = made.ways(LINK).flat_map(|way| way.ops()).collect();
        assert_eq!(fixes[1..].iter().map(|fix| fix.op.clone()).collect::<Vec<_>>(), ways);
        let said: Vec<_> = fixes.iter().filter_map(|fix| fix.said.clone()).collect();
        assert_eq!(
            said,
            [format!(
                "link {} was switched off by someone else; put right, with its routes and neighbours (pod default/web)",
                made.link()
            )]
        );
    }

    #[test]
    fn only_what_differs_is_put_back() {
        let made = made();
        let mut ways = right(&made);
        ways[0].neighbour = None;
        // Another route covers the address.
        ways[0].route = Some((RouteKey::main("0.0.0.0/0".parse().unwrap()), Route::unreachable()));
        ways[1].route.as_mut().unwrap().1 = Route::unreachable();
        let veth = made.link();
        assert_eq!(
            lines(&fixes(&made, &link(&made), &ways)),
            [
                (
                    "neigh replace 10.244.1.5 dev 7".to_owned(),
                    format!(
                        "neighbour 10.244.1.5 on {veth} was deleted by someone else; put back (pod default/web)"
                    )
                ),
                (
                    "route replace 10.244.1.5/32 table 254".to_owned(),
                    "route 10.244.1.5/32 was deleted by someone else; put back (pod default/web)".to_owned()
                ),
                (
                    "route replace fd00::5/128 table 254".to_owned(),
                    "route fd00::5/128 was changed by someone else; put back (pod default/web)".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn another_mac_and_mtu_are_put_right() {
        let made = made();
        let wrong = Link { mac: Some(Mac::local([1; 6])), mtu: 1400, ..link(&made) };
        let fixes = fixes(&made, &wrong, &right(&made));
        assert_eq!(fixes.len(), 1);
        assert!(
            fixes[0]
                .said
                .as_ref()
                .unwrap()
                .contains("given another MTU and given another MAC by someone else")
        );
    }
}
