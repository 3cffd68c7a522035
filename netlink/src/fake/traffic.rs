//! [`Traffic`] on maps.

use ferrule_model::{Bucket, IfIndex, IfName, Link, LinkKind};
use nix::errno::Errno;

use super::{FakeKernel, refused};
use crate::Error;
use crate::traffic::Traffic;

impl Traffic for FakeKernel {
    fn add_ifb(&mut self, name: &IfName, mtu: u32, alias: &str) -> Result<Link, Error> {
        let mut world = self.world.lock();
        world.request().map_err(|errno| refused(format!("link add {name} type ifb"), errno))?;
        let index = world.index();
        let link = Link {
            index,
            name: name.clone(),
            mac: Some(ferrule_model::vtep_mac(name.as_str())),
            mtu,
            up: true,
            carrier: true,
            alias: Some(alias.to_owned()),
            peer: None,
            kind: LinkKind::Other("ifb".into()),
        };
        Ok(world.namespaces[self.netns.0].links.entry(name.clone()).or_insert(link).clone())
    }

    fn set_alias(&mut self, name: &IfName, alias: &str) -> Result<(), Error> {
        let mut world = self.world.lock();
        world.request().map_err(|errno| refused(format!("link set {name} alias"), errno))?;
        match world.namespaces[self.netns.0].links.get_mut(name) {
            Some(link) => link.alias = Some(alias.to_owned()),
            None => return Err(refused(format!("link set {name} alias"), Errno::ENODEV)),
        }
        Ok(())
    }

    fn limit(&mut self, link: IfIndex, tbf: Bucket) -> Result<(), Error> {
        self.change("qdisc replace root tbf", link, |state| {
            state.limits.insert(link, tbf);
        })
    }

    fn redirect(&mut self, from: IfIndex, to: IfIndex) -> Result<(), Error> {
        self.change("filter add ingress", from, |state| {
            state.redirects.insert(from, to);
        })
    }

    fn unlimit(&mut self, link: IfIndex) -> Result<(), Error> {
        self.change("qdisc del root", link, |state| {
            state.limits.remove(&link);
        })
    }

    fn keep(&mut self, from: IfIndex) -> Result<(), Error> {
        self.change("qdisc del ingress", from, |state| {
            state.redirects.remove(&from);
        })
    }

    fn limit_of(&mut self, link: IfIndex) -> Result<Option<Bucket>, Error> {
        self.read("qdisc show root", |state| state.limits.get(&link).copied())
    }

    fn redirect_of(&mut self, link: IfIndex) -> Result<Option<IfIndex>, Error> {
        self.read("filter show ingress", |state| state.redirects.get(&link).copied())
    }
}

impl FakeKernel {
    /// Makes one counted request that changes something of `link`.
    fn change(
        &self,
        request: &str,
        link: IfIndex,
        change: impl FnOnce(&mut super::State),
    ) -> Result<(), Error> {
        let mut world = self.world.lock();
        world.request().map_err(|errno| refused(request, errno))?;
        let state = &mut world.namespaces[self.netns.0];
        if state.link(link).is_none() {
            return Err(refused(request, Errno::ENODEV));
        }
        change(state);
        Ok(())
    }
}
