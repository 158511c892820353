//! The zone component against a scripted global over real gRPC.

mod guard;
mod kuma_global;
mod linked;
mod local;
mod rig;
mod rough;
mod scripted;
mod tls;
