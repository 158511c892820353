//! One connection to global: the sync stream, the pings and the link beside it.
//!
//! Decides: who is at the other end, from what it announces. Never does: outlive its drop; everything
//! it started ends with it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::Config;
use super::dial::{causes, connect};
use super::link::{self, LinkEnd};
use crate::kds::FEATURE;
use crate::kds::client::Global;
use crate::kds::message::Response;
use crate::kds::wire::{self, pb};
use pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use pb::kuma::mesh::v1alpha1::ZoneHealthCheckRequest;
use pb::kuma::mesh::v1alpha1::global_kds_service_client::GlobalKdsServiceClient;
use pb::kuma::mesh::v1alpha1::kds_sync_service_client::KdsSyncServiceClient;

/// How long a ping may take.
const PING: Duration = Duration::from_secs(10);
/// The pause between pings where global names none (Kuma 2.14.3 `pkg/kds/mux/client.go`).
const PING_EVERY: Duration = Duration::from_secs(300);
/// The metadata in which a server tells how long to wait before trying again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Why a stream ended or could not be opened.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// The least pause the peer asked for.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after: None }
    }

    fn from_status(what: &str, status: &Status) -> Self {
        let pushback = status.metadata().get(PUSHBACK).and_then(|value| value.to_str().ok()?.parse().ok());
        let reason = match status.code() {
            Code::Ok => format!("{what}: global ended the stream"),
            code => format!("{what}: {} ({code:?})", first_of(status)),
        };
        Self { reason, retry_after: pushback.map(Duration::from_millis) }
    }
}

fn first_of(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) if status.message().is_empty() => causes(source),
        _ => status.message().to_owned(),
    }
}

/// Announced in the first call of a connection, when it is not known who answers, and in all calls to a stock
/// global.
const FEATURES: [&str; 3] = ["zone-ping-health", "hash-suffix", FEATURE];

/// What is told to global with every call.
fn metadata(config: &Config, features: &[&str]) -> MetadataMap {
    let mut map = MetadataMap::new();
    let mut put = |name: &'static str, text: &str| {
        if let Ok(value) = MetadataValue::try_from(text) {
            map.append(name, value);
        }
    };
    put("client-id", &config.name);
    put("kds-version", "v3");
    put("version", env!("CARGO_PKG_VERSION"));
    for feature in features {
        put("features", feature);
    }
    put("kdsync-instance", &config.instance);
    map
}

fn request<T>(message: T, metadata: &MetadataMap) -> Request<T> {
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata.clone();
    request
}

/// Opens connections.
#[derive(Debug)]
pub(super) struct Dialer {
    config: Config,
    link: LinkEnd,
}

impl Dialer {
    pub(super) fn new(config: Config, link: LinkEnd) -> Self {
        Self { config, link }
    }

    /// Connects, learns who is there, opens the sync stream.
    pub(super) fn dial(&self) -> BoxFuture<'static, Result<Connection, Failure>> {
        let (config, link) = (self.config.clone(), self.link.clone());
        Box::pin(async move {
            tracing::debug!(global = %config.global, "connecting");
            let channel = connect(&config.global, &config.tls).await?;
            let first = metadata(&config, &FEATURES);
            let (global, every) = probe(channel.clone(), &first).await?;
            // HTTP/2 indexes the first value of a header only: the others cost their bytes on each call.
            let metadata = match global {
                Global::Kdsync => metadata(&config, &[FEATURE]),
                Global::Stock => first,
            };
            let mut tasks = JoinSet::new();
            if let Some(every) = every {
                tasks.spawn(ping(channel.clone(), metadata.clone(), every));
            }
            if global == Global::Kdsync {
                tasks.spawn(link::run(channel.clone(), metadata.clone(), link));
            }
            Ok(open(channel, &config, &metadata, global, tasks))
        })
    }
}

