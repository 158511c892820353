//! The HTTP client of the command line.
//!
//! Decides: how a failed request is told: what, where, what to do next. Never does: retry; the user
//! does.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::Value;

use super::Server;

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The address cannot be used.
    #[error("{0}")]
    Address(String),
    /// Nobody answers.
    #[error(
        "cannot reach {address}: {reason}\nIs it running? Start one with `kdsync dev`, or name another \
         with --address or KDSYNC_ADDRESS"
    )]
    Unreachable {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// The server answered with an error.
    #[error("{title} ({detail}){parameters}")]
    Refused {
        /// Its code.
        status: StatusCode,
        /// Its title.
        title: String,
        /// Its detail.
        detail: String,
        /// Its invalid parameters, one per line.
        parameters: String,
    },
    /// The answer cannot be understood.
    #[error("{address} gave an answer that cannot be read: {reason}")]
    Broken {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
}

impl ClientError {
    /// True if the server says that there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    invalid_parameters: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Parameter {
    field: String,
    reason: String,
}

/// A client of one server.
pub(super) struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    base: String,
    timeout: Duration,
    verbose: bool,
}

impl Client {
    /// A client for `--address`.
    pub(super) fn new(server: &Server) -> Result<Self, ClientError> {
        Self::at(&server.address, server)
    }

    /// A client for another address, with the same settings.
    pub(super) fn at(address: &str, server: &Server) -> Result<Self, ClientError> {
        let full = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let base = full.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().map_err(|_| {
            ClientError::Address(format!("\"{address}\" is no address; write http://host:port"))
        })?;
        match uri.scheme_str() {
            Some("http") if uri.host().is_some_and(|host| !host.is_empty()) => {}
            Some("https") => {
                let text = "https is not supported yet; use an http:// address on this machine";
                return Err(ClientError::Address(text.to_owned()));
            }
            _ => {
                let text = format!("\"{address}\" is no address; write http://host:port");
                return Err(ClientError::Address(text));
            }
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(10)));
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, base, timeout: server.timeout.into(), verbose: server.verbose })
    }

    /// Where requests go.
    pub(super) fn address(&self) -> &str {
        &self.base
    }

    /// `GET`.
    pub(super) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::GET, path, None).await
    }

    /// `DELETE`.
    pub(super) async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::DELETE, path, None).await
    }

    /// `POST` of JSON.
    pub(super) async fn post(&self, path: &str, body: Vec<u8>) -> Result<Value, ClientError> {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Value, ClientError> {
        let uri = format!("{}{path}", self.base);
        if self.verbose {
            super::output::note(&format!("{method} {uri}"));
        }
        let mut request = Request::builder()
            .method(method)
            .uri(&uri)
            .header(header::USER_AGENT, concat!("kdsync/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|_| ClientError::Address(format!("\"{uri}\" is no valid URL")))?;
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                Err(self
                    .unreachable(format!("no answer within {}", humantime::format_duration(self.timeout))))
            }
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Value, ClientError> {
        let response = self.http.request(request).await.map_err(|error| self.unreachable(root(&error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.broken(&error.to_string()))?.to_bytes();
        if self.verbose {
            super::output::note(&format!("{status}, {} bytes", body.len()));
        }
        if status.is_success() {
            if body.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(&body).map_err(|error| self.broken(&error.to_string()));
        }
        Err(self.refused(status, &body))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let Ok(error) = serde_json::from_slice::<ErrorBody>(body) else {
            return self.broken(&format!("status {status} without an explanation; is this kdsync or Kuma?"));
        };
        let mut parameters = String::new();
        for parameter in &error.invalid_parameters {
            parameters.extend(["\n  ", &parameter.field, ": ", &parameter.reason]);
        }
        ClientError::Refused { status, title: error.title, detail: error.detail, parameters }
    }

    fn unreachable(&self, reason: String) -> ClientError {
        ClientError::Unreachable { address: self.base.clone(), reason }
    }

    fn broken(&self, reason: &str) -> ClientError {
        ClientError::Broken { address: self.base.clone(), reason: reason.to_owned() }
    }
}

/// The innermost cause: what a person can act on.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Encodes a part of a path, so that no name can change where a request goes.
pub(super) fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let dots_only = text.bytes().all(|b| b == b'.');
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && !dots_only) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
