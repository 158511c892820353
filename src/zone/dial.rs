//! Where global is, and how to get there.
//!
//! Decides: what a global address looks like. Never does: fall back from TLS to plaintext.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::connection::Failure;
use crate::tls::{TlsError, Trust};

/// How long connecting and the TLS handshake may take together.
const CONNECT: Duration = Duration::from_secs(10);
/// Keepalive towards global: Kuma enforces at least 15 s between pings.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));

/// `grpc://host:port` or `grpcs://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    secure: bool,
    host: String,
    port: u16,
}

/// The text is not a global address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a global address: it must be grpcs://HOST:PORT or grpc://HOST:PORT (without TLS)")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || AddressError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let secure = match uri.scheme_str() {
            Some("grpcs") => true,
            Some("grpc") => false,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?.to_owned();
        let port = uri.port_u16().ok_or_else(bad)?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        bare.then_some(Self { secure, host, port }).ok_or_else(bad)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "grpcs" } else { "grpc" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Whom a `grpcs` global must be signed by.
pub type Tls = Trust;

fn client(trust: &Trust) -> Result<TlsConnector, TlsError> {
    crate::tls::client(trust).map(|config| TlsConnector::from(Arc::new(config)))
}

/// Opens an HTTP/2 connection.
pub(super) async fn connect(address: &Address, trust: &Trust) -> Result<Channel, Failure> {
    let scheme = if address.secure { "https" } else { "http" };
    let origin = format!("{scheme}://{}:{}", address.host, address.port);
    let uri: Uri = origin.parse().map_err(|_| Failure::new("the global address is not a URI"))?;
    let endpoint = Endpoint::from(uri.clone())
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .user_agent(concat!("kdsync/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| Failure::new(error.to_string()))?;
    let channel = if address.secure {
        let tls = client(trust).map_err(|error| Failure::new(error.to_string()))?;
        let host = address.host.trim_matches(['[', ']']).to_owned();
        let (target, name) = ((host.clone(), address.port), host);
        // The connector does TLS itself, so tonic is told that the transport is plain.
        let plain = Endpoint::from_shared(format!("http://{}:{}", address.host, address.port))
            .map_err(|error| Failure::new(error.to_string()))?;
        let endpoint = endpoint_like(plain, uri);
        let connector = service_fn(move |_: Uri| {
            let (tls, target, name) = (tls.clone(), target.clone(), name.clone());
            async move { handshake(tls, target, name).await.map(TokioIo::new) }
        });
        tokio::time::timeout(CONNECT, endpoint.connect_with_connector(connector)).await
    } else {
        tokio::time::timeout(CONNECT, endpoint.connect()).await
    };
    match channel {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(Failure::new(format!("cannot connect to {address}: {}", causes(&error)))),
        Err(_) => Err(Failure::new(format!(
            "cannot connect to {address}: no answer within {} s",
            CONNECT.as_secs()
        ))),
    }
}

fn endpoint_like(plain: Endpoint, origin: Uri) -> Endpoint {
    plain
        .origin(origin)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
}

async fn handshake(
    tls: TlsConnector,
    target: (String, u16),
    name: String,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
    let tcp = TcpStream::connect(target).await?;
    tcp.set_nodelay(true)?;
    tls.connect(name, tcp).await
}

/// An error and everything behind it, in one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_strict() {
        for good in ["grpc://127.0.0.1:5685", "grpcs://global.example:5685", "grpcs://[::1]:5685"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in
            ["", "http://a:1", "grpc://a", "grpc://:5685", "a:5685", "grpc://a:1/path", "grpc://a:99999"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
