//! A global that says exactly what a test tells it to.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kdsync::kds::wire::pb::envoy::service::discovery::v3 as xds;
use kdsync::kds::wire::pb::google::protobuf::{Any, BytesValue};
use kdsync::kds::wire::pb::kdsync::v1 as link;
use kdsync::kds::wire::pb::kuma::mesh::v1alpha1 as kuma;
use kdsync::kds::wire::pb::kuma::system::v1alpha1 as system;
use kuma::global_kds_service_server::{GlobalKdsService, GlobalKdsServiceServer};
use kuma::kds_sync_service_server::{KdsSyncService, KdsSyncServiceServer};
use link::zone_link_server::{ZoneLink, ZoneLinkServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::rig::soon;

/// Who the global plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Kuma 2.14.3.
    New,
    /// Kuma 2.2.9 with delta KDS.
    Old,
    /// Another kdsync.
    Kdsync,
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
struct Service {
    kind: Kind,
    streams: mpsc::UnboundedSender<SyncStream>,
    reports: mpsc::UnboundedSender<link::ZoneReport>,
    pings: Arc<std::sync::atomic::AtomicUsize>,
}

/// One open `GlobalToZoneSync`.
pub(crate) struct SyncStream {
    pub(crate) kind: Kind,
    pub(crate) metadata: MetadataMap,
    requests: Streaming<DeltaDiscoveryRequest>,
    answers: mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>,
    nonce: u64,
}

#[tonic::async_trait]
impl KdsSyncService for Service {
    type GlobalToZoneSyncStream = Boxed<DeltaDiscoveryResponse>;
    type ZoneToGlobalSyncStream = Boxed<DeltaDiscoveryRequest>;

    async fn global_to_zone_sync(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::GlobalToZoneSyncStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let (answers, mut outgoing) = mpsc::unbounded_channel();
        let _ = self.streams.send(SyncStream { kind: self.kind, metadata, requests, answers, nonce: 0 });
        // As in Go, the headers go with the first message.
        let first = outgoing.recv().await.ok_or_else(|| Status::unavailable("shutting down"))??;
        let rest = UnboundedReceiverStream::new(outgoing);
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(rest))))
    }

    async fn zone_to_global_sync(
        &self,
        _: Request<Streaming<DeltaDiscoveryResponse>>,
    ) -> Result<Response<Self::ZoneToGlobalSyncStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

#[tonic::async_trait]
impl GlobalKdsService for Service {
    type StreamXDSConfigsStream = Boxed<kuma::AdminRequest>;
    type StreamStatsStream = Boxed<kuma::AdminRequest>;
    type StreamClustersStream = Boxed<kuma::AdminRequest>;

    async fn health_check(
        &self,
        _: Request<kuma::ZoneHealthCheckRequest>,
    ) -> Result<Response<kuma::ZoneHealthCheckResponse>, Status> {
        self.pings.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut answer = Response::new(kuma::ZoneHealthCheckResponse::default());
        match self.kind {
            Kind::Old => return Err(Status::unimplemented("unknown service")),
            Kind::New => {}
            Kind::Kdsync => drop(answer.metadata_mut().insert("features", "kdsync-1".parse().unwrap())),
        }
        Ok(answer)
    }

    async fn stream_xds_configs(
        &self,
        _: Request<Streaming<kuma::AdminResponse>>,
    ) -> Result<Response<Self::StreamXDSConfigsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stream_stats(
        &self,
        _: Request<Streaming<kuma::AdminResponse>>,
    ) -> Result<Response<Self::StreamStatsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stream_clusters(
        &self,
        _: Request<Streaming<kuma::AdminResponse>>,
    ) -> Result<Response<Self::StreamClustersStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl ZoneLink for Service {
    type LinkStream = Boxed<link::GlobalReport>;

    async fn link(
        &self,
        request: Request<Streaming<link::ZoneReport>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        if self.kind != Kind::Kdsync {
            return Err(Status::unimplemented("unknown service"));
        }
        let mut inbound = request.into_inner();
        let reports = self.reports.clone();
        let (echoes, outgoing) = mpsc::channel(4);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok(Some(report)) = inbound.message().await {
                let echo = link::GlobalReport { echoed_sequence: report.sequence, ..Default::default() };
                let _ = reports.send(report);
                if echoes.send(Ok(echo)).await.is_err() {
                    return;
                }
            }
        });
        let held = ReceiverStream::new(outgoing).map(move |echo| {
            let _ = &tasks;
            echo
        });
        Ok(Response::new(Box::pin(held)))
    }
}

