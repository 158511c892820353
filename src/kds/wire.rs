//! bytes <-> messages: the only file that names protobuf types.
//!
//! Decides: how a message looks on the wire, and what of a peer's message can be read. Never does:
//! judge it. Decoding never panics; a resource that cannot be read becomes a rejection by name, the
//! others are taken.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
/// What every message is, for drivers that decode and frame them.
pub use prost::Message;
use smol_str::SmolStr;
use zeroize::Zeroizing;

use super::message::{Nack, Node, Received, Rejection, Request, Response, parse_position, position_text};
use super::plan::Transmit;
use crate::core::{Key, Labels, ResourceType, SecretData, Version};

/// Generated from `proto/`.
#[allow(missing_docs, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}

use pb::envoy::service::discovery::v3 as xds;
use pb::google::protobuf as well_known;
use pb::kuma::mesh::v1alpha1 as kuma;
use pb::kuma::system::v1alpha1 as system;

/// The payload type of every resource (Kuma 2.14.3 `pkg/kds/types.go`).
const KUMA_RESOURCE: &str = "type.googleapis.com/kuma.mesh.v1alpha1.KumaResource";
/// The spec of `Secret` and `GlobalSecret`.
const SECRET_SPEC: &str = "type.googleapis.com/kuma.system.v1alpha1.Secret";
/// The spec of `Config`.
const CONFIG_SPEC: &str = "type.googleapis.com/kuma.system.v1alpha1.Config";
/// The details of a NACK between kdsync ends.
const REJECTIONS: &str = "type.googleapis.com/kdsync.v1.Rejections";
/// The only `Config` that travels.
pub const CLUSTER_ID: &str = "kuma-cluster-id";
/// What a global calls itself.
const CONTROL_PLANE: &str = "global";

/// A message that cannot be read at all; the stream ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a protobuf message of the expected type.
    #[error("not a valid message: {0}")]
    Malformed(String),
    /// A resource without a readable name.
    #[error("a resource of type {0} has no readable name")]
    Nameless(String),
}

// === global's side ===

/// Encodes a resource as field 2 of an answer, tag and length included. Zeroized when dropped.
#[must_use]
pub fn encode_resource(key: &Key, labels: &Labels, data: &SecretData, version: &Version) -> Bytes {
    let value = Bytes::from_owner(Exposed(data.clone()));
    let spec = system::Secret { data: Some(well_known::BytesValue { value }) };
    encode_any(key, labels, version, SECRET_SPEC, Zeroizing::new(spec.encode_to_vec()))
}

/// Encodes the `kuma-cluster-id`, with its key and version.
#[must_use]
pub fn encode_cluster_id(id: &str) -> (Key, Version, Bytes) {
    let key = Key::new(ResourceType::Config, "", CLUSTER_ID);
    let labels = Labels::from([
        (crate::core::resource::LABEL_ORIGIN.to_owned(), "global".to_owned()),
        (crate::core::resource::LABEL_DISPLAY_NAME.to_owned(), CLUSTER_ID.to_owned()),
    ]);
    let version = crate::core::resource::version_of(&key, &labels, id.as_bytes());
    let spec = Zeroizing::new(system::Config { config: id.to_owned() }.encode_to_vec());
    let encoded = encode_any(&key, &labels, &version, CONFIG_SPEC, spec);
    (key, version, encoded)
}

/// Lends a secret's bytes to `Bytes` without a copy.
struct Exposed(SecretData);

