//! What stock zones call beside the sync.
//!
//! Decides: the answer to a health check, and what an old zone is told that speaks the old protocol.
//! Never does: look at what they send.

use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body::Body;
use tonic::Status;

use super::Shared;
use super::body::GrpcBody;
use super::caller::Caller;
use super::service::{Connection, opened, refused, requests};
use crate::kds::wire;
use crate::kds::wire::pb::google::protobuf::Duration as WireDuration;
use crate::kds::wire::pb::kuma::mesh::v1alpha1::{ZoneHealthCheckRequest, ZoneHealthCheckResponse};
use crate::telemetry::clock;

/// How long the one message of a health check may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// `HealthCheck`: the interval at which the zone should call again.
pub(super) async fn health_check<B>(
    shared: &Shared,
    on: Connection,
    request: Request<B>,
) -> Response<GrpcBody>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    if let Err(nobody) = Caller::read(request.headers(), on.address) {
        return refused(&nobody, Status::invalid_argument);
    }
    let mut inbound = match requests::<_, ZoneHealthCheckRequest>(shared, request) {
        Ok(inbound) => inbound,
        Err(status) => return status.into_http(),
    };
    let message = tokio::select! {
        () = on.cancel.cancelled() => return super::body::shutting_down().into_http(),
        message = tokio::time::timeout(PATIENCE, inbound.message()) => message,
    };
    match message {
        Ok(Ok(Some(_))) => {}
        Ok(Ok(None)) => return Status::invalid_argument("no message").into_http(),
        Ok(Err(status)) => return status.into_http(),
        Err(_) => return Status::deadline_exceeded("no message came").into_http(),
    }
    let every = shared.config.health_interval;
    let seconds = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
    let interval = Some(WireDuration { seconds, nanos: every.subsec_nanos().cast_signed() });
    opened(GrpcBody::unary(wire::frame(&ZoneHealthCheckResponse { interval })))
}

/// `MultiplexService/StreamMessage`: only zones of 2.4 and older call it, and only without delta KDS.
pub(super) fn multiplex(shared: &Shared, on: &Connection, headers: &HeaderMap) -> Response<GrpcBody> {
    const SWITCH: &str = "KUMA_EXPERIMENTAL_KDS_DELTA_ENABLED=true";
    let zone = Caller::read(headers, on.address.clone()).map(|caller| caller.zone).unwrap_or_default();
    let allowed = shared.throttle.lock().allow(clock::now());
    if let Some(held_back) = allowed {
        let address = &on.address;
        tracing::warn!(%zone, address, switch = SWITCH, held_back, "zone speaks the old KDS; set the switch there");
        shared.happened("old-protocol", &zone, format!("the zone speaks the old KDS: set {SWITCH} there"));
    }
    Status::unimplemented(format!("only delta KDS is served here: set {SWITCH} in the zone")).into_http()
}
