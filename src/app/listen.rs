//! Sockets to listen on.
//!
//! Decides: the words when one cannot be had. Never does: try another port in silence.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpListener;

/// A socket that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    /// Somebody else has it.
    #[error(
        "{address} for {purpose} is taken by another process; stop that, or choose another port with {flag}"
    )]
    Taken { address: SocketAddr, purpose: &'static str, flag: &'static str },
    /// Anything else.
    #[error("cannot listen on {address} for {purpose}: {source}; the port is set with {flag}")]
    Failed { address: SocketAddr, purpose: &'static str, flag: &'static str, source: std::io::Error },
}

/// What a port is for, and how a user changes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    pub(super) what: &'static str,
    pub(super) flag: &'static str,
}

/// Binds one socket; port 0 takes a free one.
pub(super) async fn listen(ip: IpAddr, port: u16, purpose: Purpose) -> Result<TcpListener, ListenError> {
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address).await.map_err(|source| {
        let (purpose, flag) = (purpose.what, purpose.flag);
        if source.kind() == ErrorKind::AddrInUse {
            ListenError::Taken { address, purpose, flag }
        } else {
            ListenError::Failed { address, purpose, flag, source }
        }
    })
}
