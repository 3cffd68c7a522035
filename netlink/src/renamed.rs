//! Links that some program has renamed. The host's end of a pod's veth pair has a second name from the beginning, an
//! alternative name of the kernel's. That name stays when the first one is changed. So the link is still recognised as
//! ours, and as which pod's.

use ferrule_model::{IfName, Link, made_as, second_name};

use crate::fake::FakeKernel;
use crate::{Error, Kernel, Netlink, link};

/// A kernel in which links are renamed. It is not part of [`Kernel`], because only programs that make such links need
/// it.
pub trait Renamed: Kernel {
    /// The host's end that was made under the name `made_as` and now has another name.
    ///
    /// # Errors
    /// The socket failed.
    fn renamed(&mut self, made_as: &IfName) -> Result<Option<Link>, Error>;

    /// The name under which the link `now` was made, if it is a host's end that was renamed.
    ///
    /// # Errors
    /// The socket failed.
    fn made_as(&mut self, now: &IfName) -> Result<Option<IfName>, Error>;
}

impl Renamed for Netlink {
    fn renamed(&mut self, made_as: &IfName) -> Result<Option<Link>, Error> {
        match second_name(made_as) {
            // The kernel finds a link by any of its names.
            Some(name) => Ok(self.link(&name)?.filter(|link| link.name != *made_as)),
            None => Ok(None),
        }
    }

    fn made_as(&mut self, now: &IfName) -> Result<Option<IfName>, Error> {
        let found = self.message_about(link::named(now), format!("link show {now}"))?;
        let names = found.map(|message| link::alternative_names(&message.payload)).unwrap_or_default();
        Ok(names.iter().find_map(|name| made_as(name)))
    }
}

/// On the fake no link is ever renamed.
impl Renamed for FakeKernel {
    fn renamed(&mut self, _made_as: &IfName) -> Result<Option<Link>, Error> {
        Ok(None)
    }

    fn made_as(&mut self, _now: &IfName) -> Result<Option<IfName>, Error> {
        Ok(None)
    }
}
