//! [`Netfilter`] on maps, with the refusals of the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferrule_model::{Element, Family, Value};
use nix::errno::Errno;

use super::{Change, Flow, Netfilter, NftError};
use crate::Error;

/// The fake; clones share everything.
#[derive(Debug, Clone, Default)]
pub struct FakeNetfilter(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    tables: BTreeMap<String, Table>,
    flows: Vec<(Family, Flow)>,
    generation: u32,
}

#[derive(Debug, Clone, Default)]
struct Table {
    chains: BTreeSet<String>,
    /// The sets by name, and the elements of each set by key.
    sets: BTreeMap<String, BTreeMap<Vec<u8>, Element>>,
}

impl FakeNetfilter {
    /// A fake without tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a UDP connection.
    pub fn add_udp_flow(&self, family: Family, flow: Flow) {
        self.lock().flows.push((family, flow));
    }

    /// All elements of all tables.
    pub fn all(&self) -> BTreeSet<Element> {
        let world = self.lock();
        world
            .tables
            .values()
            .flat_map(|table| table.sets.values())
            .flat_map(BTreeMap::values)
            .cloned()
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(table: &str, errno: Errno) -> Error {
    Error::Refused { request: format!("nft element of {table}"), refusal: errno.into() }
}

fn apply(table: &mut Table, change: Change<'_>) -> Result<(), Errno> {
    let set = match change {
        Change::Add(element) | Change::Delete(element) => element.set,
        Change::Clear(set) => set,
    };
    let elements = table.sets.get_mut(set).ok_or(Errno::ENOENT)?;
    match change {
        Change::Add(Element { value: Value::Goto(chain), .. }) if !table.chains.contains(chain) => {
            Err(Errno::ENOENT)
        }
        Change::Add(element) if elements.contains_key(&element.key) => Err(Errno::EEXIST),
        Change::Add(element) => {
            elements.insert(element.key.clone(), element.clone());
            Ok(())
        }
        Change::Delete(element) => elements.remove(&element.key).map(drop).ok_or(Errno::ENOENT),
        Change::Clear(_) => {
            elements.clear();
            Ok(())
        }
    }
}

impl Netfilter for FakeNetfilter {
    fn change(&mut self, table: &str, changes: &[Change<'_>], generation: Option<u32>) -> Result<(), Error> {
        let mut world = self.lock();
        if generation.is_some_and(|generation| generation != world.generation) {
            return Err(refused(table, Errno::ERESTART));
        }
        let mut changed = world.tables.get(table).cloned().ok_or_else(|| refused(table, Errno::ENOENT))?;
        for change in changes {
            apply(&mut changed, *change).map_err(|errno| refused(table, errno))?;
        }
        world.tables.insert(table.to_owned(), changed);
        world.generation += 1;
        Ok(())
    }

    fn elements(&mut self, table: &str, set: &'static str) -> Result<Vec<Element>, Error> {
        let world = self.lock();
        let elements = world.tables.get(table).and_then(|table| table.sets.get(set));
        let elements = elements.ok_or_else(|| refused(table, Errno::ENOENT))?;
        Ok(elements.values().cloned().collect())
    }

    fn has_table(&mut self, table: &str) -> Result<bool, Error> {
        Ok(self.lock().tables.contains_key(table))
    }

    fn generation(&mut self) -> Result<u32, Error> {
        Ok(self.lock().generation)
    }

    /// The names of the table's sets, maps and chains.
    fn rules(&mut self, table: &str) -> Result<Option<String>, NftError> {
        let world = self.lock();
        let names =
            |table: &Table| table.sets.keys().chain(&table.chains).cloned().collect::<Vec<_>>().join("\n");
        Ok(world.tables.get(table).map(names))
    }

    fn whole(&mut self, table: &str) -> Result<Option<String>, NftError> {
        self.rules(table)
    }

    /// Reads only a part of the script: which table it adds, with which sets, maps and chains.
    fn load(&mut self, script: &str) -> Result<(), NftError> {
        let mut world = self.lock();
        let named = |word: &str| {
            let mut words = script.split_whitespace().peekable();
            let mut names = Vec::new();
            while let Some(found) = words.next() {
                if found == word {
                    names.extend(words.peek().map(ToString::to_string));
                }
            }
            names
        };
        let table = script.strip_prefix("table inet ").and_then(|rest| rest.split_whitespace().next());
        let Some(table) = table else { return Ok(()) };
        let table = world.tables.entry(table.to_owned()).or_default();
        for name in ["map", "set"].into_iter().flat_map(named) {
            table.sets.entry(name).or_default();
        }
        table.chains.extend(named("chain"));
        world.generation += 1;
        Ok(())
    }

    fn forget_udp(
        &mut self,
        family: Family,
        port: Option<u16>,
        wanted: &dyn Fn(&Flow) -> bool,
    ) -> Result<usize, Error> {
        let flows = &mut self.lock().flows;
        let before = flows.len();
        let asked = |flow: &Flow| port.is_none_or(|port| port == flow.port);
        flows.retain(|(of, flow)| *of != family || !asked(flow) || !wanted(flow));
        Ok(before - flows.len())
    }
}
