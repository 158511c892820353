//! `GET /`: what clients look at before anything else.
//!
//! Decides: the index. `product` must be `Kuma`, or kumactl 2.14.3 refuses to add the control plane;
//! kumactl 2.2.9 looks at `tagline`. Never does: need the store.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use super::{ApiState, json};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    cluster_id: String,
    gui: &'a str,
    hostname: &'a str,
    instance_id: &'a str,
    product: &'a str,
    tagline: &'a str,
    version: &'a str,
}

/// The index.
pub(super) async fn index(State(state): State<Arc<ApiState>>) -> Response {
    let info = &state.info;
    json::ok(&Index {
        cluster_id: state.store.identity().id.to_string(),
        gui: "",
        hostname: &info.hostname,
        instance_id: &info.instance_id,
        product: "Kuma",
        tagline: "Kuma",
        version: &info.version,
    })
}
