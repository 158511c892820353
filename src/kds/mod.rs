//! The protocol: delta xDS as Kuma's KDS speaks it, and what two kdsync ends add to it.
//!
//! Decides: what is sent when, what an answer means, when a stream is complete. Never does: I/O, read
//! a clock, log. Sessions take events (`on_*`) and yield output (`poll_*`); the drivers in `global/`
//! and `zone/` do the rest.
//!
//! # The rules
//!
//! - **KDS-1 complete before sweep.** Completeness belongs to a stream: set when the first answer of a
//!   type (all pages) has been applied, cleared when a stream opens. Nothing is swept without it.
//! - **KDS-2 fail static.** Losing the stream, or global, deletes and hides nothing.
//! - **KDS-3 ACK after commit.** A version enters the view and is ACKed only after the store committed
//!   it durably.
//! - **KDS-4 the opening request is the baseline.** A zone states what it holds: to a kdsync global the
//!   position it reached, to a stock global the versions in its ledger. The view of the server becomes
//!   exactly that. Stock zones state nothing and get everything.
//! - **KDS-5 one response in flight** per type and stream; stale nonces are counted and ignored; an ACK
//!   never carries an empty nonce. A nonce is unique on its stream and equal for all zones in the same
//!   position, so that their bytes are shared.
//! - **KDS-6 NACK.** From a kdsync zone it lists names: each is parked until its version changes or the
//!   zone asks again. From a stock zone everything in the response, upserts and removals, becomes
//!   unknown: what changed since is sent, and the unknown set at most once per hold, which grows to ten
//!   minutes. Never a loop.
//! - **KDS-7 a named subscribe means "I hold something else".** It is answered with the resource, or
//!   with its removal. Stock globals stay silent on it: against them the stream is reopened, at most
//!   once a minute.
//! - **KDS-8 the first request of a type is answered whole, even when empty, or not at all.** Until a
//!   stock zone has ACKed one answer of a type on a stream, every answer of that type is the whole set
//!   in one message. Between kdsync ends answers are paged from one immutable snapshot.
//! - **KDS-9 a rejected name stays in the view as unknown:** never swept, asked for again.
//! - **KDS-10 identity.** A zone goes on from a global only if that global's history contains exactly
//!   the zone's position. Anything else is another history: take nothing, keep serving, alarm.
//! - **Never** answer a type that we do not own in full: an empty first answer makes a stock zone delete
//!   all of its Meshes and sixteen other types.

pub mod client;
pub mod knobs;
pub mod message;
pub mod plan;
pub mod server;
pub mod snapshot;
pub mod wire;

#[cfg(test)]
#[path = "../../tests/simulation/mod.rs"]
mod simulation;

/// What kdsync ends announce in the `features` metadata; stock peers ignore it.
pub const FEATURE: &str = "kdsync-1";
