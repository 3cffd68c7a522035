//! Bridges and their ports. They are not part of [`Kernel`], because only programs that make bridges need them.

use std::time::{Duration, Instant};

use ferrule_model::{BridgePort, BridgeSpec, IfIndex, IfName};

use crate::fake::FakeKernel;
use crate::{Error, Kernel, Netlink, link};

/// Time between two questions whether a port forwards.
const ASK_AGAIN: Duration = Duration::from_micros(200);

/// A kernel with bridges.
pub trait Bridges: Kernel {
    /// Makes a bridge, switched on. We set its MAC, so that it does not follow the MACs of its ports.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken.
    fn create_bridge(&mut self, spec: &BridgeSpec) -> Result<(), Error>;

    /// Puts a link on a bridge, or changes what kind of port it is.
    ///
    /// # Errors
    /// The kernel refused one of the two requests; the link may be on the bridge then.
    fn set_port(&mut self, link: IfIndex, port: BridgePort) -> Result<(), Error>;

    /// The bridge that the link is on, and what kind of port it is.
    ///
    /// # Errors
    /// The socket failed.
    fn port(&mut self, link: &IfName) -> Result<Option<BridgePort>, Error>;

    /// Waits until the bridge forwards what comes from this port, for at most `within`. Returns whether it does. It
    /// begins some time after both ends of a veth pair are on, because the kernel does that part later
    /// (`linkwatch_do_dev`).
    ///
    /// # Errors
    /// The socket failed.
    fn forwards(&mut self, link: &IfName, within: Duration) -> Result<bool, Error>;
}

impl Bridges for Netlink {
    fn create_bridge(&mut self, spec: &BridgeSpec) -> Result<(), Error> {
        self.carry_out(&[link::bridge(spec)], &format!("link add {} type bridge", spec.name))
    }

    fn set_port(&mut self, link: IfIndex, port: BridgePort) -> Result<(), Error> {
        self.carry_out(&link::port(link, port), &format!("link set dev {link} master {}", port.bridge))
    }

    fn port(&mut self, link: &IfName) -> Result<Option<BridgePort>, Error> {
        let found = self.message_about(link::named(link), format!("link show {link}"))?;
        Ok(found.and_then(|message| link::parse_port(&message.payload)))
    }

    fn forwards(&mut self, link: &IfName, within: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + within;
        loop {
            let found = self.message_about(link::named(link), format!("link show {link}"))?;
            let forwards = found.is_some_and(|message| link::forwards(&message.payload));
            if forwards || Instant::now() > deadline {
                return Ok(forwards);
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }
}

impl Bridges for FakeKernel {
    fn create_bridge(&mut self, spec: &BridgeSpec) -> Result<(), Error> {
        self.make_bridge(spec)
    }

    fn set_port(&mut self, link: IfIndex, port: BridgePort) -> Result<(), Error> {
        self.put_port(link, port)
    }

    fn port(&mut self, link: &IfName) -> Result<Option<BridgePort>, Error> {
        self.port_of(link)
    }

    fn forwards(&mut self, link: &IfName, _within: Duration) -> Result<bool, Error> {
        Ok(self.port_of(link)?.is_some())
    }
}