impl AsRef<[u8]> for Exposed {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

fn encode_any(key: &Key, labels: &Labels, version: &Version, spec: &str, value: Zeroizing<Vec<u8>>) -> Bytes {
    let meta = kuma::kuma_resource::Meta {
        name: key.name.to_string(),
        mesh: key.mesh.to_string(),
        version: String::new(),
        labels: labels.clone().into_iter().collect(),
    };
    let spec = well_known::Any { type_url: spec.to_owned(), value: Bytes::from_owner(value) };
    let resource = kuma::KumaResource { meta: Some(meta), spec: Some(spec), status: None };
    let value = Bytes::from_owner(Zeroizing::new(resource.encode_to_vec()));
    let resource = xds::Resource {
        version: hex(version),
        resource: Some(well_known::Any { type_url: KUMA_RESOURCE.to_owned(), value }),
        name: key.wire_name(),
    };
    let mut out = Zeroizing::new(Vec::with_capacity(resource.encoded_len() + 8));
    prost::encoding::message::encode(2, &resource, &mut *out);
    Bytes::from_owner(out)
}

fn hex(version: &Version) -> String {
    let mut text = String::with_capacity(64);
    for byte in version.0 {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The gRPC frame of an answer: flag 0, length, message. The resources are copied in as they were
/// encoded; nothing is encoded twice.
#[must_use]
pub fn encode_frame(transmit: &Transmit) -> Bytes {
    let rest = xds::DeltaDiscoveryResponse {
        system_version_info: transmit.header().map(|header| header.to_string()).unwrap_or_default(),
        resources: Vec::new(),
        type_url: transmit.plan.ty.as_str().to_owned(),
        nonce: transmit.nonce().to_string(),
        removed_resources: transmit
            .part()
            .map(|part| part.removed.iter().map(Key::wire_name).collect())
            .unwrap_or_default(),
        control_plane: control_plane(transmit),
    };
    let resources = transmit.part().map(|part| part.upserts.as_slice()).unwrap_or_default();
    let length = rest.encoded_len() + resources.iter().map(|entry| entry.encoded.len()).sum::<usize>();
    let mut frame = Zeroizing::new(Vec::with_capacity(length + 5));
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    for entry in resources {
        frame.put_slice(&entry.encoded);
    }
    rest.encode_raw(&mut *frame);
    Bytes::from_owner(frame)
}

/// Kuma's zones read it; a kdsync zone knows who sent the header.
fn control_plane(transmit: &Transmit) -> Option<xds::ControlPlane> {
    let is_stock = transmit.header().is_none();
    is_stock.then(|| xds::ControlPlane { identifier: CONTROL_PLANE.to_owned() })
}

/// Reads a zone's request.
#[must_use]
pub fn decode_request(request: xds::DeltaDiscoveryRequest) -> Request {
    let mut position = None;
    let mut versions = Vec::new();
    for (name, version) in request.initial_resource_versions {
        if name == super::FEATURE {
            position = parse_position(&version).ok();
        } else {
            versions.push((SmolStr::from(name), SmolStr::from(version)));
        }
    }
    Request {
        type_url: request.type_url.into(),
        nonce: request.response_nonce.into(),
        subscribe: request.resource_names_subscribe.into_iter().map(SmolStr::from).collect(),
        versions,
        position,
        nack: request.error_detail.map(decode_nack),
        node: request.node.map(decode_node).unwrap_or_default(),
    }
}

fn decode_nack(status: xds::Status) -> Nack {
    let mut rejected = Vec::new();
    for detail in status.details.iter().filter(|detail| detail.type_url == REJECTIONS) {
        let Ok(list) = pb::kdsync::v1::Rejections::decode(detail.value.clone()) else { continue };
        for rejection in list.rejections {
            if let Some(key) = rejection.resource.as_ref().and_then(decode_name) {
                rejected.push(Rejection { key, reason: rejection.reason });
            }
        }
    }
    Nack { message: status.message, rejected }
}

/// Reads a resource name of ZoneLink or a NACK.
#[must_use]
pub fn decode_name(name: &pb::kdsync::v1::ResourceName) -> Option<Key> {
    let ty: ResourceType = name.r#type.parse().ok()?;
    Some(Key::new(ty, &name.mesh, &name.name))
}

/// Writes a resource name for ZoneLink or a NACK.
#[must_use]
pub fn encode_name(key: &Key) -> pb::kdsync::v1::ResourceName {
    pb::kdsync::v1::ResourceName {
        r#type: key.ty.to_string(),
        mesh: key.mesh.to_string(),
        name: key.name.to_string(),
    }
}

fn decode_node(node: xds::Node) -> Node {
    let fields = node.metadata.map(|metadata| metadata.fields).unwrap_or_default();
    let version = member(&fields, "version")
        .and_then(as_struct)
        .and_then(|version| member(&version.fields, "kumaCp"))
        .and_then(as_struct)
        .and_then(|kuma_cp| member(&kuma_cp.fields, "version"))
        .and_then(as_text);
    let config = member(&fields, "config").and_then(as_text).unwrap_or_default();
    Node {
        id: node.id.into(),
        version: version.unwrap_or_default().to_owned(),
        instance: member(&fields, "control-plane-id").and_then(as_text).unwrap_or_default().to_owned(),
        max_message: max_message_of(config),
    }
}

/// `multizone.zone.kds.maxMsgSize` of a zone's configuration, which it sends as JSON text.
fn max_message_of(config: &str) -> Option<usize> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let size = config.pointer("/multizone/zone/kds/maxMsgSize")?.as_u64()?;
    usize::try_from(size).ok().filter(|size| *size > 0)
}

type Fields = BTreeMap<String, well_known::Value>;

fn member<'a>(fields: &'a Fields, name: &str) -> Option<&'a well_known::value::Kind> {
    fields.get(name)?.kind.as_ref()
}

