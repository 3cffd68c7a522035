//! What there should be: from Services, EndpointSlices and Nodes to [`Frontend`]s. Pure: no socket, no clock, no
//! process. It knows nothing of nftables or of any other data path.

mod complaint;
mod frontend;
mod node;
mod service;
mod slice;
pub mod text;
mod told;

pub use complaint::Complaint;
pub use frontend::{Backend, Backends, Frontend, Key, Kind, Place, PortName, Protocol, ServiceName};
pub use node::NodeFacts;
pub use service::{Ingress, IpMode, Labels, Service, ServicePort, ServiceType, TrafficPolicy};
pub use slice::{Conditions, Endpoint, EndpointSlice, Hints, SliceName, SlicePort};
pub use told::News;
