//! What there should be: from Services, EndpointSlices and Nodes to [`Frontend`]s. Pure: no socket, no clock, no
//! process. It knows nothing of nftables or of any other data path.
//!
//! A source tells [`News`]; the [`Table`] takes them in and says which Services they affect. `addresses` knows where a
//! Service is to be reached, and `claims` which of several has a place that they want. `endpoints` and `topology`
//! choose the endpoints. `served` puts all of it together for one Service. `health` has the answers for load balancers, and `announced` the addresses for routers.

mod addresses;
mod announced;
mod claims;
mod complaint;
mod endpoints;
mod frontend;
mod health;
mod node;
mod said;
mod served;
mod service;
mod shared;
mod slice;
mod table;
pub mod text;
mod told;
mod topology;

pub use addresses::Rules;
use addresses::is_servable;
pub use announced::Announced;
pub use complaint::Complaint;
pub use frontend::{Backend, Backends, Frontend, Key, Kind, Place, PortName, Protocol, ServiceName};
pub use health::{Answer, HealthCheck, ProxyHealth};
pub use node::NodeFacts;
pub use said::Said;
pub use served::Served;
pub use service::{Ingress, IpMode, Labels, Service, ServicePort, ServiceType, TrafficPolicy};
pub(crate) use shared::Shared;
pub use slice::{Conditions, Endpoint, EndpointSlice, Hints, SliceName, SlicePort};
pub use table::{Affected, Table};
pub use told::News;
