//! kdsync keeps the secrets of a service mesh the same in every zone: a global component streams them,
//! one way, over Kuma's KDS protocol; each zone applies what arrives and deletes what did not come from
//! global.
//!
//! The modules, from the inside out. `core` and `kds` are pure: no I/O, no clock, no randomness. The
//! others are drivers that turn I/O into their events and their effects into I/O. Who may import whom
//! is written in `ARCHITECTURE.md` and checked by `tests/tidy/`.

pub mod core;
pub mod kds;

pub mod supervisor;
pub mod telemetry;

pub mod store;

pub mod global;
pub mod zone;

pub mod api;

pub mod config;
pub mod tls;

pub mod app;
pub mod cli;
