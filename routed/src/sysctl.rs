//! The kernel parameters that routing needs: which, as a pure list, and setting them.

use ferrule_netlink::sysctl;

/// One parameter and the value it has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its file below `/proc/sys`.
    pub name: String,
    /// Its value.
    pub value: &'static str,
    /// Only where it has this value now.
    pub only_from: Option<&'static str>,
}

impl Setting {
    /// Whether it has to be set where it has the value `now`.
    pub fn is_wrong(&self, now: &str) -> bool {
        now != self.value && self.only_from.is_none_or(|from| from == now)
    }

    /// Whether the kernel tells nobody of a change: it does of forwarding and reverse path filtering (`RTM_NEWNETCONF`), and of
    /// nothing that has to do with router advertisements.
    pub fn is_silent(&self) -> bool {
        self.name.ends_with("/accept_ra")
    }
}

/// What the two address families need, in the order it is set. `uplinks` are the links to the other nodes, `tunnels` are
/// our devices.
///
/// Once a node forwards IPv6, it takes no more router advertisements where `accept_ra` is 1, and would lose its default
/// route: hence 2, "also while forwarding" (ip-sysctl), before forwarding begins. Strict reverse path filtering would drop
/// what another node sends from its own address to a pod through the tunnel, as the answer leaves by the underlay: hence
/// 2, loose, on our own devices, which wins over 1 in `all`.
pub fn settings(uplinks: &[String], tunnels: &[String]) -> Vec<Setting> {
    let always = |name: &str, value| Setting { name: name.to_owned(), value, only_from: None };
    let mut settings: Vec<_> = uplinks
        .iter()
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

/// Sets what is not as it has to be. Gives what was changed, and what could not be.
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

/// What [`apply`] would change; `made` are devices that are perhaps not there yet and would be.
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
    // A kernel without IPv6, or a link that has just gone, has nothing to be set.
    let now = match sysctl::get(name) {
        Ok(now) => now,
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    if !setting.is_wrong(&now) {
        return Ok(false);
    }
    sysctl::set(name, value).map_err(|error| {
        let remedy = "set it on the node itself, or let routed write to /proc/sys (a privileged container, \
                      ProtectKernelTunables=no)";
        format!("{error}; it is {now} and has to be {value}: {remedy} (sysctl -w {}={value})", dotted(name))
    })
}

/// As `sysctl` takes it, where an interface name with a dot has a slash for it.
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

    #[test]
    fn router_advertisements_are_secured_before_forwarding_begins() {
        let settings = settings(&["eth0".into()], &["ferrule.1".into()]);
        let names: Vec<_> = settings.iter().map(|setting| setting.name.as_str()).collect();
        let expected = [
            "net/ipv6/conf/eth0/accept_ra",
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding",
            "net/ipv4/conf/ferrule.1/rp_filter",
        ];
        assert_eq!(names, expected);
        assert_eq!(settings[0].only_from, Some("1"), "an operator's 0 stays");
    }

    #[test]
    fn a_name_is_written_as_sysctl_takes_it() {
        assert_eq!(dotted("net/ipv4/conf/ferrule.1/rp_filter"), "net.ipv4.conf.ferrule/1.rp_filter");
    }
}
