//! What a source tells.

use super::{EndpointSlice, NodeFacts, Service, ServiceName, SliceName};

/// One piece of news of a source. A list of all comes first, and again after each gap in the news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// These are all Services.
    Services(Vec<Service>),
    /// A Service came or changed.
    PutService(Service),
    /// A Service is gone.
    DeleteService(ServiceName),
    /// These are all EndpointSlices.
    Slices(Vec<EndpointSlice>),
    /// An EndpointSlice came or changed.
    PutSlice(EndpointSlice),
    /// An EndpointSlice is gone.
    DeleteSlice(SliceName),
    /// This node.
    Node(NodeFacts),
}
