//! The global component over real gRPC: stock zones, kdsync zones and peers that break every rule.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod kdsync_zone;
mod kuma_zone;
mod limits;
mod link;
mod peer;
mod rig;
mod rivals;
mod rough;
