//! gRPC bodies made of shared frames.
//!
//! Decides: how a stream of ready frames and its final status become an HTTP body, and which frames are
//! worth compressing. Never does: encode a message, or copy a frame for a zone. A stream whose task
//! died still ends with a status, never with OK.

use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status};
use zeroize::Zeroizing;

/// The prefix of a gRPC frame: a flag and the length.
const PREFIX: usize = 5;
/// Smaller messages are not worth compressing, in bytes.
const SMALLEST: usize = 512;
/// How much of a message is tried, in bytes.
const SAMPLE: usize = 4096;

/// The body of an answer.
#[derive(Debug, Default)]
pub(super) enum GrpcBody {
    /// Nothing more; of an answer whose status is in its headers, nothing at all.
    #[default]
    Ended,
    /// Frames, then a status.
    Open {
        /// What is to be sent.
        frames: mpsc::Receiver<Bytes>,
        /// Set before the channel closes.
        end: Arc<OnceLock<Status>>,
    },
    /// Silence until shutdown.
    Held(Pin<Box<WaitForCancellationFutureOwned>>),
}

/// The sending half of a [`GrpcBody`]. Dropped without a status, the body ends with UNAVAILABLE.
#[derive(Debug)]
pub(super) struct Outbound {
    /// Room for one frame: what is not yet taken by the connection can still be replaced.
    pub(super) frames: mpsc::Sender<Bytes>,
    end: Arc<OnceLock<Status>>,
}

impl GrpcBody {
    /// A body and the half that feeds it.
    pub(super) fn channel() -> (Outbound, Self) {
        let (sender, frames) = mpsc::channel(1);
        let end = Arc::<OnceLock<Status>>::default();
        (Outbound { frames: sender, end: end.clone() }, Self::Open { frames, end })
    }

    /// A body that says nothing and ends with UNAVAILABLE when `cancel` is cancelled. It needs no task.
    pub(super) fn held(cancel: CancellationToken) -> Self {
        Self::Held(Box::pin(cancel.cancelled_owned()))
    }

    /// A body of one frame.
    pub(super) fn unary(frame: Bytes) -> Self {
        let (outbound, body) = Self::channel();
        // There is room for one.
        let _ = outbound.frames.try_send(frame);
        outbound.finish(Status::new(Code::Ok, ""));
        body
    }
}

impl Outbound {
    /// Ends the body with `status`, after what was sent.
    pub(super) fn finish(self, status: Status) {
        // Set once: `self` is consumed.
        let _ = self.end.set(status);
    }
}

impl Body for GrpcBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let status = match &mut *self {
            Self::Ended => return Poll::Ready(None),
            Self::Open { frames, end } => {
                if let Some(frame) = std::task::ready!(frames.poll_recv(cx)) {
                    return Poll::Ready(Some(Ok(Frame::data(frame))));
                }
                end.get().cloned().unwrap_or_else(|| Status::unavailable("the stream was dropped"))
            }
            Self::Held(cancelled) => {
                std::task::ready!(cancelled.as_mut().poll(cx));
                shutting_down()
            }
        };
        *self = Self::Ended;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// What every stream ends with when the process ends.
pub(super) fn shutting_down() -> Status {
    Status::unavailable("global is shutting down")
}

fn trailers(status: &Status) -> HeaderMap {
    let mut map = HeaderMap::new();
    if status.add_header(&mut map).is_err() {
        // The message has no form as a header: the code alone has to do.
        let _ = Status::new(status.code(), "").add_header(&mut map);
    }
    map
}

/// The frame, compressed, if that makes it at most three quarters as long; a sample is tried first.
///
/// Random values shrink by a sixth, all of it from the names and labels around them. For that every zone
/// would have to unpack every byte, which takes it longer than receiving it. Values that are text (PEM,
/// JSON, base64) shrink by a third and more.
pub(super) fn gzip(frame: &Bytes) -> Option<Bytes> {
    let message = frame.get(PREFIX..).filter(|message| message.len() >= SMALLEST)?;
    // From the middle: what repeats in every message (labels, type names) is everywhere.
    let from = (message.len() / 2).saturating_sub(SAMPLE / 2);
    let sample = message.get(from..message.len().min(from + SAMPLE))?;
    if !shrinks(deflate(sample, Vec::new())?.len(), sample.len()) {
        return None;
    }
    let mut compressed = deflate(message, vec![1, 0, 0, 0, 0])?;
    let length = u32::try_from(compressed.len() - PREFIX).ok()?;
    compressed.get_mut(1..PREFIX)?.copy_from_slice(&length.to_be_bytes());
    shrinks(compressed.len(), frame.len()).then(|| Bytes::from_owner(compressed))
}

/// True if it is worth unpacking.
const fn shrinks(compressed: usize, plain: usize) -> bool {
    compressed.saturating_mul(4) <= plain.saturating_mul(3)
}

/// Compressed bytes tell the message: they are wiped like it.
fn deflate(message: &[u8], into: Vec<u8>) -> Option<Zeroizing<Vec<u8>>> {
    let mut encoder = GzEncoder::new(into, Compression::fast());
    encoder.write_all(message).ok()?;
    encoder.finish().ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http_body_util::BodyExt as _;

    use super::*;

    fn frame(message: &[u8]) -> Bytes {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        frame.into()
    }

    #[test]
    fn only_what_shrinks_is_compressed() {
        let text = b"the same words again and again ".repeat(300);
        let compressed = gzip(&frame(&text)).unwrap();
        assert!(compressed.len() * 10 < text.len());
        assert_eq!(compressed[0], 1);
        let length = u32::from_be_bytes(compressed[1..5].try_into().unwrap());
        assert_eq!(length as usize, compressed.len() - 5);
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&compressed[5..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, text);

        let mut random = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..20_000).map(|_| random.u8(..)).collect();
        assert!(gzip(&frame(&noise)).is_none());
        assert!(gzip(&frame(&text[..100])).is_none());
        // Looks well in the sample, which is from the middle, and is noise otherwise.
        let around = [&noise[..10_000], &text[..4_500], &noise[10_000..]].concat();
        assert!(gzip(&frame(&around)).is_none());
        assert!(gzip(&Bytes::from_static(b"\0\0")).is_none());
    }

    #[test]
    fn random_secrets_go_as_they_are_and_text_does_not() {
        use crate::core::{Key, Labels, SecretData, Version};
        use crate::kds::wire::encode_resource;
        let mut random = fastrand::Rng::with_seed(1);
        let mut page = |value: &dyn Fn(Vec<u8>) -> Vec<u8>| {
            let secret = |n: usize| {
                let noise: Vec<u8> = (0..1_024).map(|_| random.u8(..)).collect();
                let key = Key::secret("default", &format!("secret-{n:05}"));
                let version = Version(std::array::from_fn(|_| random.u8(..)));
                encode_resource(&key, &Labels::new(), &SecretData::new(value(noise)), &version)
            };
            frame(&(0..100).map(secret).collect::<Vec<_>>().concat())
        };
        assert!(gzip(&page(&|noise| noise)).is_none());
        // As much as base64 has in a byte.
        let text = |noise: Vec<u8>| noise.iter().map(|byte| b'0' + (byte & 63)).collect();
        assert!(gzip(&page(&text)).is_some());
    }

    #[tokio::test]
    async fn a_body_ends_with_its_status_or_with_unavailable() {
        let (outbound, body) = GrpcBody::channel();
        outbound.frames.send(frame(b"x")).await.unwrap();
        outbound.finish(Status::aborted("another instance"));
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "10");

        let (outbound, body) = GrpcBody::channel();
        drop(outbound);
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "14");
    }
}
