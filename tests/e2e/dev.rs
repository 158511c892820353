//! `kdsync dev` that keeps its files, and whom it serves.

use kdsync::kds::wire::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
};
use kdsync::kds::wire::pb::kuma::mesh::v1alpha1::kds_sync_service_client::KdsSyncServiceClient;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use super::world::{Http, Process, World, binary, soon, until};

const FREE_PORTS: [&str; 8] =
    ["--api-port", "0", "--kds-port", "0", "--diagnostics-port", "0", "--zone-port-base", "0"];

/// A running `dev`.
struct Dev {
    process: Process,
    global: Value,
    zones: Vec<String>,
}

impl Dev {
    /// With two zones, east and west; in `world`, or in memory.
    async fn start(world: Option<&World>, args: &[&str]) -> Self {
        let mut command = binary();
        command.args(["dev", "--log-format", "json"]).args(FREE_PORTS).args(args);
        match world {
            Some(world) => command.arg("--data-dir").arg(world.dir.path().join("dev")),
            None => command.arg("--ephemeral"),
        };
        let process = Process::start(command);
        let global = process.line("global started").await;
        // It is said last, when everything listens.
        process.line_of_text("Ctrl-C stops everything").await;
        let zones = lines(&process, "zone started");
        let zones = zones.iter().map(|line| format!("http://{}", line["api"].as_str().unwrap())).collect();
        Self { process, global, zones }
    }

    fn api(&self) -> String {
        format!("http://{}", self.global["api"].as_str().unwrap())
    }
}

fn lines(process: &Process, message: &str) -> Vec<Value> {
    let text = process.log.text();
    let parsed = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["message"] == message).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_keeps_its_secrets_and_zones() {
    let (world, http) = (World::new(), Http::new());
    let dev = Dev::start(Some(&world), &[]).await;
    dev.process.line_of_text(world.dir.path().to_str().unwrap()).await;
    for name in ["a", "b"] {
        http.put(&dev.api(), name, "1").await;
    }
    assert_eq!(dev.zones.len(), 2);
    let mut written = http.held(&dev.api()).await.unwrap();
    for zone in &dev.zones {
        assert_eq!(http.converge(&dev.api(), zone).await, written);
    }
    let store = http.send("GET", &format!("{}/kdsync/store", dev.api()), &Value::Null).await.unwrap().1;
    dev.process.interrupt(&[]).await;

    let dev = Dev::start(Some(&world), &[]).await;
    // Global has them, and each zone had them in its own file before it met global.
    assert_eq!(http.held(&dev.api()).await.unwrap(), written);
    let opened = lines(&dev.process, "zone opened");
    assert_eq!(opened.iter().map(|line| line["held"].as_u64()).collect::<Vec<_>>(), [Some(2); 2]);
    let again = http.send("GET", &format!("{}/kdsync/store", dev.api()), &Value::Null).await.unwrap().1;
    assert_eq!(store["id"], again["id"], "it is the same store");
    // And what comes next is a change, not a new beginning.
    http.put(&dev.api(), "c", "1").await;
    written = http.held(&dev.api()).await.unwrap();
    assert_eq!(written.len(), 3);
    for zone in &dev.zones {
        assert_eq!(http.converge(&dev.api(), zone).await, written);
    }
    dev.process.interrupt(&[]).await;
}

/// A zone of Kuma 2.14.3 that asks for secrets, then for the cluster's id.
struct Stock {
    answers: Streaming<DeltaDiscoveryResponse>,
    _requests: mpsc::Sender<DeltaDiscoveryRequest>,
}

impl Stock {
    async fn open(dev: &Dev) -> Self {
        let kds = format!("http://{}", dev.global["kds"].as_str().unwrap());
        let channel = soon("dialing", Channel::from_shared(kds).unwrap().connect()).await.unwrap();
        let (requests, outgoing) = mpsc::channel(4);
        for ty in ["Secret", "Config"] {
            let request = DeltaDiscoveryRequest {
                node: Some(Node { id: "stock".to_owned(), metadata: None }),
                type_url: ty.to_owned(),
                resource_names_subscribe: vec!["*".to_owned()],
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(request).await.unwrap();
        }
        let mut call = Request::new(ReceiverStream::new(outgoing));
        for (name, value) in [("client-id", "stock"), ("version", "2.14.3"), ("kds-version", "v3")] {
            call.metadata_mut().insert(name, value.parse().unwrap());
        }
        let mut client = KdsSyncServiceClient::new(channel);
        let answers = soon("opening", client.global_to_zone_sync(call)).await.unwrap().into_inner();
        Self { answers, _requests: requests }
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        soon("an answer", self.answers.message()).await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_serves_a_stock_zone_with_admit_all_alone() {
    let http = Http::new();
    let admitted = async |dev: &Dev| {
        let url = format!("{}/kdsync/zones/stock", dev.api());
        until("global knows the zone", || async {
            let (status, zone) = http.send("GET", &url, &Value::Null).await?;
            (status == 200 && zone["connected"] == true).then(|| zone["admitted"].as_bool().unwrap())
        })
        .await
    };
    let dev = Dev::start(None, &[]).await;
    http.put(&dev.api(), "a", "1").await;
    let mut stock = Stock::open(&dev).await;
    // It asked for secrets first.
    assert_eq!(stock.next().await.type_url, "Config");
    assert!(!admitted(&dev).await);
    dev.process.line("zone waits to be admitted").await;
    dev.process.interrupt(&[]).await;

    let dev = Dev::start(None, &["--admit-all"]).await;
    http.put(&dev.api(), "a", "1").await;
    // What a zone has, global serves.
    http.converge(&dev.api(), &dev.zones[0]).await;
    let mut stock = Stock::open(&dev).await;
    let answers = [stock.next().await, stock.next().await];
    let secrets = answers.iter().find(|answer| answer.type_url == "Secret").unwrap();
    assert_eq!(
        secrets.resources.iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>(),
        ["a.default"]
    );
    assert!(admitted(&dev).await);
    assert!(lines(&dev.process, "zone waits to be admitted").is_empty());
    drop(stock);
    dev.process.interrupt(&[]).await;
}
