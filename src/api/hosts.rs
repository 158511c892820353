//! Who a request believes to talk to.
//!
//! Decides: whether a request to a loopback listener was meant for this machine. A web page can make a
//! browser on this machine call any loopback port under a name of its own (DNS rebinding), and nobody is
//! authenticated yet. Never does: look at who called.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, Uri, header};

use super::{ApiError, ApiState};

/// Which names a listener answers to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hosts {
    /// Names of this machine's loopback alone: for a listener on loopback.
    #[default]
    Loopback,
    /// Whatever a client calls it.
    Any,
}

/// Refuses what was meant for somebody else.
pub(super) async fn check(State(state): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
    match stranger(request.uri(), request.headers()).filter(|_| state.hosts == Hosts::Loopback) {
        None => next.run(request).await,
        Some(what) => {
            let detail = format!(
                "{what} does not name this machine's loopback, on which this API listens; use 127.0.0.1, \
                 [::1] or localhost"
            );
            ApiError::new(StatusCode::FORBIDDEN, "Access Denied", detail).into_response()
        }
    }
}

/// The header that names another machine, if one does.
fn stranger(uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = uri.authority().map(http::uri::Authority::as_str).or_else(|| text(header::HOST));
    // Without a host it is no browser.
    if host.is_some_and(|host| !is_loopback(host)) {
        return Some("the Host of the request");
    }
    let origin = text(header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    origin.is_some_and(|origin| !is_loopback(origin)).then_some("the Origin of the request")
}

/// True for `localhost`, 127.0.0.0/8 and `[::1]`, with or without a port.
fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let address = bare.parse::<IpAddr>();
    bare.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn names_of_this_machine_pass() {
        for good in ["localhost", "LOCALHOST:5681", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:5681"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in
            ["", "evil.example", "evil.example:5681", "127.0.0.1.evil.example", "10.0.0.1", "[::2]:1", "null"]
        {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