/// Asks for a health check: a kdsync global announces itself in the answer, Kuma answers plainly, and
/// Kuma before 2.5 does not know the call.
async fn probe(channel: Channel, metadata: &MetadataMap) -> Result<(Global, Option<Duration>), Failure> {
    let mut client = GlobalKdsServiceClient::new(channel);
    let call = client.health_check(request(ZoneHealthCheckRequest {}, metadata));
    let answer = match tokio::time::timeout(PING, call).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(status)) if status.code() == Code::Unimplemented => return Ok((Global::Stock, None)),
        Ok(Err(status)) => return Err(Failure::from_status("health check", &status)),
        Err(_) => return Err(Failure::new("global did not answer a health check within 10 s")),
    };
    let announced = answer.metadata().get_all("features").iter().any(|value| value == FEATURE);
    let interval = answer.get_ref().interval.and_then(|interval| {
        let interval =
            Duration::new(u64::try_from(interval.seconds).ok()?, u32::try_from(interval.nanos).ok()?);
        (!interval.is_zero()).then_some(interval)
    });
    let global = if announced { Global::Kdsync } else { Global::Stock };
    Ok((global, Some(interval.unwrap_or(PING_EVERY).max(Duration::from_secs(1)))))
}

/// Pings at the pace global asked for. A lost connection shows on the stream itself.
async fn ping(channel: Channel, metadata: MetadataMap, every: Duration) {
    let mut client = GlobalKdsServiceClient::new(channel);
    loop {
        tokio::time::sleep(every).await;
        let call = client.health_check(request(ZoneHealthCheckRequest {}, &metadata));
        match tokio::time::timeout(PING, call).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => tracing::debug!(code = ?status.code(), "health check failed"),
            Err(_) => tracing::debug!("health check timed out"),
        }
    }
}

fn open(
    channel: Channel,
    config: &Config,
    metadata: &MetadataMap,
    global: Global,
    tasks: JoinSet<()>,
) -> Connection {
    let (requests, outbound) = mpsc::channel(1);
    let outbound = request(ReceiverStream::new(outbound), metadata);
    let mut client = KdsSyncServiceClient::new(channel)
        .max_decoding_message_size(config.max_message)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip);
    // A Go server sends its headers with the first answer, so the call is awaited where answers are.
    let opening =
        Box::pin(async move { client.global_to_zone_sync(outbound).await.map(tonic::Response::into_inner) });
    Connection { global, requests, inbound: Inbound::Opening(opening), _tasks: tasks }
}

enum Inbound {
    Opening(BoxFuture<'static, Result<Streaming<DeltaDiscoveryResponse>, Status>>),
    Open(Box<Streaming<DeltaDiscoveryResponse>>),
}

/// See the module.
pub(super) struct Connection {
    pub(super) global: Global,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    inbound: Inbound,
    /// Pings and the link; aborted when the connection is dropped.
    _tasks: JoinSet<()>,
}

impl Connection {
    /// Where requests are handed in.
    pub(super) fn outlet(&self) -> mpsc::Sender<DeltaDiscoveryRequest> {
        self.requests.clone()
    }

    async fn stream(&mut self) -> Result<&mut Streaming<DeltaDiscoveryResponse>, Status> {
        if let Inbound::Opening(opening) = &mut self.inbound {
            self.inbound = Inbound::Open(Box::new(opening.await?));
        }
        match &mut self.inbound {
            Inbound::Open(stream) => Ok(stream),
            Inbound::Opening(_) => Err(Status::internal("the stream did not open")),
        }
    }
}

/// Room to send one request; pending for ever without a connection. Only once this resolves is a request
/// taken, so a slow peer never stalls the loop.
pub(super) async fn reserve(
    outlet: Option<mpsc::Sender<DeltaDiscoveryRequest>>,
) -> Result<mpsc::OwnedPermit<DeltaDiscoveryRequest>, Failure> {
    let Some(outlet) = outlet else { return std::future::pending().await };
    outlet.reserve_owned().await.map_err(|_| Failure::new("the stream to global is closed"))
}

/// The next answer; pending for ever without a connection.
pub(super) async fn next(connection: Option<&mut Connection>) -> Result<Response, Failure> {
    let Some(connection) = connection else { return std::future::pending().await };
    let ended = |status: &Status| Failure::from_status("sync stream", status);
    match connection.stream().await.map_err(|status| ended(&status))?.message().await {
        Ok(Some(message)) => wire::decode_response(message).map_err(|error| Failure::new(error.to_string())),
        Ok(None) => Err(Failure::new("global ended the sync stream")),
        Err(status) => Err(ended(&status)),
    }
}
