//! Bodies in and out: JSON, pretty-printed with one space as Kuma does.
//!
//! Decides: how much of a body is read, for how long, and of which content type. Never does: quote a
//! body in an error.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::PrettyFormatter;

use super::ApiError;

/// The one content type.
pub(super) const CONTENT_TYPE: &str = "application/json";

/// `value` as a response.
pub(super) fn response<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let mut text = Vec::with_capacity(256);
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b" "));
    let (status, text) = match value.serialize(&mut serializer) {
        Ok(()) => {
            text.push(b'\n');
            (status, text)
        }
        Err(error) => {
            tracing::error!(%error, "answer cannot be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, b"{}\n".to_vec())
        }
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// `value` with 200.
pub(super) fn ok<T: Serialize>(value: &T) -> Response {
    response(StatusCode::OK, value)
}

/// Reads a JSON body.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    timeout: Duration,
) -> Result<Bytes, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(CONTENT_TYPE) {
        let detail = format!("send the body with content-type {CONTENT_TYPE}");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Media Type", detail));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    match tokio::time::timeout(timeout, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Ok(Err(_broken)) => Err(ApiError::bad_request("the body ended before it was complete")),
        Err(_elapsed) => {
            let detail = format!("the body did not arrive within {}s", timeout.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "Request Timeout", detail))
        }
    }
}

fn too_large(limit: usize) -> ApiError {
    let detail = format!("the body is larger than the limit of {limit} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large", detail)
}
