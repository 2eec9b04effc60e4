//! A peer-to-peer network layer that cannot be flooded.
//!
//! **Nothing arrives unasked**: a peer may only send what the receiver's permits allow, and a
//! permit is given back when the message has been *processed*, not when it arrived. From that one
//! rule follow bounded memory, fairness between peers, and pools that converge without
//! rebroadcast.
//!
//! A node has *pools* of items (transactions, proofs, log entries) that all nodes of a network
//! share, and if it is given a genesis header also a *tip* and *blocks*, which are rebuilt from the
//! pools. What an item is, and whether it is good, the application says: [`rules::Rules`] are
//! pure facts, a [`Validator`] gives verdicts. The [`guide`] is a tour through all of it.
//!
//! Nodes run on tokio, on a runtime of one thread or of many:
//!
//! ```toml
//! [dependencies]
//! tidegate = { path = "…/crates/tidegate" }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! ```
//! use tidegate::id::{ItemKey, NetworkId, PoolIndex};
//! use tidegate::io::{Admission, Event};
//! use tidegate::rules::{ItemFacts, Rules};
//! use tidegate::transport::memory::MemoryNetwork;
//! use tidegate::{Builder, Identity, PoolSpec, accept_all};
//!
//! /// Notes: any text, the shorter the better.
//! struct Notes;
//!
//! impl Rules for Notes {
//!     fn id(&self) -> &str {
//!         "notes 1"
//!     }
//!     fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
//!         let key = ItemKey(self.item_id(pool, body).0);
//!         let priority = u64::MAX - body.len() as u64;
//!         std::str::from_utf8(body).ok().map(|_| ItemFacts { key, priority, chain: None })
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let network = MemoryNetwork::new();
//!     let start = |seed: u8, port: &str| {
//!         let network = network.clone();
//!         Builder::new(NetworkId([7; 32]), Notes, accept_all)
//!             .pool(PoolSpec::new("notes"))
//!             .transport(move |setup| Ok(network.transport(setup)))
//!             .identity(Identity::from_seed(&[seed; 32]))
//!             .listen(port.parse().expect("a multiaddr"))
//!             .start()
//!     };
//!     let (alice, _) = start(1, "/memory/1")?;
//!     let (bob, mut events) = start(2, "/memory/2")?;
//!     alice.dial(&bob.addresses()[0])?;
//!
//!     let notes = PoolIndex(0);
//!     let fate = alice.publish(notes, "high tide at nine", Admission::default())?.await?;
//!     println!("{fate:?}, and on its way");
//!     while let Some(event) = events.next().await {
//!         if let Event::ItemAdded { body, .. } = event {
//!             println!("bob has {body:?}");
//!             break;
//!         }
//!     }
//!     println!("{} peer", alice.status().await?.peers.len());
//!     alice.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! By default a node talks to the peers it is told of and to nobody else.
//!
//! # Features
//!
//! - `quic`: connections over QUIC ([`Builder::listen`] with addresses that end in `/quic-v1`).
//!   Without it a node has the transports it is given.
//! - `store`: what must survive a restart, in a file ([`Store`]). It needs `threads`.
//! - `threads`: validators on threads of their own. Without it they run in the node's task.
//! - `tcp`: connections over TCP with TLS (`transport::tcp`), for networks without UDP.
//! - `webrtc`: connections over WebRTC's data channels (`transport::webrtc`). The core does not carry offers yet, so
//!   an application has to.
//! - `tls`: [`transport::secure`], the identity on TLS. `quic` and `tcp` need it.
//! - `conformance`: the contract of transports as a suite of tests ([`transport::conformance`]).
//!
//! `quic`, `store`, `threads` and `tls` are on by default. With none of them the crate compiles for `wasm32-unknown-unknown`; what runs there is still to
//! come: a clock and timers of the browser, and a transport.
//!
//! # Versions
//!
//! Below 1.0 a minor version may break the interface, and a patch version does not; the wire
//! protocol has versions of its own, which peers agree on. Rust 1.95 is needed; that it rises is no
//! breaking change, and is in the changelog.
//!
//! # Not guaranteed
//!
//! Delivery to a peer that is not there, an order among items, or that an item is in every pool at one
//! moment: pools of nodes with the same tip *come* to be equal, by the application's ranking, within
//! their capacity. Anonymity: peers see addresses. That many identities cannot be made: what each may
//! cost is bounded, and so is their number.

#![warn(missing_docs)]

mod builder;
mod driver;
mod flush;
pub mod guide;
mod identity;
mod log;
mod node;
mod reach;
mod rt;
#[cfg(feature = "offers")]
mod seal;
#[cfg(feature = "store")]
pub mod store;
pub mod transport;
mod validator;

pub use builder::{Builder, StartError};
pub use identity::{Identity, IdentityError};
/// For [`Protocol`](multiaddr::Protocol), which transports look into addresses with.
pub use multiaddr;
pub use multiaddr::Multiaddr;
pub use node::{BlockAt, Events, Failure, Node, NodeError, PoolItem, Publishing};
#[cfg(feature = "store")]
pub use store::{Saved, Store, StoreError};
pub use tidegate_proto::{
    AddressSource, BannedPeer, Config, Kind, Limits, OwnAddress, PeerStatus, Permits, PoolSpec,
    PoolStatus, Scope, Status, Told, Violation, config, id, io, merkle, recording, rules, stats,
    wire,
};
pub use transport::Transport;
pub use validator::{Answer, Validator, accept_all};
