//! A client of the HTTP API on one connection that stays open.
//!
//! Decides: to connect anew where the server closed a connection that had nothing to do. Never does:
//! send a request twice; one that fails fails the scenario.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// See the module.
pub(crate) struct Http {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
    _connection: JoinSet<()>,
}

impl Http {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(address).await.context("the API does not answer")?;
        tcp.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(tcp)).await?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            // How it ends shows in the request that is under way.
            let _ = connection.await;
        });
        Ok(Self { sender, address, _connection: task })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        if self.sender.ready().await.is_err() {
            *self = Self::connect(self.address).await?;
        }
        let host = self.address.to_string();
        let request = Request::builder().method(method).uri(path).header("host", host);
        let request = request.header("content-type", "application/json").body(Full::new(body))?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// The JSON of an answer that must be a success.
    pub(crate) async fn json(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Value> {
        let (status, body) = self.send(method, path, body).await?;
        anyhow::ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }
}