fn as_struct(kind: &well_known::value::Kind) -> Option<&well_known::Struct> {
    match kind {
        well_known::value::Kind::StructValue(inner) => Some(inner),
        _ => None,
    }
}

fn as_text(kind: &well_known::value::Kind) -> Option<&str> {
    match kind {
        well_known::value::Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

// === the zone's side ===

/// Writes a zone's request. Every request carries the node id (a real global dereferences it); version and
/// instance go where the node has them: with the first of a type, to a global that does not have them from
/// the call.
#[must_use]
pub fn encode_request(request: &Request) -> xds::DeltaDiscoveryRequest {
    let mut versions: BTreeMap<String, String> =
        request.versions.iter().map(|(name, version)| (name.to_string(), version.to_string())).collect();
    if let Some(position) = &request.position {
        versions.insert(super::FEATURE.to_owned(), position_text(position));
    }
    xds::DeltaDiscoveryRequest {
        node: Some(encode_node(&request.node)),
        type_url: request.type_url.to_string(),
        resource_names_subscribe: request.subscribe.iter().map(SmolStr::to_string).collect(),
        resource_names_unsubscribe: Vec::new(),
        initial_resource_versions: versions,
        response_nonce: request.nonce.to_string(),
        error_detail: request.nack.as_ref().map(encode_nack),
    }
}

fn encode_node(node: &Node) -> xds::Node {
    let text =
        |text: &str| well_known::Value { kind: Some(well_known::value::Kind::StringValue(text.to_owned())) };
    let inner = |fields: Fields| well_known::Value {
        kind: Some(well_known::value::Kind::StructValue(well_known::Struct { fields })),
    };
    let mut fields = Fields::new();
    if !node.version.is_empty() {
        let kuma_cp = inner(Fields::from([("version".to_owned(), text(&node.version))]));
        fields.insert("version".to_owned(), inner(Fields::from([("kumaCp".to_owned(), kuma_cp)])));
    }
    if !node.instance.is_empty() {
        fields.insert("control-plane-id".to_owned(), text(&node.instance));
    }
    let metadata = (!fields.is_empty()).then_some(well_known::Struct { fields });
    xds::Node { id: node.id.to_string(), metadata }
}

fn encode_nack(nack: &Nack) -> xds::Status {
    let rejections = nack.rejected.iter().map(|rejection| pb::kdsync::v1::rejections::Rejection {
        resource: Some(encode_name(&rejection.key)),
        reason: rejection.reason.clone(),
    });
    let list = pb::kdsync::v1::Rejections { rejections: rejections.collect() };
    let detail = well_known::Any { type_url: REJECTIONS.to_owned(), value: list.encode_to_vec().into() };
    let details = if nack.rejected.is_empty() { Vec::new() } else { vec![detail] };
    xds::Status { code: 0, message: nack.message.clone(), details }
}

/// Reads an answer of type `type_url`.
///
/// # Errors
/// [`DecodeError::Nameless`] if a resource has no name to reject it by.
pub fn decode_response(response: xds::DeltaDiscoveryResponse) -> Result<Response, DecodeError> {
    let type_url = SmolStr::from(response.type_url);
    let mut out = Response {
        nonce: response.nonce.into(),
        header: response.system_version_info.parse().ok(),
        ..Response::default()
    };
    if let Ok(ty) = type_url.parse::<ResourceType>() {
        for resource in response.resources {
            match decode_resource(ty, resource)? {
                Ok(received) => out.resources.push(received),
                Err(rejection) => out.unreadable.push(rejection),
            }
        }
        out.removed =
            response.removed_resources.iter().filter_map(|name| Key::from_wire_name(ty, name)).collect();
    }
    out.type_url = type_url;
    Ok(out)
}

/// The outer error ends the stream, the inner one names a resource that is refused alone.
fn decode_resource(
    ty: ResourceType,
    resource: xds::Resource,
) -> Result<Result<Received, Rejection>, DecodeError> {
    let named = Key::from_wire_name(ty, &resource.name);
    let refuse = |key: Option<Key>, reason: &str| match key {
        Some(key) => Ok(Err(Rejection { key, reason: reason.to_owned() })),
        None => Err(DecodeError::Nameless(ty.to_string())),
    };
    let Some(any) = resource.resource.filter(|any| any.type_url == KUMA_RESOURCE) else {
        return refuse(named, "its payload is not a KumaResource");
    };
    let Ok(payload) = kuma::KumaResource::decode(any.value) else {
        return refuse(named, "its payload cannot be decoded");
    };
    let Some(meta) = payload.meta.filter(|meta| !meta.name.is_empty()) else {
        return refuse(named, "it has no metadata");
    };
    let key = Key::new(ty, &meta.mesh, &meta.name);
    let Some(spec) = payload.spec else {
        return refuse(Some(key), "it has no spec");
    };
    let data = match decode_spec(ty, spec) {
        Ok(data) => data,
        Err(reason) => return refuse(Some(key), reason),
    };
    let labels = meta.labels.into_iter().collect();
    Ok(Ok(Received { key, version: resource.version.into(), labels, data }))
}

fn decode_spec(ty: ResourceType, spec: well_known::Any) -> Result<SecretData, &'static str> {
    match (ty, spec.type_url.as_str()) {
        (ResourceType::Secret | ResourceType::GlobalSecret, SECRET_SPEC) => {
            let secret = system::Secret::decode(spec.value).map_err(|_| "its spec cannot be decoded")?;
            Ok(SecretData::new(secret.data.map(|data| data.value.to_vec()).unwrap_or_default()))
        }
        (ResourceType::Config, CONFIG_SPEC) => {
            let config = system::Config::decode(spec.value).map_err(|_| "its spec cannot be decoded")?;
            Ok(SecretData::new(config.config.into_bytes()))
        }
        _ => Err("its spec is of another type"),
    }
}

/// The gRPC frame of any other message: flag 0, length, message.
#[must_use]
pub fn frame(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(length + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A BytesMut grows as needed, so encoding cannot run out of room.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

/// Encodes a message as bytes: for tests and recordings.
#[must_use]
pub fn to_bytes(message: &impl prost::Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.encoded_len());
    // A BytesMut grows as needed, so encoding cannot run out of room.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

// === redacted Debug of messages that carry values or hashes of them ===

impl std::fmt::Debug for xds::Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resource").field("name", &self.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for xds::DeltaDiscoveryRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaDiscoveryRequest")
            .field("type_url", &self.type_url)
            .field("response_nonce", &self.response_nonce)
            .field("resource_names_subscribe", &self.resource_names_subscribe)
            .field("error_detail", &self.error_detail)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for xds::DeltaDiscoveryResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaDiscoveryResponse")
            .field("type_url", &self.type_url)
            .field("nonce", &self.nonce)
            .field("resources", &self.resources)
            .field("removed_resources", &self.removed_resources)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for well_known::Any {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Any").field("type_url", &self.type_url).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for well_known::BytesValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BytesValue([redacted])")
    }
}

impl std::fmt::Debug for system::Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret([redacted])")
    }
}
