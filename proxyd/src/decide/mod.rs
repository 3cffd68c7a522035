//! What there should be: from Services, EndpointSlices and Nodes to [`Frontend`]s. Pure: no socket, no clock, no
//! process. It knows nothing of nftables or of any other data path.

mod frontend;

pub use frontend::{Backend, Backends, Frontend, Key, Kind, Place, PortName, Protocol, ServiceName};
