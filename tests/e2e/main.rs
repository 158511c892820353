//! The real binary, as separate processes on free ports of loopback.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod commands;
mod crash;
mod cut;
mod dev;
mod full_disk;
mod half_open;
mod identity;
mod parts;
mod proxy;
mod rejected;
mod sync;
mod world;
