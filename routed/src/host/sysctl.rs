//! The kernel parameters that routing needs: a pure list of them, and the code that sets them.

use std::collections::BTreeSet;

use ferrule_model::is_host_veth;
use ferrule_netlink::advertised;
use ferrule_netlink::forwarding::Stopped;
use ferrule_netlink::sysctl::{self, SysctlError};

/// One parameter and the value it has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its file below `/proc/sys`.
    pub name: String,
    /// Its value.
    pub value: &'static str,
    /// If set, the parameter is changed only where it has this value now.
    pub only_from: Option<&'static str>,
}

impl Setting {
    /// Whether the parameter has to be set, given the value `now`.
    pub fn is_wrong(&self, now: &str) -> bool {
        now != self.value && self.only_from.is_none_or(|from| from == now)
    }

    /// Whether the value `now` suffices, if the wanted one cannot be set.
    fn does(&self, now: &str, beside: &Beside<'_>) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        if self.name.ends_with("/rp_filter") {
            // The larger of the link's own value and that of all links counts (ip-sysctl), and only 1 is strict.
            let all = (beside.rp_filter_of_all)();
            return number(now).max(all.as_deref().and_then(number)).is_some_and(|counts| counts != 1);
        }
        if let Some(link) = self.accept_ra_of() {
            return !(beside.is_advertised)(link);
        }
        // This is forwarding: any value but 0 means on.
        self.value == "1" && number(now).is_some_and(|now| now != 0)
    }

    /// The link, if this is the `accept_ra` of one.
    fn accept_ra_of(&self) -> Option<&str> {
        self.name.strip_prefix("net/ipv6/conf/")?.strip_suffix("/accept_ra")
    }

    /// Whether the kernel does not tell of changes. It tells of changes to forwarding and reverse path filtering
    /// (`RTM_NEWNETCONF`), but of nothing that has to do with router advertisements.
    pub fn is_silent(&self) -> bool {
        self.accept_ra_of().is_some()
    }
}

/// What else decides whether a value suffices.
struct Beside<'a> {
    /// The reverse path filtering of all links.
    rp_filter_of_all: &'a dyn Fn() -> Option<String>,
    /// Whether a link has IPv6 from a router that advertises itself. Only then is anything lost when the kernel no
    /// longer accepts advertisements.
    is_advertised: &'a dyn Fn(&str) -> bool,
}

/// What the two address families need, in the order in which it is set. `uplinks` are the links to the other nodes,
/// `tunnels` are our devices, and `given` are the links that have IPv6 from a router that advertises itself.
///
/// Once a node forwards IPv6, it accepts no more router advertisements where `accept_ra` is 1. It would lose its
/// default route, by whatever link that leads. Hence `accept_ra` becomes 2, "also while forwarding" (ip-sysctl), before
/// forwarding begins. On an uplink the first advertisement may still be on its way.
///
/// Strict reverse path filtering would drop what another node sends from its own address to a pod through the tunnel,
/// because the answer leaves by the underlay. Hence our own devices get 2, loose, which wins over 1 in `all`.
pub fn settings(uplinks: &[String], tunnels: &[String], given: &BTreeSet<String>) -> Vec<Setting> {
    let always = |name: &str, value| Setting { name: name.to_owned(), value, only_from: None };
    let others = given.iter().filter(|link| !uplinks.contains(link) && !tunnels.contains(link));
    let mut settings: Vec<_> = uplinks
        .iter()
        .chain(others)
        .map(|link| Setting {
            name: format!("net/ipv6/conf/{link}/accept_ra"),
            value: "2",
            only_from: Some("1"),
        })
        .collect();
    settings.push(always("net/ipv4/ip_forward", "1"));
    settings.push(always("net/ipv6/conf/all/forwarding", "1"));
    settings.extend(tunnels.iter().map(|device| always(&format!("net/ipv4/conf/{device}/rp_filter"), "2")));
    settings
}

/// The settings of links on the way of pods' packets that do not forward IPv4, though the node does: the links to the
/// other nodes, our devices, the pods' links and their bridges, and the default of links to come. Other links are the
/// operator's to switch off.
pub fn forwarding(stopped: &[Stopped], uplinks: &[String], tunnels: &[String]) -> Vec<Setting> {
    let on_the_way = |stopped: &Stopped| match stopped {
        Stopped::Default => Some("default".to_owned()),
        Stopped::Link { name, has_pods } => {
            let name = name.as_str();
            let known = uplinks.iter().chain(tunnels).any(|known| known == name);
            (*has_pods || known || is_host_veth(name)).then(|| name.to_owned())
        }
    };
    let setting =
        |link| Setting { name: format!("net/ipv4/conf/{link}/forwarding"), value: "1", only_from: Some("0") };
    stopped.iter().filter_map(on_the_way).map(setting).collect()
}

/// Sets what is not as it has to be. Returns what was changed, and what could not be.
pub fn apply(settings: &[Setting]) -> (Vec<String>, Vec<String>) {
    let (mut changed, mut failed) = (Vec::new(), Vec::new());
    for setting in settings {
        match set(setting) {
            Ok(true) => changed.push(format!("{}={}", dotted(&setting.name), setting.value)),
            Ok(false) => {}
            Err(text) => failed.push(text),
        }
    }
    (changed, failed)
}

