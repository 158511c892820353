//! A server in memory and requests to it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use kdsync::api::{self, ApiState, Hosts, Info, Limits, LocalWrites, Mode};
use kdsync::store::ResourceStore;
use kdsync::store::embedded::{self, EmbeddedConfig};
use kdsync::telemetry::Telemetry;
use serde_json::Value;
use tower::ServiceExt as _;

/// A server and what is behind it.
pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) store: Arc<dyn ResourceStore>,
    pub(crate) telemetry: Telemetry,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status, the title and the fields of the invalid parameters.
    pub(crate) fn error(&self) -> (u16, String, Vec<String>) {
        let json = self.json();
        let kind = self.headers.get("content-type").expect("a content type");
        assert_eq!(kind, "application/json");
        assert_eq!(json["status"], self.status.as_u16());
        assert_eq!(json["type"], "/std-errors");
        assert_eq!(json["detail"], json["details"]);
        let parameters = json["invalid_parameters"].as_array().cloned().unwrap_or_default();
        let causes = json["causes"].as_array().map_or(0, Vec::len);
        assert_eq!(parameters.len(), causes);
        let fields = parameters.iter().map(|p| p["field"].as_str().unwrap().to_owned()).collect();
        (self.status.as_u16(), json["title"].as_str().unwrap().to_owned(), fields)
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        let json = self.json();
        let warnings = json["warnings"].as_array().cloned().unwrap_or_default();
        warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
    }
}

pub(crate) fn global() -> Server {
    server(Mode::Global)
}

pub(crate) fn zone(global_address: Option<&str>, local_writes: LocalWrites) -> Server {
    let global_address = global_address.map(str::to_owned);
    server(Mode::Zone { name: "east".to_owned(), global_address, local_writes })
}

pub(crate) fn server(mode: Mode) -> Server {
    server_over(mode, &EmbeddedConfig::memory())
}

/// A global whose store takes a name once across meshes and kinds.
pub(crate) fn unique() -> Server {
    server_over(Mode::Global, &EmbeddedConfig { unique_names: true, ..EmbeddedConfig::memory() })
}

fn server_over(mode: Mode, config: &EmbeddedConfig) -> Server {
    let store: Arc<dyn ResourceStore> = embedded::open(config).unwrap();
    let telemetry = Telemetry::default();
    let info =
        Info { hostname: "vm".to_owned(), instance_id: "vm-1".to_owned(), version: "0.1.0".to_owned() };
    let state = ApiState {
        store: store.clone(),
        mode,
        info,
        telemetry: telemetry.clone(),
        zones: None,
        limits: Limits::default(),
        hosts: Hosts::Loopback,
    };
    Server { router: api::router(state), store, telemetry }
}

impl Server {
    pub(crate) async fn call(&self, method: &str, uri: &str, body: &str) -> Answer {
        self.call_as(method, uri, "application/json", body.to_owned()).await
    }

    pub(crate) async fn call_as(&self, method: &str, uri: &str, kind: &str, body: String) -> Answer {
        let mut request = Request::builder().method(method).uri(uri).header("host", "localhost:5681");
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.call_as("GET", uri, "", String::new()).await
    }

    pub(crate) async fn put(&self, mesh: &str, name: &str, data: &str) -> Answer {
        let body = format!(r#"{{"type":"Secret","mesh":"{mesh}","name":"{name}","data":"{data}"}}"#);
        self.call("PUT", &format!("/meshes/{mesh}/secrets/{name}"), &body).await
    }
}
