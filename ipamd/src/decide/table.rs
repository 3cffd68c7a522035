//! The table of leases, ordered by attachment. Pure. Each lease is one short piece of memory, and is unpacked for
//! whoever asks for it.

use crate::decide::compact::Packed;
use ferrule_model::Attachment;
use ferrule_wire::messages::Lease;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;

/// The leases.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    rows: BTreeSet<Row>,
}

/// A lease or a probe. It is compared by its attachment alone.
#[derive(Debug, Clone)]
struct Row(Packed<Lease>);

impl Table {
    pub(crate) fn get(&self, attachment: &Attachment) -> Option<Lease> {
        self.rows.get(&probe(attachment)).map(|row| row.0.open())
    }

    /// Inserts a lease. If the attachment has one already, the new lease replaces it.
    pub(crate) fn insert(&mut self, lease: Packed<Lease>) {
        self.rows.replace(Row(lease));
    }

    pub(crate) fn remove(&mut self, attachment: &Attachment) -> Option<Packed<Lease>> {
        self.rows.take(&probe(attachment)).map(|row| row.0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Packed<Lease>> + Clone {
        self.rows.iter().map(|row| &row.0)
    }

    /// The leases that come after this attachment.
    pub(crate) fn after(&self, attachment: Option<&Attachment>) -> impl Iterator<Item = &Packed<Lease>> {
        let from = attachment.map_or(Bound::Unbounded, |attachment| Bound::Excluded(probe(attachment)));
        self.rows.range((from, Bound::Unbounded)).map(|row| &row.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl FromIterator<Packed<Lease>> for Table {
    fn from_iter<I: IntoIterator<Item = Packed<Lease>>>(leases: I) -> Self {
        // The set compares leases wherever they lie in memory, which is slow. The prefix decides most comparisons. Here
        // it is worked out once for each lease, and lies beside it while the leases are sorted.
        let mut sorted: Vec<_> = leases.into_iter().map(|lease| (lease.prefix(), Row(lease))).collect();
        sorted.sort_unstable();
        Self { rows: sorted.into_iter().map(|(_, row)| row).collect() }
    }
}

fn probe(attachment: &Attachment) -> Row {
    Row(Packed::probe(attachment))
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp_attachment(&other.0)
    }
}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Row {}
