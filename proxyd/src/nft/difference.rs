//! How one layout becomes another one.

use ferrule_model::Element;

use super::layout::{Clients, Layout, View};
use crate::decide::Backend;

/// Changes that belong together. What is deleted goes first, because a key may be there again with another value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// What goes.
    pub delete: Vec<Element>,
    /// What comes.
    pub add: Vec<Element>,
}

impl Batch {
    /// How many elements change.
    pub fn len(&self) -> usize {
        self.delete.len() + self.add.len()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in what another one changes.
    pub fn append(&mut self, other: Self) {
        self.delete.extend(other.delete);
        self.add.extend(other.add);
    }
}

/// What has to change of a frontend's own elements. A change of one backend costs the same, however many there are.
pub fn difference(before: Option<&Layout>, after: Option<&Layout>) -> Batch {
    let mut batch = Batch::default();
    for clients in [Clients::Outside, Clients::Inside] {
        endpoints(&mut batch, clients, before, after);
    }
    let [old, new] = [before, after].map(|layout| layout.map(Layout::heads).unwrap_or_default());
    batch.delete.extend(old.iter().filter(|element| !new.contains(element)).cloned());
    batch.add.extend(new.iter().filter(|element| !old.contains(element)).cloned());
    batch
}

fn endpoints(batch: &mut Batch, clients: Clients, before: Option<&Layout>, after: Option<&Layout>) {
    let (old, new) = (backends(before, clients), backends(after, clients));
    for slot in 0..old.len().max(new.len()) {
        let [was, is] = [old, new].map(|backends| backends.get(slot));
        let place = |backend: &Backend| (backend.address, backend.port);
        if was.map(place) != is.map(place) {
            let element = |layout: Option<&Layout>, backend: Option<&Backend>| {
                layout.zip(backend).map(|(layout, backend)| layout.endpoint(clients, slot as u32, backend))
            };
            batch.delete.extend(element(before, was));
            batch.add.extend(element(after, is));
        }
    }
}

fn backends(layout: Option<&Layout>, clients: Clients) -> &[Backend] {
    layout.and_then(|layout| layout.view(clients)).map(View::backends).unwrap_or_default()
}
