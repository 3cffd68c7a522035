//! The objects that cannot be used, each of which is named once. Pure.

use std::collections::BTreeMap;

use ferrule_cluster::kind::ObjectName;

/// Why objects cannot be used.
#[derive(Debug, Default)]
pub(super) struct Unread(BTreeMap<ObjectName, String>);

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
            Ok(_) => self.0.remove(name).map(|_| format!("the {kind} {name} can be used now")),
            Err(reason) if self.0.get(name) == Some(reason) => None,
            Err(reason) => {
                self.0.insert(name.clone(), reason.clone());
                Some(format!("the {kind} {name} is left out: {reason}; correct the object"))
            }
        }
    }

    /// The object is gone.
    pub(super) fn forget(&mut self, name: &ObjectName) {
        self.0.remove(name);
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
}
