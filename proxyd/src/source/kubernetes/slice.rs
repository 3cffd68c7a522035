//! What matters of an EndpointSlice object. Pure. What is left out of it, and when, is as in [`super::service`].

use std::sync::Arc;

use ferrule_cluster::kind::{Identity, Kind, Metadata, ObjectName, Resource, Unread};
use ferrule_model::Family;
use serde::Deserialize;

use super::followed::Followed;
use super::service::{ObjectLabels, address, port_number, protocol};
use crate::decide::{
    Complaint, Conditions, Endpoint, EndpointSlice, Hints, Labels, News, ServiceName, Shared, SliceName,
    SlicePort,
};

/// Where the API has EndpointSlices.
pub(super) const SLICES: Resource =
    Resource { group: "discovery.k8s.io", version: "v1", plural: "endpointslices" };

/// The fields that are read of an EndpointSlice.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object {
    metadata: Metadata<Unread, ObjectLabels>,
    #[serde(default)]
    address_type: Option<String>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
    #[serde(default)]
    endpoints: Option<Vec<RawEndpoint>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<RawConditions>,
    node_name: Option<String>,
    hints: Option<RawHints>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawHints {
    for_zones: Option<Vec<Named>>,
    for_nodes: Option<Vec<Named>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

impl Kind for Object {
    const RESOURCE: Resource = SLICES;

    fn take_identity(&mut self) -> Identity {
        self.metadata.take_identity()
    }
}

impl Followed for EndpointSlice {
    type Kind = Object;
    type Name = SliceName;
    type Key = SliceName;

    const KIND: &'static str = "EndpointSlice";

    fn read(name: &ObjectName, object: Object) -> Result<Option<Self>, String> {
        slice(Self::key(name), object)
    }

    fn share(&mut self, texts: &mut Shared<str>) {
        texts.share(&mut self.name.namespace);
        self.ports.iter_mut().for_each(|port| texts.share(&mut port.name));
        self.endpoints
            .iter_mut()
            .filter_map(|endpoint| endpoint.node.as_mut())
            .for_each(|node| texts.share(node));
    }

    fn name(&self) -> SliceName {
        self.name.clone()
    }

    fn key(name: &ObjectName) -> SliceName {
        SliceName { namespace: name.namespace.as_str().into(), name: name.name.as_str().into() }
    }

    fn all(all: Vec<Self>) -> News {
        News::Slices(all)
    }

    fn put(self) -> News {
        News::PutSlice(self)
    }

    fn gone(name: &SliceName) -> News {
        News::DeleteSlice(name.clone())
    }
}

fn slice(name: SliceName, object: Object) -> Result<Option<EndpointSlice>, String> {
    let labels = object.metadata.labels.unwrap_or_default();
    let family = match object.address_type.as_deref().unwrap_or_default() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        // Names of hosts: nothing that packets could be sent to.
        "FQDN" => return Ok(None),
        other => return Err(format!("addressType \"{other}\" is neither IPv4 nor IPv6 nor FQDN")),
    };
    let Some(service) = labels.service.as_ref().filter(|service| !service.is_empty()) else {
        return Ok(None);
    };
    let mut complaints = Vec::new();
    let service = ServiceName { namespace: name.namespace.to_string(), name: service.clone() };
    let ports = object.ports.unwrap_or_default().into_iter();
    let endpoints = object.endpoints.unwrap_or_default().into_iter();
    Ok(Some(EndpointSlice {
        name,
        service: Arc::new(service),
        labels: Labels::from(&labels),
        family,
        ports: ports.filter_map(|port| slice_port(port, &mut complaints)).collect(),
        endpoints: endpoints.filter_map(|raw| endpoint(raw, &mut complaints)).collect(),
        complaints: complaints.into(),
    }))
}

/// A port; `None` for one without a number.
fn slice_port(raw: Port, complaints: &mut Vec<Complaint>) -> Option<SlicePort> {
    let port = port_number("ports[].port", raw.port, complaints)?;
    let protocol = protocol("ports[].protocol", raw.protocol.as_deref(), complaints)?;
    Some(SlicePort { name: raw.name.unwrap_or_default().into(), protocol, port })
}

fn endpoint(raw: RawEndpoint, complaints: &mut Vec<Complaint>) -> Option<Endpoint> {
    let addresses = raw.addresses.unwrap_or_default();
    let address = address("endpoints[].addresses", addresses.first()?, complaints)?;
    let RawConditions { ready, serving, terminating } = raw.conditions.unwrap_or_default();
    Some(Endpoint {
        address,
        conditions: Conditions::of(ready, serving, terminating),
        node: raw.node_name.map(Arc::from),
        hints: raw.hints.and_then(hints),
    })
}

fn hints(raw: RawHints) -> Option<Arc<Hints>> {
    let names = |list: Option<Vec<Named>>| {
        list.unwrap_or_default().into_iter().map(|named| Arc::from(named.name)).collect()
    };
    let hints = Hints { zones: names(raw.for_zones), nodes: names(raw.for_nodes) };
    (hints != Hints::default()).then(|| Arc::new(hints))
}
