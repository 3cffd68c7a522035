//! What a program says of a kind of objects: where the API has them, and what is read of one. Pure.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// A kind of objects, as a type with the fields that are read of one. Whatever else an object has is skipped while its
/// text is read, and takes no memory.
///
/// ```
/// use ferrule_cluster::kind::{Identity, Kind, Metadata, Resource};
///
/// #[derive(serde::Deserialize)]
/// struct Lease {
///     metadata: Metadata,
/// }
///
/// impl Kind for Lease {
///     const RESOURCE: Resource = Resource { group: "coordination.k8s.io", version: "v1", plural: "leases" };
///
///     fn take_identity(&mut self) -> Identity {
///         self.metadata.take_identity()
///     }
/// }
/// ```
pub trait Kind: DeserializeOwned + Send + 'static {
    /// Where the API has them.
    const RESOURCE: Resource;

    /// Takes the name and the version out of the object.
    fn take_identity(&mut self) -> Identity;
}

/// Where the API has the objects of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version of the group.
    pub version: &'static str,
    /// The kind's name in paths, as `nodes`.
    pub plural: &'static str,
}

impl Resource {
    /// The path of the list of all objects, in all namespaces.
    pub(crate) fn path(self) -> String {
        let Self { group, version, plural } = self;
        match group {
            "" => format!("/api/{version}/{plural}"),
            group => format!("/apis/{group}/{version}/{plural}"),
        }
    }

    /// The path of one object; `name` is escaped already.
    pub(crate) fn path_of(self, name: &ObjectName) -> String {
        let Self { group, version, plural } = self;
        let root =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match name.namespace.as_str() {
            "" => format!("{root}/{plural}/{}", name.name),
            namespace => format!("{root}/namespaces/{namespace}/{plural}/{}", name.name),
        }
    }

    /// The right to list them, which is needed if the server does not stream lists.
    pub const fn list(self) -> Permission {
        Permission { verb: "list", resource: self, subresource: "" }
    }

    /// The right to be told their changes, and all of them if the server streams lists.
    pub const fn watch(self) -> Permission {
        Permission { verb: "watch", resource: self, subresource: "" }
    }

    /// The right to patch their status.
    pub const fn patch_status(self) -> Permission {
        Permission { verb: "patch", resource: self, subresource: "status" }
    }
}

/// A right that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// The verb, as RBAC spells it.
    pub verb: &'static str,
    /// The kind of objects.
    pub resource: Resource,
    /// The part of the object; empty for the object itself.
    pub subresource: &'static str,
}

impl Permission {
    /// The resource, as kubectl and RBAC spell it: `nodes/status`, `endpointslices.discovery.k8s.io`.
    pub fn object(&self) -> String {
        let Resource { group, plural, .. } = self.resource;
        let separated =
            |mark: char, text: &str| if text.is_empty() { String::new() } else { format!("{mark}{text}") };
        format!("{plural}{}{}", separated('.', group), separated('/', self.subresource))
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.object())
    }
}

/// The name of an object. The namespace is empty if objects of its kind are in none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// Which object this is, and in which state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The object's name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`
    pub version: String,
}

/// A part of an object that is not read, whatever it is.
pub type Unread = IgnoredAny;

/// `metadata` of an object. `A` has the annotations that are read, `L` the labels.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "A: Deserialize<'de>, L: Deserialize<'de>"))]
pub struct Metadata<A = Unread, L = Unread> {
    /// `name`
    pub name: String,
    /// `namespace`
    pub namespace: Option<String>,
    /// `resourceVersion`
    pub resource_version: String,
    /// `creationTimestamp`
    pub creation_timestamp: Option<String>,
    /// `deletionTimestamp`: the object is being deleted.
    pub deletion_timestamp: Option<String>,
    /// `annotations`
    pub annotations: Option<A>,
    /// `labels`
    pub labels: Option<L>,
}

impl<A, L> Default for Metadata<A, L> {
    fn default() -> Self {
        Self {
            name: String::new(),
            namespace: None,
            resource_version: String::new(),
            creation_timestamp: None,
            deletion_timestamp: None,
            annotations: None,
            labels: None,
        }
    }
}

impl<A, L> Metadata<A, L> {
    /// Takes the name and the version out.
    pub fn take_identity(&mut self) -> Identity {
        let namespace = self.namespace.take().unwrap_or_default();
        let name = ObjectName { namespace, name: std::mem::take(&mut self.name) };
        Identity { name, version: std::mem::take(&mut self.resource_version) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: Resource = Resource { group: "", version: "v1", plural: "nodes" };
    const SLICES: Resource = Resource { group: "discovery.k8s.io", version: "v1", plural: "endpointslices" };

    #[test]
    fn paths_are_those_of_the_api() {
        assert_eq!(
            (NODES.path().as_str(), SLICES.path().as_str()),
            ("/api/v1/nodes", "/apis/discovery.k8s.io/v1/endpointslices")
        );
        let name = |namespace: &str| ObjectName { namespace: namespace.into(), name: "a".into() };
        assert_eq!(NODES.path_of(&name("")), "/api/v1/nodes/a");
        assert_eq!(SLICES.path_of(&name("b")), "/apis/discovery.k8s.io/v1/namespaces/b/endpointslices/a");
    }

    #[test]
    fn rights_are_named_as_kubectl_names_them() {
        assert_eq!(SLICES.watch().to_string(), "watch endpointslices.discovery.k8s.io");
        assert_eq!(NODES.patch_status().to_string(), "patch nodes/status");
    }
}
