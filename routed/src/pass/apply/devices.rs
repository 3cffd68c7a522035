//! What a pass, or the cleanup, does about our devices.

use std::time::Instant;

use ferrule_model::{Link, Mac, Op};
use ferrule_netlink::Tunnels;

use super::{Applier, PassError, second_settings};
use crate::decide::backoff::Which;
use crate::decide::desired::{self, Underlay};
use crate::decide::drift::{Belief, VxlanDevice};
use crate::decide::nodes::Node;
use crate::decide::objects::{Links, Objects};
use crate::decide::owner;
use crate::decide::report::Report;
use crate::decide::wireguard;
use crate::pass::device::{self, Device};
use crate::pass::observe;
use crate::pass::spare;
use crate::pass::wireguard::device as wireguard_device;

impl<K: Tunnels> Applier<K> {
    pub(super) fn spare(
        &mut self,
        kept: Result<Device, PassError>,
        which: Which,
        is_usable: impl Fn(&Link) -> bool,
        now: Instant,
        report: &mut Report,
    ) -> Result<Device, PassError> {
        let Self { kernel, backoff, routing, .. } = self;
        let name = match which {
            Which::Vxlan => &routing.vxlan.device,
            Which::Vxlan6 => routing.vxlan.device6.as_ref().unwrap_or(&routing.vxlan.device),
            Which::Wireguard => &routing.wireguard.device,
        };
        spare::device(kernel, kept, (which, name), is_usable, (backoff, now), report)
    }

    /// Brings the WireGuard device to what it should be. Without a `place` there should be none.
    pub(super) fn keep_wireguard(
        &mut self,
        place: Option<(&Node, &Underlay)>,
        links: &Links,
        before: Option<&Belief>,
        report: &mut Report,
    ) -> Result<Device, PassError> {
        let spec = place.and_then(|(own, underlay)| wireguard::spec(&self.routing, own, underlay));
        let settings = self.identity.as_ref().map(|identity| wireguard::settings(&self.routing, identity));
        let name = &self.routing.wireguard.device;
        let wish = wireguard_device::Wish { spec: spec.as_ref(), settings: settings.as_ref(), name };
        wireguard_device::keep(&mut self.kernel, &wish, links, before, report)
    }

    /// Keeps the second device, if IPv6 has one of its own. Returns how far that came, and what is believed of the
    /// device.
    pub(super) fn second(
        &mut self,
        own: &Node,
        underlay: &Underlay,
        (links, before): (&Links, Option<&Belief>),
        now: Instant,
        report: &mut Report,
    ) -> Result<Option<(Device, VxlanDevice)>, PassError> {
        let Some(settings) = second_settings(&self.routing.vxlan) else { return Ok(None) };
        let spec = desired::device6(&self.routing, own, underlay);
        let had = before.and_then(|belief| belief.devices.vxlan6.as_ref());
        let wanted = device::Wish { spec: spec.as_ref(), settings: &settings, mac: own.vtep_mac6 };
        let device = device::keep(&mut self.kernel, wanted, links, had, report);
        let is_usable = |link: &Link| device::is_usable(spec.as_ref(), link);
        let device = self.spare(device, Which::Vxlan6, is_usable, now, report)?;
        let kept = device.index.filter(|_| !device.leaves);
        Ok(Some((device, VxlanDevice { index: kept, spec, name: settings.device })))
    }

    /// Removes all that is ours: routes (but not those to pods), nexthop objects, and the device with all that is on
    /// it.
    ///
    /// # Errors
    /// The kernel cannot be read or written. What it refused is in the report.
    pub fn clean(&mut self, own_mac: Mac, now: Instant) -> Result<Report, PassError> {
        self.left = None;
        self.backoff.forget();
        let mut report = Report::default();
        let links = observe::links(&mut self.kernel)?;
        let mut devices = Vec::new();
        for settings in
            std::iter::once(self.routing.vxlan.clone()).chain(second_settings(&self.routing.vxlan))
        {
            let wanted = device::Wish { spec: None, settings: &settings, mac: own_mac };
            let device = device::keep(&mut self.kernel, wanted, &links, None, &mut report)?;
            devices.extend(device.index);
        }
        let wireguard = self.keep_wireguard(None, &links, None, &mut report)?;
        let were_flannels = owner::are_flannels(&self.routing.vxlan);
        let none = Objects::default();
        let seen =
            observe::ours(&mut self.kernel, &devices, wireguard.index, were_flannels, (&none, &|_| false))?;
        let nothing = Objects::default();
        let walked = self.walk(&nothing, seen.ours, (None, &seen.links), now, &mut report)?;
        report.pending = walked.observed.len();
        for index in devices.into_iter().chain(wireguard.index) {
            device::carry_out(&mut self.kernel, &Op::DeleteLink(index), &seen.links, &mut report)?;
        }
        Ok(report)
    }
}
