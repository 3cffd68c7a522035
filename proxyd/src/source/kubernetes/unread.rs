//! The objects that cannot be used, each of which is named once. Pure.

use std::collections::BTreeMap;

use ferrule_cluster::kind::ObjectName;

/// Why objects cannot be used.
#[derive(Debug, Default)]
pub(super) struct Unread {
    why: BTreeMap<ObjectName, Reason>,
    /// The number of the last list.
    list: u32,
}

#[derive(Debug)]
struct Reason {
    text: String,
    /// The number of the list that had the object last.
    list: u32,
}

impl Unread {
    /// Notes whether an object can be used. Returns the line to be logged, if there is news. `kind` is the name of its
    /// kind.
    pub(super) fn note<T>(
        &mut self,
        kind: &str,
        name: &ObjectName,
        read: &Result<T, String>,
    ) -> Option<String> {
        match read {
            Ok(_) => self.why.remove(name).map(|_| format!("the {kind} {name} can be used now")),
            Err(text) => {
                let reason = Reason { text: text.clone(), list: self.list };
                let before = self.why.insert(name.clone(), reason);
                let is_known = before.is_some_and(|before| before.text == *text);
                (!is_known).then(|| format!("the {kind} {name} is left out: {text}; correct the object"))
            }
        }
    }

    /// A list begins.
    pub(super) fn begin(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// The list is complete: what it did not have is gone.
    pub(super) fn end(&mut self) {
        self.why.retain(|_, reason| reason.list == self.list);
    }

    /// The object is gone.
    pub(super) fn forget(&mut self, name: &ObjectName) {
        self.why.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_once_for_a_reason_and_once_when_it_is_good_again() {
        let mut unread = Unread::default();
        let name = ObjectName { namespace: "a".into(), name: "b".into() };
        let bad = |reason: &str| Err::<(), _>(reason.to_owned());
        let mut note = |read: Result<(), String>| unread.note("Service", &name, &read);
        assert_eq!(note(Ok(())), None);
        assert_eq!(
            note(bad("no type")).as_deref(),
            Some("the Service a/b is left out: no type; correct the object")
        );
        assert_eq!(note(bad("no type")), None);
        assert!(note(bad("no port")).is_some());
        assert_eq!(note(Ok(())).as_deref(), Some("the Service a/b can be used now"));
        assert_eq!(note(Ok(())), None);
    }

    #[test]
    fn an_object_that_was_gone_in_between_is_another_one() {
        let mut unread = Unread::default();
        let name = ObjectName { namespace: "a".into(), name: "b".into() };
        let bad = Err::<(), _>("no type".to_owned());
        assert!(unread.note("Service", &name, &bad).is_some());
        for is_listed in [true, false] {
            unread.begin();
            if is_listed {
                assert_eq!(unread.note("Service", &name, &bad), None);
            }
            unread.end();
        }
        assert!(unread.note("Service", &name, &bad).is_some());
        unread.forget(&name);
        assert!(unread.note("Service", &name, &bad).is_some());
    }
}