/// A listening global.
pub(crate) struct Scripted {
    pub(crate) address: String,
    streams: mpsc::UnboundedReceiver<SyncStream>,
    pub(crate) reports: mpsc::UnboundedReceiver<link::ZoneReport>,
    pub(crate) pings: Arc<std::sync::atomic::AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Scripted {
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::on(kind, "127.0.0.1:0").await
    }

    /// On a certain address, so that a zone finds it again.
    pub(crate) async fn on(kind: Kind, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (to_streams, streams) = mpsc::unbounded_channel();
        let (to_reports, reports) = mpsc::unbounded_channel();
        let pings = Arc::default();
        let service = Service { kind, streams: to_streams, reports: to_reports, pings: Arc::clone(&pings) };
        let mut sync = KdsSyncServiceServer::new(service.clone());
        if kind != Kind::Old {
            // Kuma 2.14.3 reads gzip; 2.2.9 answers UNIMPLEMENTED to it.
            sync = sync.accept_compressed(Gzip).send_compressed(Gzip);
        }
        let server = tonic::transport::Server::builder()
            .add_service(sync)
            .add_service(GlobalKdsServiceServer::new(service.clone()))
            .add_service(ZoneLinkServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let mut serving = JoinSet::new();
        serving.spawn(async move { server.await.unwrap() });
        Self { address, streams, reports, pings, _serving: serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("grpc://{}", self.address)
    }

    /// The next stream that the zone opens.
    pub(crate) async fn stream(&mut self) -> SyncStream {
        soon(self.streams.recv()).await.unwrap()
    }

    /// A stream that the zone has opened already, if so.
    pub(crate) fn try_stream(&mut self) -> Option<SyncStream> {
        self.streams.try_recv().ok()
    }

    /// The next stream, up to the point where the zone asks for secrets.
    pub(crate) async fn opened(&mut self, cluster_id: &str) -> (SyncStream, [DeltaDiscoveryRequest; 2]) {
        let mut stream = self.stream().await;
        if stream.kind != Kind::Kdsync {
            stream.subscription("Config").await;
            let id = stream.config(cluster_id);
            let answer = stream.answer("Config", vec![id], &[]);
            stream.acked(&answer).await;
        }
        let globals = stream.subscription("GlobalSecret").await;
        let secrets = stream.subscription("Secret").await;
        (stream, [secrets, globals])
    }

    /// The next stream, with this first answer for `Secret` and none for `GlobalSecret`.
    pub(crate) async fn synced(&mut self, cluster_id: &str, secrets: &[(&str, &str)]) -> SyncStream {
        let (mut stream, _) = self.opened(cluster_id).await;
        let secrets = secrets.iter().map(|(name, value)| stream.secret(name, value)).collect();
        let removed: &[&str] = if stream.kind == Kind::Old { &[""] } else { &[] };
        let answer = stream.answer("Secret", secrets, removed);
        stream.acked(&answer).await;
        let answer = stream.answer("GlobalSecret", Vec::new(), removed);
        stream.acked(&answer).await;
        stream
    }
}

pub(crate) fn any(type_url: &str, message: &impl prost::Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{type_url}"), value: message.encode_to_vec().into() }
}

impl SyncStream {
    pub(crate) async fn request(&mut self) -> DeltaDiscoveryRequest {
        let request = soon(self.requests.message()).await.unwrap().expect("the zone ended the stream");
        assert_eq!(request.node.as_ref().map(|node| node.id.as_str()), Some("east"), "{request:?}");
        request
    }

    /// The zone's first request of a type.
    pub(crate) async fn subscription(&mut self, ty: &str) -> DeltaDiscoveryRequest {
        let request = self.request().await;
        assert_eq!(request.type_url, ty);
        assert_eq!(request.response_nonce, "");
        assert_eq!(request.resource_names_subscribe.first().map(String::as_str), Some("*"));
        // A kdsync global knows it from the metadata of the call.
        let tells_who = request.node.as_ref().unwrap().metadata.is_some();
        assert_eq!(tells_who, self.kind != Kind::Kdsync, "the first of a type tells Kuma who it is");
        request
    }

    /// The zone's ACK of an answer, and nothing else.
    pub(crate) async fn acked(&mut self, answer: &DeltaDiscoveryResponse) {
        let request = self.request().await;
        let node = xds::Node { id: "east".into(), metadata: None };
        let ack = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: answer.type_url.clone(),
            response_nonce: answer.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        assert_eq!(request, ack);
    }

    /// The zone's NACK of an answer: its message.
    pub(crate) async fn nacked(&mut self, answer: &DeltaDiscoveryResponse) -> String {
        let request = self.request().await;
        assert_eq!((&request.type_url, &request.response_nonce), (&answer.type_url, &answer.nonce));
        let detail = request.error_detail.expect("a NACK tells why");
        assert_eq!(detail.code, 0);
        if self.kind != Kind::Kdsync {
            assert_eq!(request.resource_names_subscribe, ["*"]);
            assert!(detail.details.is_empty());
        }
        detail.message
    }

    /// The zone went away.
    pub(crate) async fn closed(mut self) {
        let gone = async { while let Ok(Some(_)) = self.requests.message().await {} };
        soon(gone).await;
    }

    /// How the zone goes on is somebody else's business: ends the stream like this.
    pub(crate) fn end(self, status: Status) {
        let _ = self.answers.send(Err(status));
    }

    pub(crate) fn send(&self, answer: DeltaDiscoveryResponse) {
        let _ = self.answers.send(Ok(answer));
    }

    /// An answer with the next nonce.
    pub(crate) fn answer_later(&mut self, ty: &str, resources: Vec<xds::Resource>) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        DeltaDiscoveryResponse {
            resources,
            type_url: ty.into(),
            nonce: self.nonce.to_string(),
            control_plane: Some(xds::ControlPlane { identifier: "global".into() }),
            ..DeltaDiscoveryResponse::default()
        }
    }

    /// Sends an answer with the next nonce.
    pub(crate) fn answer(
        &mut self,
        ty: &str,
        resources: Vec<xds::Resource>,
        removed: &[&str],
    ) -> DeltaDiscoveryResponse {
        let mut answer = self.answer_later(ty, resources);
        answer.removed_resources = removed.iter().map(|name| (*name).to_owned()).collect();
        self.send(answer.clone());
        answer
    }

    fn resource(&self, name: &str, mesh: &str, value: &str, spec: Any) -> xds::Resource {
        let mut meta =
            kuma::kuma_resource::Meta { name: name.into(), mesh: mesh.into(), ..Default::default() };
        if self.kind != Kind::Old {
            meta.labels.insert("kuma.io/origin".into(), "global".into());
        }
        let payload = kuma::KumaResource { meta: Some(meta), spec: Some(spec), status: None };
        let named = self.kind != Kind::Old;
        xds::Resource {
            version: format!("version-of-{value}"),
            resource: Some(any("kuma.mesh.v1alpha1.KumaResource", &payload)),
            name: if named { format!("{name}.{mesh}") } else { String::new() },
        }
    }

    pub(crate) fn config(&self, id: &str) -> xds::Resource {
        let spec = any("kuma.system.v1alpha1.Config", &system::Config { config: id.into() });
        self.resource("kuma-cluster-id", "", id, spec)
    }

    fn spec(value: &str) -> Any {
        let value = value.as_bytes().to_vec().into();
        any("kuma.system.v1alpha1.Secret", &system::Secret { data: Some(BytesValue { value }) })
    }

    pub(crate) fn secret(&self, name: &str, value: &str) -> xds::Resource {
        self.resource(name, "default", value, Self::spec(value))
    }

    pub(crate) fn global_secret(&self, name: &str, value: &str) -> xds::Resource {
        self.resource(name, "", value, Self::spec(value))
    }
}

/// Longer than any pause before a zone tries again.
pub(crate) const RETRY: Duration = Duration::from_secs(61);