/// What [`apply`] would change. `made` are devices that may not be there yet and would be made.
pub fn plan(settings: &[Setting], made: &[String]) -> Vec<String> {
    let line = |setting: &Setting| {
        let Setting { name, value, .. } = setting;
        let of_made = made.iter().any(|made| name.contains(&format!("/{made}/")));
        let now = match sysctl::get(name) {
            Ok(now) => now,
            Err(_) if of_made => return Some(format!("set sysctl {}={value}", dotted(name))),
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => return Some(error.to_string()),
        };
        setting.is_wrong(&now).then(|| format!("set sysctl {}={value} (it is {now})", dotted(name)))
    };
    settings.iter().filter_map(line).collect()
}

fn set(setting: &Setting) -> Result<bool, String> {
    let Setting { name, value, .. } = setting;
    // There is nothing to set in a kernel without IPv6, or for a link that has just gone.
    let now = match sysctl::get(name) {
        Ok(now) => now,
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    if !setting.is_wrong(&now) {
        return Ok(false);
    }
    let beside = Beside {
        rp_filter_of_all: &|| sysctl::get("net/ipv4/conf/all/rp_filter").ok(),
        // If the kernel does not tell, an operator had better look.
        is_advertised: &|link| advertised().map_or(true, |links| links.contains(link)),
    };
    match sysctl::set(name, value) {
        Err(_) if setting.does(&now, &beside) => Ok(false),
        result => result.map_err(|error| cannot(setting, &now, &error)),
    }
}

fn cannot(Setting { name, value, .. }: &Setting, now: &str, error: &SysctlError) -> String {
    let remedy = "set it on the node itself, or let routed write to /proc/sys (a privileged container, \
                  ProtectKernelTunables=no)";
    format!("{error}; it is {now} and has to be {value}: {remedy} (sysctl -w {}={value})", dotted(name))
}

/// The name as `sysctl` accepts it: a dot in the name of an interface becomes a slash.
fn dotted(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c == '/' {
                '.'
            } else if c == '.' {
                '/'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::IfName;

    #[test]
    fn router_advertisements_are_secured_before_forwarding_begins() {
        let given = BTreeSet::from(["eth0", "eth1", "ferrule.1"].map(String::from));
        let settings = settings(&["eth0".into()], &["ferrule.1".into()], &given);
        let names: Vec<_> = settings.iter().map(|setting| setting.name.as_str()).collect();
        let expected = [
            "net/ipv6/conf/eth0/accept_ra",
            "net/ipv6/conf/eth1/accept_ra",
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding",
            "net/ipv4/conf/ferrule.1/rp_filter",
        ];
        assert_eq!(names, expected);
        assert_eq!(settings[0].only_from, Some("1"), "an operator's 0 stays");
    }

    #[test]
    fn a_value_that_does_as_well_is_no_fault_where_the_wished_one_cannot_be_had() {
        let settings = settings(&["eth0".into()], &["ferrule.1".into()], &BTreeSet::new());
        let does = |name: &str, now: &str, all: &str, given_on: &str| {
            let setting = settings.iter().find(|setting| setting.name.ends_with(name)).unwrap();
            let (all, is_advertised) = (|| Some(all.to_owned()), |link: &str| link == given_on);
            setting.does(now, &Beside { rp_filter_of_all: &all, is_advertised: &is_advertised })
        };
        for (now, all, right) in [
            ("0", "0", true),
            ("0", "2", true),
            ("1", "2", true),
            ("0", "1", false),
            ("1", "0", false),
            ("1", "1", false),
        ] {
            assert_eq!(does("rp_filter", now, all, ""), right, "rp_filter is {now}, that of all links {all}");
        }
        assert!(does("ip_forward", "2", "", ""));
        assert!(!does("ip_forward", "0", "", ""));
        assert!(!does("accept_ra", "1", "", "eth0"), "the router's default route would end");
        assert!(does("accept_ra", "1", "", "eth1"), "nothing was ever advertised on eth0");
    }

    #[test]
    fn what_pods_packets_come_in_by_forwards_and_nothing_else_has_to() {
        let link = |name, has_pods| Stopped::Link { name: IfName::new(name).unwrap(), has_pods };
        let stopped = [
            Stopped::Default,
            link("eth0", false),
            link("ferrule.1", false),
            link("fer0123456789ab", false),
            link("ferrule0", true),
            link("br0", false),
            link("eth1", false),
        ];
        let settings = forwarding(&stopped, &["eth0".into()], &["ferrule.1".into()]);
        let links: Vec<_> = settings.iter().map(|setting| setting.name.split('/').nth(3).unwrap()).collect();
        assert_eq!(links, ["default", "eth0", "ferrule.1", "fer0123456789ab", "ferrule0"]);
    }

    #[test]
    fn a_name_is_written_as_sysctl_takes_it() {
        assert_eq!(dotted("net/ipv4/conf/ferrule.1/rp_filter"), "net.ipv4.conf.ferrule/1.rp_filter");
    }
}
