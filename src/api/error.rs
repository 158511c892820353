//! Error bodies, as Kuma 2.14.3 `pkg/core/rest/errors/types/error.go` writes them.
//!
//! Decides: how an error looks, and that every error is JSON, whoever made it. Never does: carry a
//! value.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::json;
use crate::core::Key;
use crate::core::validate::Violation;
use crate::store::StoreError;

/// An error on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    title: String,
    detail: String,
    violations: Vec<Violation>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    #[serde(rename = "type")]
    ty: &'static str,
    status: u16,
    title: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    invalid_parameters: Vec<Parameter<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cause<'a>>,
}

#[derive(Serialize)]
struct Parameter<'a> {
    field: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct Cause<'a> {
    field: &'a str,
    message: &'a str,
}

impl ApiError {
    /// An error.
    pub fn new(status: StatusCode, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status, title: title.into(), detail: detail.into(), violations: Vec::new() }
    }

    /// 404 with Kuma's detail.
    pub fn not_found(title: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, title, "Not found")
    }

    /// 400 for a body that cannot be read.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad Request", detail)
    }

    /// 400 with the list of what is wrong.
    pub fn invalid(title: &str, violations: Vec<Violation>) -> Self {
        Self::bad(title, "Resource is not valid", violations)
    }

    /// 400 with a detail and the list of what is wrong.
    pub fn bad(title: &str, detail: &str, violations: Vec<Violation>) -> Self {
        Self { violations, ..Self::new(StatusCode::BAD_REQUEST, title, detail) }
    }

    /// 500 that tells nothing.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error", "Internal Server Error")
    }

    /// What a store answered, under the title of the endpoint.
    pub fn store(title: &str, error: &StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::not_found(title),
            StoreError::Conflict { key, reason } => {
                let detail = format!("resource conflict: {} {reason}", quoted(key));
                Self::new(StatusCode::CONFLICT, "Conflict", detail)
            }
            StoreError::Invalid { key, reason } => {
                let reason = format!("{key}: {reason}");
                Self::invalid(title, vec![Violation::new("name", reason)])
            }
            StoreError::Unavailable(reason) => {
                tracing::error!(reason, "store unavailable; the request was refused");
                let detail = format!(
                    "The store cannot work now and acknowledged nothing; read what is there before you try \
                     again: {reason}"
                );
                Self::new(StatusCode::SERVICE_UNAVAILABLE, title, detail)
            }
        }
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// As a response.
    pub(super) fn into_axum(self) -> Response {
        let parameters = self.violations.iter();
        let body = ErrorBody {
            ty: "/std-errors",
            status: self.status.as_u16(),
            title: &self.title,
            detail: &self.detail,
            invalid_parameters: parameters
                .clone()
                .map(|v| Parameter { field: &v.field, reason: &v.reason })
                .collect(),
            details: &self.detail,
            causes: parameters.map(|v| Cause { field: &v.field, message: &v.reason }).collect(),
        };
        json::response(self.status, &body)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.into_axum()
    }
}

/// Kuma's way to name a resource in messages.
fn quoted(key: &Key) -> String {
    format!("type=\"{}\" name=\"{}\" mesh=\"{}\"", key.ty, key.name, key.mesh)
}

/// Rewrites an error that the router or a layer made in plain text.
pub(super) async fn always_json(response: Response) -> Response {
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    let content = response.headers().get(header::CONTENT_TYPE);
    if !failed || content.is_some_and(|kind| kind == json::CONTENT_TYPE) {
        return response;
    }
    let detail = match status {
        StatusCode::NOT_FOUND => "there is no such route; GET / tells what this server is",
        StatusCode::METHOD_NOT_ALLOWED => "this route does not take this method; see the Allow header",
        _ => "the request cannot be read",
    };
    let title = match status {
        StatusCode::NOT_FOUND => "Page Not Found",
        _ => status.canonical_reason().unwrap_or("Bad Request"),
    };
    let (mut parts, _plain) = response.into_parts();
    let (rewritten, body) = ApiError::new(status, title, detail).into_axum().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(rewritten.headers);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(json::CONTENT_TYPE));
    Response::from_parts(parts, Body::new(body))
}
