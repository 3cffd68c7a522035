//! The Services, or the EndpointSlices, as they were last told.
//!
//! The first list is told as a whole. A later one is told as the changes that it is: each object as it comes, and at the
//! end what is gone. So no second copy of tens of thousands of objects is ever in memory. Only their names are kept here;
//! they share their memory with the objects that were told.

use std::borrow::Borrow;
use std::collections::HashMap;

use ferrule_cluster::kind::ObjectName;
use ferrule_cluster::{Deaf, Item, Listener};
use tokio::sync::mpsc;

use super::followed::Followed;
use super::unread::Unread;
use crate::decide::{News, Shared};

/// A listener for one kind.
pub(super) struct Follow<T: Followed> {
    /// The names of the objects that were told, each with the number of the list that had it last.
    known: HashMap<T::Name, u32>,
    /// The number of the last list that was begun.
    list: u32,
    is_listing: bool,
    /// The objects of the first list; `None` once it is complete.
    first: Option<Vec<T>>,
    texts: Shared<str>,
    unread: Unread,
    news: Vec<News>,
    sender: mpsc::Sender<News>,
}

impl<T: Followed> Follow<T> {
    /// Tells `sender`.
    pub(super) fn new(sender: mpsc::Sender<News>) -> Self {
        Self {
            known: HashMap::new(),
            list: 0,
            is_listing: false,
            first: Some(Vec::new()),
            texts: Shared::default(),
            unread: Unread::default(),
            news: Vec::new(),
            sender,
        }
    }

    /// Notes an object that is there. Returns whether the list that is being read did not have it.
    fn there(&mut self, mut object: T) -> bool {
        object.share(&mut self.texts);
        let name = object.name();
        let mut before = None;
        if !self.is_listing {
            // The map would keep the old name, which shares its memory with the object as it was. In a list most
            // objects are as they were, and whoever is told keeps the old ones.
            before = self.known.remove(name.borrow());
        }
        let before = self.known.insert(name.clone(), self.list).or(before);
        let is_new = before != Some(self.list);
        match &mut self.first {
            None => self.news.push(object.put()),
            Some(first) if is_new => first.push(object),
            // It changed while the list was being read, which is rare.
            Some(first) => {
                if let Some(old) = first.iter_mut().find(|old| old.name() == name) {
                    *old = object;
                }
            }
        }
        is_new
    }

    fn not_there(&mut self, key: &T::Key) {
        if self.known.remove(key).is_none() {
            return;
        }
        match &mut self.first {
            None => self.news.push(T::gone(key)),
            Some(first) => first.retain(|object| object.name().borrow() != key),
        }
    }
}

impl<T: Followed> Listener for Follow<T> {
    type Kind = T::Kind;

    fn begin(&mut self) {
        self.list = self.list.wrapping_add(1);
        self.is_listing = true;
        self.unread.begin();
        // A list that broke off is no list.
        if let Some(first) = &mut self.first {
            first.clear();
            self.known.clear();
        }
    }

    fn put(&mut self, item: Item<Self::Kind>) -> bool {
        let name = item.identity.name;
        let read = item.object.and_then(|object| T::read(&name, object));
        if let Some(line) = self.unread.note(T::KIND, &name, &read) {
            tracing::warn!("{line}");
        }
        match read {
            Ok(Some(object)) => self.there(object),
            // What is left out is no sign that a list comes to its end.
            Ok(None) | Err(_) => {
                self.not_there(&T::key(&name));
                false
            }
        }
    }

    fn gone(&mut self, name: ObjectName) {
        self.unread.forget(&name);
        self.not_there(&T::key(&name));
    }

    fn end(&mut self) {
        self.is_listing = false;
        self.unread.end();
        if let Some(mut first) = self.first.take() {
            first.shrink_to_fit();
            self.news.push(T::all(first));
            return;
        }
        let (list, news) = (self.list, &mut self.news);
        self.known.retain(|name, last| {
            let stays = *last == list;
            if !stays {
                news.push(T::gone(name.borrow()));
            }
            stays
        });
    }

    async fn tell(&mut self) -> Result<(), Deaf> {
        for news in self.news.drain(..) {
            self.sender.send(news).await.map_err(|_| Deaf)?;
        }
        Ok(())
    }
}
