//! [`Traffic`] on the real kernel.

use ferrule_model::{Bucket, IfIndex, IfName, Link};
use nix::errno::Errno;

use super::{Traffic, message};
use crate::{Error, Kernel, Netlink, link};

impl Traffic for Netlink {
    fn add_ifb(&mut self, name: &IfName, mtu: u32, alias: &str) -> Result<Link, Error> {
        // Both requests go out together, so that a killed caller leaves no device without an alias, whose owner nobody
        // could tell. The request that makes the device cannot give the alias (`rtnl_create_link`).
        let requests = [link::ifb(name, mtu), link::alias(name, alias)];
        match self.carry_out(&requests, &format!("link add {name} type ifb")) {
            Err(error) if error.errno() == Some(Errno::EEXIST) => self.set_alias(name, alias)?,
            done => done?,
        }
        let link = self.link(name)?;
        link.ok_or_else(|| Error::Decode(format!("nothing about the link {name} that was made")))
    }

    fn set_alias(&mut self, name: &IfName, alias: &str) -> Result<(), Error> {
        self.carry_out(&[link::alias(name, alias)], &format!("link set {name} alias"))
    }

    fn limit(&mut self, link: IfIndex, tbf: Bucket) -> Result<(), Error> {
        self.carry_out(&[message::limit(link, tbf)], &format!("qdisc replace dev {link} root tbf"))
    }

    fn redirect(&mut self, from: IfIndex, to: IfIndex) -> Result<(), Error> {
        // A filter without a number never replaces another one. So the old filter is removed first; mostly there is
        // none.
        match self.carry_out(&[message::no_ingress(from)], &format!("qdisc del dev {from} ingress")) {
            Err(error) if error.errno().is_none() => return Err(error),
            _ => {}
        }
        let requests = [message::ingress(from), message::redirect(from, to)];
        self.carry_out(
            &requests,
            &format!("filter add dev {from} ingress u32 action mirred redirect dev {to}"),
        )
    }

    fn unlimit(&mut self, link: IfIndex) -> Result<(), Error> {
        let done = self.carry_out(&[message::no_limit(link)], &format!("qdisc del dev {link} root"));
        without_one(done)
    }

    fn keep(&mut self, from: IfIndex) -> Result<(), Error> {
        let done = self.carry_out(&[message::no_ingress(from)], &format!("qdisc del dev {from} ingress"));
        without_one(done)
    }

    fn limit_of(&mut self, link: IfIndex) -> Result<Option<Bucket>, Error> {
        let name = format!("qdisc show dev {link} root");
        match self.one(message::root_of(link), name) {
            // A link that does not queue has no discipline.
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(None),
            found => Ok(found?.as_ref().and_then(message::parse_tbf)),
        }
    }

    fn redirect_of(&mut self, link: IfIndex) -> Result<Option<IfIndex>, Error> {
        let found = self.list_raw(&message::filters_of(link))?;
        Ok(found.iter().find_map(message::parse_redirect))
    }
}

/// Counts it as success if there was nothing to delete: no discipline of this kind (`qdisc_get`), or one that is not
/// ours.
fn without_one(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EINVAL)) => Ok(()),
        done => done,
    }
}
