//! Transactions of bounded size, and what happens if the kernel refuses one.

use std::sync::Arc;
use std::time::Instant;

use ferrule_model::Element;
use ferrule_netlink::Error;
use ferrule_netlink::nft::{Change, Netfilter};
use nix::errno::Errno;

use super::path::{DataPath, Report, SyncError};
use super::unit::{Pack, Unit};
use crate::nft::sets::{ENDPOINTS, NODE_ENDPOINTS};
use crate::nft::shared::elements;
use crate::nft::{Batch, TABLE};

/// The most elements of a transaction, if they do not belong together. The kernel holds a lock for a transaction that
/// delays other programs' changes of rules.
pub(super) const BOUND: usize = 2000;

impl<N: Netfilter> DataPath<N> {
    /// Carries out these units. Those that the kernel refuses are named and wait; the others go on.
    pub(super) fn commit(
        &mut self,
        units: Vec<Unit>,
        now: Instant,
        report: &mut Report,
    ) -> Result<(), SyncError> {
        let missing = self.shared.take_missing();
        let stale = self.shared.take_stale();
        let size: usize = units.iter().map(|unit| unit.batch.len()).sum();
        if size + missing.len() + stale.len() <= BOUND {
            let mut whole = Batch { delete: elements(&stale), add: elements(&missing) };
            units.iter().for_each(|unit| whole.append(unit.batch.clone()));
            if whole.is_empty() || self.carry_out(&whole, report).is_ok() {
                units.into_iter().flat_map(|unit| unit.parts).for_each(|part| self.settle(part));
                return Ok(());
            }
        }
        // What is shared comes before the first Service that needs it, and goes after the last one.
        self.shared.put_back(stale);
        self.carry_out_all(&elements(&missing), true, report)?;
        let mut pack = Pack::default();
        for unit in units {
            if pack.size() + unit.batch.len() > BOUND {
                self.commit_pack(std::mem::take(&mut pack), now, report)?;
            }
            if unit.batch.len() > BOUND {
                self.commit_alone(unit, now, report)?;
            } else {
                pack.push(unit);
            }
        }
        self.commit_pack(pack, now, report)?;
        let stale = self.shared.take_stale();
        self.carry_out_all(&elements(&stale), false, report)
    }

    /// Carries out units in one transaction; one by one if that is refused.
    fn commit_pack(&mut self, pack: Pack, now: Instant, report: &mut Report) -> Result<(), SyncError> {
        if self.carry_out(&pack.batch(), report).is_ok() {
            pack.units().into_iter().flat_map(|unit| unit.parts).for_each(|part| self.settle(part));
            return Ok(());
        }
        for unit in pack.units() {
            self.commit_alone(unit, now, report)?;
        }
        Ok(())
    }

    fn commit_alone(&mut self, unit: Unit, now: Instant, report: &mut Report) -> Result<(), SyncError> {
        match self.carry_out_in_parts(&unit.batch, report) {
            Ok(()) => unit.parts.into_iter().for_each(|part| self.settle(part)),
            Err(error @ Error::Refused { .. }) => self.refuse(unit, &error, now, report),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// A large Service that only comes is made complete first: nothing leads to its endpoints yet.
    fn carry_out_in_parts(&mut self, batch: &Batch, report: &mut Report) -> Result<(), Error> {
        if !batch.delete.is_empty() || batch.len() <= BOUND {
            return self.carry_out(batch, report);
        }
        let is_endpoint = |element: &Element| {
            [ENDPOINTS.0, ENDPOINTS.1, NODE_ENDPOINTS.0, NODE_ENDPOINTS.1].contains(&element.set)
        };
        let (endpoints, heads): (Vec<_>, Vec<_>) = batch.add.iter().cloned().partition(is_endpoint);
        for part in endpoints.chunks(BOUND) {
            self.carry_out(&Batch { delete: Vec::new(), add: part.to_vec() }, report)?;
        }
        self.carry_out(&Batch { delete: Vec::new(), add: heads }, report)
    }

    fn refuse(&mut self, unit: Unit, error: &Error, now: Instant, report: &mut Report) {
        // The kernel holds something else than we know.
        if matches!(error.errno(), Some(Errno::ENOENT | Errno::EEXIST)) || unit.batch.len() > BOUND {
            self.look_at = Some(now);
        }
        for part in unit.parts {
            self.shared.release(&part.after);
            self.shared.need(&part.before);
            let Some(wanted) = part.wanted else {
                self.look_later(now);
                report.complaints.push(format!("{} cannot be put right: {error}", part.name));
                continue;
            };
            let reason = error.to_string();
            if self.refusals.add((Arc::clone(&part.name), wanted), reason, now) {
                report.complaints.push(format!("{} is not served as it should be: {error}", part.name));
            }
        }
    }

    /// Adds or deletes elements that belong to no Service, in transactions of bounded size.
    pub(super) fn carry_out_all(
        &mut self,
        elements: &[Element],
        is_added: bool,
        report: &mut Report,
    ) -> Result<(), SyncError> {
        for part in elements.chunks(BOUND) {
            let (delete, add) =
                if is_added { (Vec::new(), part.to_vec()) } else { (part.to_vec(), Vec::new()) };
            self.carry_out(&Batch { delete, add }, report)?;
        }
        Ok(())
    }

    /// One transaction.
    pub(super) fn carry_out(&mut self, batch: &Batch, report: &mut Report) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let by_set = |elements: &mut Vec<Change<'_>>| {
            elements.sort_by_key(|change| match change {
                Change::Add(element) | Change::Delete(element) => element.set,
                Change::Clear(set) => set,
            });
        };
        let mut changes: Vec<_> = batch.delete.iter().map(Change::Delete).collect();
        by_set(&mut changes);
        let mut added: Vec<_> = batch.add.iter().map(Change::Add).collect();
        by_set(&mut added);
        changes.append(&mut added);
        let before = self.netfilter.generation()?;
        self.netfilter.change(TABLE, &changes, None)?;
        let after = self.netfilter.generation()?;
        let was_right = self.right_in == Some(before);
        self.right_in = (was_right && after == before.wrapping_add(1)).then_some(after);
        report.elements += batch.len();
        report.transactions += 1;
        Ok(())
    }
}
