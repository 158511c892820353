//! A thin zone: everything a kdsync zone says on the wire, and no store.
//!
//! Decides: whether what arrived is what global announced: every value is hashed, and count and digest
//! of the set must be those of the answer's position before it counts as held. Never does: keep a
//! value, or say less than a real zone: health checks, the link with its heartbeats and keepalive pings
//! are all there.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use kdsync::core::resource::version_of;
use kdsync::core::{Digest, Key, Position, ResourceType, Version};
use kdsync::kds::FEATURE;
use kdsync::kds::message::{Answer, Header, Node, Request};
use kdsync::kds::wire::pb::envoy::service::discovery::v3 as xds;
use kdsync::kds::wire::pb::kdsync::v1::zone_link_client::ZoneLinkClient;
use kdsync::kds::wire::pb::kdsync::v1::{Reached, ZoneReport};
use kdsync::kds::wire::pb::kuma::mesh::v1alpha1 as kuma;
use kdsync::kds::wire::pb::kuma::system::v1alpha1 as system;
use kdsync::kds::wire::{self, Message as _};
use kuma::ZoneHealthCheckRequest;
use kuma::global_kds_service_client::GlobalKdsServiceClient;
use kuma::kds_sync_service_client::KdsSyncServiceClient;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::board::Board;
use crate::traffic::{Counted, Traffic};

/// As in a real zone.
const HEARTBEAT: Duration = Duration::from_secs(5);
const OPENING: Duration = Duration::from_millis(500);
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));
const MAX_MESSAGE: usize = 10 << 20;
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// As in a real zone: of the first call, and of those after it, when it is known who answers.
const FIRST: [&str; 3] = ["zone-ping-health", "hash-suffix", FEATURE];
const THEN: [&str; 1] = [FEATURE];

/// What a zone holds of one type: versions, never values.
#[derive(Debug, Default)]
struct Set {
    versions: HashMap<Key, Version>,
    digest: Digest,
    position: Option<Position>,
    /// It was answered on the present stream.
    answered: bool,
    /// Bytes of the resources of its last whole answer, as messages.
    encoded: usize,
}

