//! Ferrule measured beside its peers, in namespaces of its own.
