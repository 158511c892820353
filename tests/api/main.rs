//! The HTTP API over the embedded store, driven in process.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod batch;
mod golden;
mod items;
mod kdsync;
mod robust;
mod served;
mod support;
