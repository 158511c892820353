//! Paging and filters of lists, as Kuma 2.14.3 `pkg/api-server/resource_endpoints.go` has them.
//!
//! Decides: what `size`, `offset`, `name` and `filter[labels.x]` mean and when they are refused.
//! Never does: look at rows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::request::Parts;
use http::{Uri, header};

use super::ApiError;
use super::body::shorten;
use crate::core::ResourceType;
use crate::core::validate::Violation;
use crate::store::Query;

const TITLE: &str = "Could not retrieve resources";
const DEFAULT_SIZE: usize = 100;
const MAX_SIZE: usize = 1000;

/// What a list request asks for.
pub(super) struct Page {
    pairs: Vec<(String, String)>,
    size: usize,
    offset: usize,
}

impl Page {
    /// Reads the query of a URL.
    pub(super) fn read(uri: &Uri) -> Result<Self, ApiError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| ApiError::new(http::StatusCode::BAD_REQUEST, TITLE, "the query cannot be read"))?
            .0;
        let first = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
        };
        let size = first("size").map_or(Ok(DEFAULT_SIZE), size)?;
        let offset = first("offset").map_or(Ok(0), offset)?;
        Ok(Self { pairs, size, offset })
    }

    /// The query of the store.
    pub(super) fn query(&self, ty: ResourceType, mesh: Option<String>) -> Result<Query, ApiError> {
        let mut query = Query { mesh, offset: self.offset, limit: self.size, ..Query::all(ty) };
        for (key, value) in &self.pairs {
            if key == "name" && !value.is_empty() {
                query.name_contains = Some(value.clone());
            } else if let Some(filter) = key.strip_prefix("filter[") {
                let label = filter.strip_suffix(']').and_then(|filter| filter.strip_prefix("labels."));
                let Some(label) = label.filter(|label| !label.is_empty()) else {
                    let reason = "only filter[labels.<key>]=<value> is known";
                    let found = Violation::new(shorten(key), reason);
                    return Err(ApiError::bad(TITLE, "Invalid filter", vec![found]));
                };
                query.labels.push((label.to_owned(), value.clone()));
            }
        }
        Ok(query)
    }

    /// The address of the next page, if there is one.
    pub(super) fn next(&self, request: &Parts, total: usize) -> Option<String> {
        let next = self.offset.saturating_add(self.size);
        if next >= total {
            return None;
        }
        let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| request.uri.authority().map(http::uri::Authority::as_str));
        let mut pairs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (key, value) in &self.pairs {
            pairs.entry(key).or_default().push(value);
        }
        let offset = next.to_string();
        pairs.insert("offset", vec![&offset]);
        let pairs = pairs.into_iter().flat_map(|(key, values)| values.into_iter().map(move |v| (key, v)));
        let query: Vec<_> = pairs.map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
        let path = request.uri.path();
        Some(format!("http://{}{path}?{}", host.unwrap_or("localhost"), query.join("&")))
    }
}

fn size(text: &str) -> Result<usize, ApiError> {
    let refuse =
        |reason: String| Err(ApiError::bad(TITLE, "Invalid page size", vec![Violation::new("size", reason)]));
    match text.parse::<i64>() {
        Err(_) => refuse("invalid format".to_owned()),
        Ok(size) if size <= 0 => refuse("must be greater than 0".to_owned()),
        Ok(size) => match usize::try_from(size) {
            Ok(size) if size <= MAX_SIZE => Ok(size),
            _ => refuse(format!("invalid page size of {size}. Maximum page size is {MAX_SIZE}")),
        },
    }
}

fn offset(text: &str) -> Result<usize, ApiError> {
    use std::num::IntErrorKind;
    // In the words of Go's `strconv`, which Kuma passes on.
    let reason = match text.parse::<i64>() {
        Ok(offset) => match usize::try_from(offset) {
            Ok(offset) => return Ok(offset),
            Err(_) => "must not be negative",
        },
        Err(error) if matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow) => {
            "value out of range"
        }
        Err(_) => "invalid syntax",
    };
    let text = shorten(text);
    let detail = format!("invalid: invalid offset: strconv.Atoi: parsing \"{text}\": {reason}");
    Err(ApiError::new(http::StatusCode::BAD_REQUEST, TITLE, detail))
}

/// Percent-encodes a part of a query.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
