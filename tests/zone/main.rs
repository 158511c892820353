//! The zone component against a scripted global over real gRPC.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod clocks;
mod guard;
mod hint;
mod kuma_global;
mod linked;
mod local;
mod rig;
mod rough;
mod scripted;
mod tls;
