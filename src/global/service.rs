//! The gRPC calls of a zone, by path.
//!
//! Decides: which call is which, and what is refused before a stream opens. Never does: wait for a
//! request before it answers with headers; some clients wait for them.

use std::sync::Arc;

use http::{HeaderValue, Request, Response};
use http_body::Body;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codec::BufferSettings;
use tonic::{Status, Streaming};
use tonic_prost::ProstDecoder;

use super::body::GrpcBody;
use super::caller::{Caller, Nobody, encoding};
use super::stream::Call;
use super::{Shared, compat, link, stream};
use crate::kds::{FEATURE, wire};

/// Bytes that are set aside for the requests of one stream. Larger messages take more while they last.
const BUFFER: usize = 1024;

/// The connection that a call came over.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Where the peer connects from.
    pub(super) address: String,
    /// Cancelled at shutdown.
    pub(super) cancel: CancellationToken,
    /// Runs the streams.
    pub(super) tasks: TaskTracker,
}

/// Answers one call.
pub(super) async fn call<B>(shared: Arc<Shared>, on: Connection, request: Request<B>) -> Response<GrpcBody>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    if !request.headers().get(http::header::CONTENT_TYPE).is_some_and(is_grpc) {
        let mut response = Response::new(GrpcBody::default());
        *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    match request.uri().path() {
        "/kuma.mesh.v1alpha1.KDSSyncService/GlobalToZoneSync" => sync(shared, on, request),
        "/kuma.mesh.v1alpha1.KDSSyncService/ZoneToGlobalSync" => {
            held(Caller::read(request.headers(), on.address), on.cancel, Status::unknown)
        }
        "/kuma.mesh.v1alpha1.GlobalKDSService/StreamXDSConfigs"
        | "/kuma.mesh.v1alpha1.GlobalKDSService/StreamStats"
        | "/kuma.mesh.v1alpha1.GlobalKDSService/StreamClusters" => {
            held(Caller::read(request.headers(), on.address), on.cancel, Status::invalid_argument)
        }
        "/kuma.mesh.v1alpha1.GlobalKDSService/HealthCheck" => {
            compat::health_check(&shared, on, request).await
        }
        "/kuma.mesh.v1alpha1.MultiplexService/StreamMessage" => {
            compat::multiplex(&shared, &on, request.headers())
        }
        "/kdsync.v1.ZoneLink/Link" => zone_link(shared, on, request),
        _ => Status::unimplemented("no such method").into_http(),
    }
}

fn sync<B>(shared: Arc<Shared>, on: Connection, request: Request<B>) -> Response<GrpcBody>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    let caller = match Caller::read(request.headers(), on.address.clone()) {
        Ok(caller) => caller,
        Err(nobody) => return refused(&nobody, Status::unknown),
    };
    let inbound = match requests(&shared, request) {
        Ok(inbound) => inbound,
        Err(status) => return status.into_http(),
    };
    let (outbound, body) = GrpcBody::channel();
    let takes_gzip = caller.takes_gzip;
    let call = Call { caller, inbound, outbound, cancel: on.cancel };
    on.tasks.spawn(stream::run(shared, call));
    let mut response = opened(body);
    if takes_gzip {
        response.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    response
}

fn zone_link<B>(shared: Arc<Shared>, on: Connection, request: Request<B>) -> Response<GrpcBody>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    let caller = match Caller::read(request.headers(), on.address.clone()) {
        Ok(caller) => caller,
        Err(nobody) => return refused(&nobody, Status::invalid_argument),
    };
    let inbound = match requests(&shared, request) {
        Ok(inbound) => inbound,
        Err(status) => return status.into_http(),
    };
    let (outbound, body) = GrpcBody::channel();
    on.tasks.spawn(link::run(shared, caller, inbound, outbound, on.cancel));
    opened(body)
}

/// The messages of a call. Compressed ones are read from whoever says that it compresses.
pub(super) fn requests<B, M>(shared: &Shared, request: Request<B>) -> Result<Streaming<M>, Status>
where
    M: wire::Message + Default + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    let encoding = encoding(request.headers())?;
    let decoder = ProstDecoder::new(BufferSettings::new(BUFFER, BUFFER));
    let largest = Some(shared.config.max_message);
    Ok(Streaming::new_request(decoder, request.into_body(), encoding, largest))
}

/// A stream that exists because zones insist on it; it says nothing.
fn held(
    caller: Result<Caller, Nobody>,
    cancel: CancellationToken,
    missing: fn(String) -> Status,
) -> Response<GrpcBody> {
    match caller {
        Ok(_) => opened(GrpcBody::held(cancel)),
        Err(nobody) => refused(&nobody, missing),
    }
}

/// Kuma answers a missing `client-id` differently on different calls; a wrong one is always our word.
pub(super) fn refused(nobody: &Nobody, missing: fn(String) -> Status) -> Response<GrpcBody> {
    let text = nobody.to_string();
    match nobody {
        Nobody::Missing => missing(text).into_http(),
        Nobody::Invalid(_) => Status::invalid_argument(text).into_http(),
    }
}

/// The headers of an answer. They announce kdsync; stock peers ignore that.
pub(super) fn opened(body: GrpcBody) -> Response<GrpcBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("gzip,identity"));
    headers.insert("features", HeaderValue::from_static(FEATURE));
    response
}