impl Set {
    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.versions.remove(key) {
            self.digest.remove(key, &old);
        }
    }

    fn put(&mut self, key: Key, version: Version) {
        if let Some(old) = self.versions.get(&key) {
            self.digest.remove(&key, old);
        }
        self.digest.add(&key, &version);
        self.versions.insert(key, version);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ThinZone {
    number: usize,
    name: SmolStr,
    instance: String,
    sets: Mutex<BTreeMap<ResourceType, Set>>,
    board: Arc<Board>,
    traffic: Arc<Traffic>,
    /// Something was reached: the link says so at once.
    news: Notify,
}

impl ThinZone {
    pub(crate) fn new(number: usize, board: Arc<Board>, traffic: Arc<Traffic>) -> Self {
        let name = format!("zone-{number:03}");
        let instance = format!("{name}-{:04}", fastrand::u16(..10_000));
        let sets = Mutex::new(ResourceType::SECRETS.map(|ty| (ty, Set::default())).into());
        Self { number, name: name.into(), instance, sets, board, traffic, news: Notify::new() }
    }

    /// One connection, until the task is aborted; what ends it otherwise is a failure.
    pub(crate) async fn run(self: Arc<Self>, global: SocketAddr) {
        if let Err(error) = self.clone().follow(global).await {
            self.board.fail(format!("{}: {error:#}", self.name));
        }
    }

    async fn follow(self: Arc<Self>, global: SocketAddr) -> anyhow::Result<()> {
        let channel = self.connect(global).await.context("connect")?;
        let every = self.probe(channel.clone()).await.context("health check")?;
        let mut beside = JoinSet::new();
        beside.spawn(self.clone().ping(channel.clone(), every));
        beside.spawn(self.clone().link(channel.clone()));
        self.sync(channel).await
    }

    async fn connect(&self, global: SocketAddr) -> anyhow::Result<Channel> {
        let traffic = self.traffic.clone();
        let endpoint = Endpoint::from_shared(format!("http://{global}"))?
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true)
            .user_agent(concat!("kdsync/", env!("CARGO_PKG_VERSION")))?;
        let connector = service_fn(move |_: Uri| {
            let traffic = traffic.clone();
            async move {
                let tcp = TcpStream::connect(global).await?;
                tcp.set_nodelay(true)?;
                std::io::Result::Ok(TokioIo::new(Counted::new(tcp, traffic)))
            }
        });
        Ok(endpoint.connect_with_connector(connector).await?)
    }

    fn request<T>(&self, features: &[&'static str], message: T) -> anyhow::Result<tonic::Request<T>> {
        let mut metadata = MetadataMap::new();
        let told = [("client-id", self.name.as_str()), ("kds-version", "v3"), ("version", VERSION)];
        let features = features.iter().map(|&feature| ("features", feature));
        let instance = ("kdsync-instance", self.instance.as_str());
        for (name, value) in told.into_iter().chain(features).chain([instance]) {
            metadata.append(name, MetadataValue::try_from(value)?);
        }
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = metadata;
        Ok(request)
    }

    /// Who is there, and how often it wants to be called.
    async fn probe(&self, channel: Channel) -> anyhow::Result<Duration> {
        let request = self.request(&FIRST, ZoneHealthCheckRequest {})?;
        let answer = GlobalKdsServiceClient::new(channel).health_check(request).await?;
        let kdsync = answer.metadata().get_all("features").iter().any(|value| value == FEATURE);
        anyhow::ensure!(kdsync, "this is no kdsync global");
        let interval = answer.get_ref().interval.context("no interval")?;
        Ok(Duration::from_secs(u64::try_from(interval.seconds)?.max(1)))
    }

    async fn ping(self: Arc<Self>, channel: Channel, every: Duration) {
        let mut client = GlobalKdsServiceClient::new(channel);
        loop {
            tokio::time::sleep(every).await;
            if let Ok(request) = self.request(&THEN, ZoneHealthCheckRequest {}) {
                // A lost connection shows on the stream itself.
                let _ = client.health_check(request).await;
            }
        }
    }

    /// Bytes of everything it holds, as messages.
    pub(crate) fn encoded(&self) -> usize {
        self.sets.lock().values().map(|set| set.encoded).sum()
    }

    // === the link ===

    async fn link(self: Arc<Self>, channel: Channel) {
        if let Err(error) = self.hold_link(channel).await {
            self.board.fail(format!("{}: link: {error:#}", self.name));
        }
    }

    async fn hold_link(&self, channel: Channel) -> anyhow::Result<()> {
        let (reports, outbound) = mpsc::channel(1);
        let request = self.request(&THEN, ReceiverStream::new(outbound))?;
        let mut inbound = ZoneLinkClient::new(channel).link(request).await?.into_inner();
        let (mut due, mut sequence) = (false, 0);
        let mut beat = tokio::time::Instant::now() + OPENING;
        loop {
            tokio::select! { biased;
                permit = reports.reserve(), if due => {
                    sequence += 1;
                    permit?.send(self.report(sequence));
                    due = false;
                    beat = tokio::time::Instant::now() + HEARTBEAT;
                }
                message = inbound.message() => drop(message?.context("global closed it")?),
                () = self.news.notified() => due = true,
                () = tokio::time::sleep_until(beat) => due = true,
            }
        }
    }

    fn report(&self, sequence: u64) -> ZoneReport {
        let sets = self.sets.lock();
        let reached = sets.iter().map(|(ty, set)| Reached {
            r#type: ty.to_string(),
            epoch: set.position.map_or(0, |position| position.identity.epoch),
            revision: set.position.map_or(0, |position| position.revision.0),
            held: set.versions.len() as u64,
            rejected: 0,
            kept: 0,
            complete: set.answered,
        });
        ZoneReport {
            sequence,
            instance: self.instance.clone(),
            version: VERSION.to_owned(),
            api_address: format!("http://127.0.0.1:{}", 10_000 + self.number),
            reached: reached.collect(),
            ..ZoneReport::default()
        }
    }

    // === the sync ===

    async fn sync(&self, channel: Channel) -> anyhow::Result<()> {
        let (requests, outbound) = mpsc::channel(4);
        for request in self.subscriptions() {
            requests.send(request).await?;
        }
        let mut client = KdsSyncServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .accept_compressed(CompressionEncoding::Gzip);
        let request = self.request(&THEN, ReceiverStream::new(outbound))?;
        let mut answers = client.global_to_zone_sync(request).await.context("sync stream")?.into_inner();
        loop {
            let answer = answers.message().await.context("sync stream")?;
            let answer = answer.context("the sync stream ended")?;
            let (type_url, nonce) = (SmolStr::from(answer.type_url.as_str()), answer.nonce.as_str().into());
            let reached = self.take(answer)?;
            let node = Node { id: self.name.clone(), ..Node::default() };
            let ack = Request { type_url, nonce, node, ..Request::default() };
            // Before anybody is told: what comes next must not delay what was measured.
            if let Some(revision) = reached {
                self.board.reached(self.number, revision);
            }
            requests.send(wire::encode_request(&ack)).await?;
            if reached.is_some() {
                self.news.notify_one();
            }
        }
    }

    /// The first requests of a stream: what is held of each type is stated as a position.
    fn subscriptions(&self) -> Vec<xds::DeltaDiscoveryRequest> {
        let mut sets = self.sets.lock();
        let first = |(ty, set): (&ResourceType, &mut Set)| {
            set.answered = false;
            let node = Node { id: self.name.clone(), ..Node::default() };
            wire::encode_request(&Request {
                type_url: ty.as_str().into(),
                subscribe: vec!["*".into()],
                position: set.position,
                node,
                ..Request::default()
            })
        };
        sets.iter_mut().map(first).collect()
    }

    /// Takes an answer. Tells the revision of the secrets if with it everything asked for is complete.
    fn take(&self, answer: xds::DeltaDiscoveryResponse) -> anyhow::Result<Option<u64>> {
        let ty: ResourceType = answer.type_url.parse()?;
        let header: Header = answer.system_version_info.parse()?;
        let mut sets = self.sets.lock();
        let set = sets.get_mut(&ty).context("an answer of a type that was not asked for")?;
        match header.answer {
            Answer::Whole | Answer::Pruned if header.page == 1 => *set = Set::default(),
            Answer::Behind | Answer::Foreign => anyhow::bail!("global knows another history"),
            _ => {}
        }
        for resource in answer.resources {
            set.encoded += resource.encoded_len();
            let (key, version) = hashed(ty, resource)?;
            set.put(key, version);
        }
        for name in &answer.removed_resources {
            set.remove(&Key::from_wire_name(ty, name).context("a removal without a name")?);
        }
        if !header.is_last() {
            return Ok(None);
        }
        let position = match header.answer {
            Answer::Equal => set.position.context("equal to what?")?,
            _ => header.position,
        };
        anyhow::ensure!(position.revision == header.position.revision, "an answer of another revision");
        let announced = (position.count, position.digest);
        let held = (set.versions.len() as u64, set.digest);
        anyhow::ensure!(held == announced, "what is held of {ty} is not what global announced");
        set.position = Some(position);
        set.answered = true;
        let complete = sets.values().all(|set| set.answered);
        let secrets = sets.get(&ResourceType::Secret).and_then(|set| set.position);
        Ok(secrets.filter(|_| complete).map(|position| position.revision.0))
    }
}

/// Reads a resource to its value, and hashes that.
fn hashed(ty: ResourceType, resource: xds::Resource) -> anyhow::Result<(Key, Version)> {
    let any = resource.resource.context("a resource without a payload")?;
    let payload = kuma::KumaResource::decode(any.value)?;
    let meta = payload.meta.context("a resource without metadata")?;
    let spec = system::Secret::decode(payload.spec.context("a resource without a spec")?.value)?;
    let key = Key::new(ty, &meta.mesh, &meta.name);
    let value = spec.data.map(|data| data.value).unwrap_or_default();
    let version = version_of(&key, &meta.labels.into_iter().collect(), &value);
    Ok((key, version))
}
