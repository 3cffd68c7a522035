//! The plugin's whole way in, from environment and standard input to a request or an answer, and what has to hold of it
//! whatever comes: for the property test of `inputs.rs` and for the fuzz target in `fuzz/`, which share nothing else.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ferrule_cni::decide::{pod, ports};
use ferrule_cni::edge::request::Invocation;
use ferrule_cni::edge::result::AddResult;
use ferrule_cni::edge::spec::Version;
use ferrule_cni::{Answer, Face, Node, run};
use ferrule_model::{IfIndex, IfName, Mac, host_prefix};
use ferrule_netlink::fake::{FakeKernel, FakeNetns};
use ferrule_netlink::netns::NetnsError;
use ferrule_netlink::sysctl::SysctlError;
use serde_json::Value;

/// The variables that the plugin reads.
pub(crate) const NAMES: [&str; 8] = [
    "CNI_COMMAND",
    "CNI_CONTAINERID",
    "CNI_NETNS",
    "CNI_IFNAME",
    "CNI_ARGS",
    "CNI_PATH",
    "CNI_NETNS_OVERRIDE",
    "TRACEPARENT",
];

/// The environment, as far as it is looked at.
pub(crate) type Variables = BTreeMap<&'static str, OsString>;

/// Reads a request. What cannot be read is answered with an error of the specification; of what can be read, all that
/// is decided before the first effect is decided.
pub(crate) fn judge(face: Face, environment: &Variables, stdin: &[u8]) {
    let variable = |name: &str| environment.get(name).cloned();
    match Invocation::read(face, variable, stdin) {
        Err(_) | Ok(Invocation::About | Invocation::Version) => {
            let code = is_the_specifications(&run(face, variable, stdin, &Untouchable));
            assert!(matches!(code, None | Some(1 | 2 | 4 | 6 | 7)), "{code:?}");
        }
        Ok(Invocation::Add(add)) => {
            let spec = pod::veth(&add.attachment, &add.ifname, add.pod.as_ref(), &add.wanted);
            assert!(spec.alias.is_some_and(|alias| alias.starts_with(&format!("{}: ", add.config.name))));
            let addresses = ["10.0.0.1", "fd00::1"].map(|text| host_prefix(text.parse::<IpAddr>().unwrap()));
            for bridged in [false, true] {
                let _ = ports::elements(&add.config.extras.ports, &addresses, &add.attachment, bridged);
            }
            if let Some(previous) = add.previous {
                is_the_same_in_every_version(&AddResult::default().after(previous));
            }
        }
        Ok(Invocation::Check(check)) => is_the_same_in_every_version(&check.result),
        Ok(Invocation::Del(_) | Invocation::Status(_) | Invocation::Gc(_)) => {}
    }
}

/// The code of an error; the form is the specification's, and the log has one line.
pub(crate) fn is_the_specifications(answer: &Answer) -> Option<u64> {
    if answer.ok {
        // Of what is not looked into further, VERSION and the text about the plugin succeed.
        let version = answer.stdout.starts_with(br#"{"cniVersion":"1.1.0""#);
        assert!(version || answer.stdout.is_empty(), "{answer:?}");
        return None;
    }
    let object: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert!(Version::parse(object["cniVersion"].as_str().unwrap()).is_some(), "{object}");
    assert!(!object["msg"].as_str().unwrap().is_empty(), "{object}");
    let log = answer.log.as_ref().unwrap();
    assert!(log.ends_with('\n') && log.trim_end().lines().count() == 1, "{log:?}");
    Some(object["code"].as_u64().unwrap())
}

/// A result is written in every version, and what is written is a result, which written again is the same.
fn is_the_same_in_every_version(result: &AddResult) {
    for version in Version::ALL {
        let written = serde_json::to_value(result.clone().in_version(version)).unwrap();
        let read = AddResult::read(&written).unwrap();
        let again = serde_json::to_value(read.in_version(version)).unwrap();
        assert_eq!(again, written, "{version:?}");
    }
}

/// A node that must not be touched.
pub(crate) struct Untouchable;

impl Node for Untouchable {
    type Netns = FakeNetns;
    type Kernel = FakeKernel;
    type Netfilter = ferrule_netlink::nft::FakeNetfilter;

    fn netns(&self, path: &Path) -> Result<FakeNetns, NetnsError> {
        // As far as a request that is read well goes.
        Err(NetnsError::Open { path: path.to_owned(), source: io::Error::from_raw_os_error(2) })
    }
    fn is_own(&self, _: &FakeNetns) -> Result<bool, NetnsError> {
        panic!("touched")
    }
    fn host(&self) -> Result<FakeKernel, ferrule_netlink::Error> {
        Err(ferrule_netlink::Error::Interrupted(0))
    }
    fn inside(&self, _: &FakeNetns) -> Result<FakeKernel, ferrule_netlink::Error> {
        panic!("touched")
    }
    fn netfilter(&self) -> Result<Self::Netfilter, ferrule_netlink::Error> {
        panic!("touched")
    }

    fn without_dad(&self, _link: &IfName) -> Result<(), SysctlError> {
        panic!("touched")
    }

    fn listeners(&self, _protocol: u8) -> Result<Vec<SocketAddr>, ferrule_netlink::Error> {
        panic!("touched")
    }

    fn announce(
        &self,
        _netns: &FakeNetns,
        _link: IfIndex,
        _mac: Mac,
        _addresses: &[IpAddr],
    ) -> io::Result<()> {
        panic!("touched")
    }

    fn forwards(&self, _: ferrule_model::Family) -> bool {
        true
    }
    fn enable_ipv6(&self, _: Option<&FakeNetns>, _: &IfName) -> Result<Result<(), SysctlError>, NetnsError> {
        panic!("touched")
    }
}
