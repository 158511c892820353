//! A scripted zone: it says exactly what a test tells it to.

use std::collections::BTreeMap;
use std::path::Path;

use kdsync::kds::wire::pb::envoy::service::discovery::v3 as xds;
use kdsync::kds::wire::pb::google::protobuf::{Struct, Value, value::Kind};
use kdsync::kds::wire::pb::kuma::mesh::v1alpha1 as kuma;
use kdsync::kds::wire::pb::kuma::system::v1alpha1 as system;
use kuma::kds_sync_service_client::KdsSyncServiceClient;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::rig::{Rig, soon};

/// What a zone's calls look like.
#[derive(Clone, Debug)]
pub(crate) struct Looks {
    pub(crate) metadata: Vec<(&'static str, String)>,
    /// It sends with gzip and takes gzip, as Kuma 2.10 and newer do.
    pub(crate) gzip: bool,
}

impl Looks {
    /// Kuma 2.14.3.
    pub(crate) fn stock(zone: &str) -> Self {
        let metadata = [
            ("client-id", zone),
            ("version", "2.14.3"),
            ("kds-version", "v3"),
            ("features", "zone-ping-health"),
            ("features", "hash-suffix"),
        ];
        Self { metadata: metadata.map(|(k, v)| (k, v.to_owned())).to_vec(), gzip: true }
    }

    /// Kuma 2.2.9 with delta KDS.
    pub(crate) fn old_stock(zone: &str) -> Self {
        let metadata = [("client-id", zone.to_owned()), ("kds-version", "v3".to_owned())];
        Self { metadata: metadata.to_vec(), gzip: false }
    }

    pub(crate) fn kdsync(zone: &str, instance: &str) -> Self {
        let metadata = [
            ("client-id", zone),
            ("version", "0.1.0"),
            ("features", "kdsync-1"),
            ("kdsync-instance", instance),
        ];
        Self { metadata: metadata.map(|(k, v)| (k, v.to_owned())).to_vec(), gzip: false }
    }

    pub(crate) fn nobody() -> Self {
        Self { metadata: Vec::new(), gzip: false }
    }

    pub(crate) fn on<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in &self.metadata {
            let name: MetadataKey<_> = name.parse().unwrap();
            request.metadata_mut().append(name, value.parse().unwrap());
        }
        request
    }
}

pub(crate) async fn channel(rig: &Rig) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", rig.address)).unwrap();
    soon(endpoint.connect()).await.unwrap()
}

/// An open `GlobalToZoneSync`.
pub(crate) struct Peer {
    zone: String,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
    pub(crate) headers: MetadataMap,
}

impl Peer {
    pub(crate) async fn open(rig: &Rig, looks: &Looks) -> Self {
        Self::try_open(rig, looks).await.unwrap()
    }

    pub(crate) async fn try_open(rig: &Rig, looks: &Looks) -> Result<Self, Status> {
        let mut client = KdsSyncServiceClient::new(channel(rig).await).max_decoding_message_size(64 << 20);
        if looks.gzip {
            client = client.send_compressed(Gzip).accept_compressed(Gzip);
        }
        let (requests, outgoing) = mpsc::channel(4096);
        let answer = soon(client.global_to_zone_sync(looks.on(ReceiverStream::new(outgoing)))).await?;
        let (headers, answers, _) = answer.into_parts();
        let zone = looks.metadata.iter().find(|(name, _)| *name == "client-id");
        let zone = zone.map(|(_, zone)| zone.clone()).unwrap_or_default();
        Ok(Self { zone, requests, answers, headers })
    }

    pub(crate) async fn send(&self, request: DeltaDiscoveryRequest) {
        // A stream that has ended shows in the next answer.
        let _ = self.requests.send(request).await;
    }

    pub(crate) fn node(&self) -> xds::Node {
        xds::Node { id: self.zone.clone(), metadata: None }
    }

    pub(crate) async fn subscribe(&self, type_url: &str) {
        self.send(subscription(Some(self.node()), type_url)).await;
    }

