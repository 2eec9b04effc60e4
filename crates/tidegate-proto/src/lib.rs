//! The Tidegate protocol as a deterministic state machine.
//!
//! This crate opens no sockets, starts no threads, reads no clock and draws no random numbers of
//! its own. It takes what happened, with the time at which it happened, and says what to do.
//!
//! ```text
//! network  ── Input ──▶ ┌──────┐ ── Output::Frame, Dial, Close ──▶ network
//! application ─ Command ▶ │ Node │ ── Output::Verify, Event ───────▶ application
//! clock  ─ handle_timeout ▶ └──────┘ ── poll_timeout ───────────────▶ clock
//! ```
//!
//! A driver has a loop like this:
//!
//! ```
//! # use tidegate_proto::{Node, Time, io::{Input, Output}};
//! # fn send(_: Output) {}
//! # fn wait(_: Option<Time>) -> Option<(Time, Input)> { None }
//! fn drive(mut node: Node) {
//!     loop {
//!         while let Some(output) = node.poll_output() {
//!             send(output);
//!         }
//!         let deadline = node.poll_timeout().map(|(at, _reason)| at);
//!         match wait(deadline) {
//!             Some((now, input)) => node.handle_input(now, input),
//!             None => match deadline {
//!                 Some(at) => node.handle_timeout(at),
//!                 None => return,
//!             },
//!         }
//!     }
//! }
//! ```
//!
//! All of it is a function of the configuration, the seed, the [`rules::Rules`], and the inputs
//! and commands with their times: a run is a file, and runs again to the same end.
//!
//! # Not guaranteed
//!
//! The core does not check what only an application can know, and it does not defend against one that
//! answers wrongly: verdicts are believed. It is no consensus: pools come to be equal at equal tips, and
//! which tip is right the application's [`rules::Rules`] and verdicts say.

#![warn(missing_docs)]

mod block;
mod channel;
mod chunk;
pub mod config;
mod control;
mod events;
mod fetch;
pub mod id;
pub mod io;
mod link;
mod marker;
pub mod merkle;
mod node;
mod offer;
mod peers;
mod permit;
mod pool;
mod reasons;
pub mod recording;
pub mod rng;
mod route;
mod rpc;
pub mod rules;
mod signal;
pub mod stats;
mod store;
mod tickets;
mod time;
mod timers;
mod tip;
mod violation;
pub mod wire;

pub use channel::{Agreed, FIRST_AGREED, Kind, Message, agreed};
pub use config::{Config, Limits, PoolSpec};
pub use control::VERSION;
pub use control::reachable::{AddressSource, OwnAddress, Told};
pub use events::EventQueue;
pub use marker::{MaybeSend, MaybeSync};
pub use node::{Node, PeerStatus, Permits, PoolStatus, Status};
pub use peers::BannedPeer;
pub use peers::address::Scope;
pub use time::Time;
pub use violation::Violation;

#[cfg(test)]
mod tests;
