//! Services with packets, on a node made of namespaces.

mod clients;
mod life;
mod sources;
mod unserved;