    /// Subscribes with a node that tells the largest message the zone takes.
    pub(crate) async fn subscribe_limited(&self, type_url: &str, limit: usize) {
        let config = format!(r#"{{"multizone":{{"zone":{{"kds":{{"maxMsgSize":{limit}}}}}}}}}"#);
        let value = Value { kind: Some(Kind::StringValue(config)) };
        let metadata = Some(Struct { fields: BTreeMap::from([("config".to_owned(), value)]) });
        self.send(subscription(Some(xds::Node { id: self.zone.clone(), metadata }), type_url)).await;
    }

    pub(crate) async fn ack(&self, answer: &DeltaDiscoveryResponse) {
        let (type_url, response_nonce) = (answer.type_url.clone(), answer.nonce.clone());
        self.send(DeltaDiscoveryRequest {
            node: Some(self.node()),
            type_url,
            response_nonce,
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn nack(&self, answer: &DeltaDiscoveryResponse, message: &str) {
        let status = xds::Status { code: 0, message: message.to_owned(), details: Vec::new() };
        self.send(DeltaDiscoveryRequest {
            node: Some(self.node()),
            type_url: answer.type_url.clone(),
            response_nonce: answer.nonce.clone(),
            resource_names_subscribe: vec!["*".into()],
            error_detail: Some(status),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn next(&mut self) -> DeltaDiscoveryResponse {
        soon(self.answers.message()).await.unwrap().expect("the stream ended with OK")
    }

    /// The first answer, or why there is none.
    pub(crate) async fn first(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        self.answers.message().await.map(|answer| answer.expect("the stream ended with OK"))
    }

    /// The next answer, acknowledged.
    pub(crate) async fn take(&mut self) -> DeltaDiscoveryResponse {
        let answer = self.next().await;
        self.ack(&answer).await;
        answer
    }

    /// How the stream ended, after whatever was still on its way.
    pub(crate) async fn status(&mut self) -> Status {
        loop {
            match soon(self.answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

pub(crate) fn subscription(node: Option<xds::Node>, type_url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node,
        type_url: type_url.to_owned(),
        resource_names_subscribe: vec!["*".into()],
        ..DeltaDiscoveryRequest::default()
    }
}

/// Names and values of an answer, sorted.
pub(crate) fn content(answer: &DeltaDiscoveryResponse) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = answer.resources.iter().map(|r| (r.name.clone(), value(&unwrap(r)))).collect();
    all.sort();
    all
}

pub(crate) fn names(answer: &DeltaDiscoveryResponse) -> Vec<String> {
    content(answer).into_iter().map(|(name, _)| name).collect()
}

pub(crate) fn unwrap(resource: &xds::Resource) -> kuma::KumaResource {
    let any = resource.resource.as_ref().unwrap();
    assert_eq!(any.type_url, "type.googleapis.com/kuma.mesh.v1alpha1.KumaResource");
    kuma::KumaResource::decode(any.value.clone()).unwrap()
}

pub(crate) fn value(resource: &kuma::KumaResource) -> Vec<u8> {
    let spec = resource.spec.as_ref().unwrap();
    match spec.type_url.as_str() {
        "type.googleapis.com/kuma.system.v1alpha1.Secret" => {
            system::Secret::decode(spec.value.clone()).unwrap().data.unwrap().value.to_vec()
        }
        "type.googleapis.com/kuma.system.v1alpha1.Config" => {
            system::Config::decode(spec.value.clone()).unwrap().config.into_bytes()
        }
        other => panic!("spec of type {other}"),
    }
}

/// A recorded message.
pub(crate) fn golden<M: prost::Message + Default>(path: &str) -> M {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path);
    M::decode(std::fs::read(path).unwrap().as_slice()).unwrap()
}

/// The recorded metadata of a zone's call, but for what the client library adds.
pub(crate) fn golden_looks(version: &str, gzip: bool) -> Looks {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version);
    let text = std::fs::read_to_string(path.join("zone/metadata.txt")).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let known = ["version", "client-id", "kds-version", "features"];
    let metadata = lines
        .filter_map(|(name, value)| Some((*known.iter().find(|known| **known == name)?, value.to_owned())))
        .collect();
    Looks { metadata, gzip }
}
