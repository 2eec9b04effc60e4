//! A guided tour, from two nodes to one that survives.
//!
//! Every piece of code in here is compiled and run by the tests.
//!
//! # 1. Two nodes and a pool
//!
//! A node belongs to a *network*, which is 32 bytes that all its nodes share: the hash of a genesis,
//! or of a name. It has *pools* of items. [`Plain`] rules take any bytes for an item, and
//! [`accept_all`] finds every item good.
//!
//! ```
//! # #[cfg(feature = "quic")]
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tidegate::id::{NetworkId, PoolIndex};
//! use tidegate::io::{Admission, Event, Fate};
//! use tidegate::rules::Plain;
//! use tidegate::{Builder, PoolSpec, accept_all};
//!
//! let node = || {
//!     Builder::new(NetworkId::named("guide"), Plain::new("guide 1"), accept_all)
//!         .pool(PoolSpec::new("words"))
//!         .listen("/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("a multiaddr"))
//! };
//! let (ann, _) = node().start()?;
//! // An address that ends in /p2p/… names who is expected there.
//! let (ben, mut events) = node().peer(&ann.addresses()[0]).start()?;
//!
//! let words = PoolIndex(0);
//! let fate = ann.publish(words, "tide", Admission::default())?.await?;
//! assert_eq!(fate, Fate::Accepted);
//! while let Some(event) = events.next().await {
//!     if matches!(event, Event::ItemAdded { .. }) {
//!         break;
//!     }
//! }
//! assert_eq!(&ben.pool(words, 10).await?[0].body[..], b"tide");
//! ben.shutdown().await;
//! ann.shutdown().await;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "quic"))]
//! # fn main() {}
//! ```
//!
//! # 2. Rules and verdicts
//!
//! What the network layer must know of an item is a pure function of its bytes:
//! [`Rules::item`](crate::rules::Rules::item) gives its key (two items with one key are rivals), its
//! priority (a full pool keeps the highest), and its place in a chain of its author, if it has one.
//!
//! Whether an item is *good* may need state, signatures, time: that is for the [`Validator`]. It
//! answers *accept*, *reject* (proof of misbehaviour: the sender is banned) or *ignore* (of no use
//! now). It may take its time; the peer's permit is out for as long. So a flood is impossible: what
//! waits for verdicts is bounded by the permits that were given, whoever sends.
//!
//! A verdict must be a function of the item and of the tip, never of what else has arrived:
//! otherwise pools of different nodes do not come to be equal.
//!
//! # 3. Permits and limits
//!
//! [`PoolSpec::grant`] is what each peer may have outstanding on a pool: announcements, bodies, their
//! bytes, requests. [`Limits`] has all other bounds, each with its reason.
//! [`Config::worst_case_bytes`] adds them up: what a node can cost, whatever its peers do.
//!
//! ```
//! use tidegate::id::{NetworkId, PeerId};
//! use tidegate::{Config, PoolSpec};
//!
//! let mut config = Config::new(PeerId([0; 32]), NetworkId::named("guide"));
//! config.pools.push(PoolSpec::new("words"));
//! let usual = config.worst_case_bytes();
//! config.limits.max_inbound = 8;
//! assert!(config.worst_case_bytes() < usual);
//! ```
//!
//! # 4. What becomes of what is published
//!
//! [`Node::publish`] returns at once, and its future tells the
//! [`Fate`](crate::io::Fate): accepted (and durable, if there is a store), known before, no room (with
//! the priority that it must exceed), or invalid (with the reason). Nothing is dropped without
//! a word. That others have it is another question: [`Node::holders`] says who does, and
//! [`Node::flush`] waits for them, before a program ends for example.
//!
//! # 5. Blocks
//!
//! With [`Builder::genesis`] a node has a tip and blocks. A block is published as a header and the
//! items it refers to; peers rebuild it from their own pools and fetch what they lack. The validator
//! is asked about the header, then about the whole block, and says with
//! [`Answer::accept_block`](crate::Answer::accept_block) how the tip and the pools move
//! ([`TipChange`](crate::io::TipChange)). Nodes that are far behind catch up by headers and bodies
//! from several peers, by themselves.
//!
//! # 6. To survive
//!
//! With a [`Store`](crate::Store), given to [`Builder::store`], blocks, the application's own state,
//! published items and the address book are there after a restart, and what was reported is durable
//! before it is reported. One process has a store at a time; when
//! [`Node::shutdown`] is done, the next may open it.
//!
//! # 7. Who is there
//!
//! - [`Builder::peer`]: stay connected to this one.
//! - [`Builder::bootstrap`]: learn of others there.
//! - [`Builder::outbound`]: how many to be connected to by own choice; 0 for a closed network.
//! - [`Builder::allow`]: talk to these only.
//! - [`Builder::external`]: an address at which others reach this node.
//!
//! Nobody else is contacted: there are no servers of ours, no name lookups but of `/dns` addresses
//! that were given.
//!
//! # 8. When something is wrong
//!
//! | error | whose fault | what to do |
//! | --- | --- | --- |
//! | [`StartError::Config`] | the program's | change the setting it names |
//! | [`StartError::Identity`], [`StartError::Listen`] | the operator's | it names the file or the address |
//! | `StartError::Store` | the operator's, or the disk's | it says: another folder, a newer version, a copy |
//! | [`StartError::System`] | the machine's | threads, randomness: nothing works without |
//! | [`NodeError::Closed`] | nobody's | the node was shut down, its store failed or its core panicked (`Node::failure`) |
//! | [`NodeError::Busy`] | the program's | wait for fates before publishing more |
//! | [`Fate::Invalid`](crate::io::Fate::Invalid) | the program's | it says what is wrong with the item |
//! | [`Event::Refused`](crate::io::Event::Refused) | the other's, or the operator's | it names the reason, for instance another network |
//! | [`Disconnect::Violation`](crate::io::Disconnect::Violation) | the peer's | it is banned for a while; nothing to do |
//!
//! # 9. Tests without a network
//!
//! The protocol is a deterministic state machine (the crate `tidegate-proto`), and `tidegate-sim` runs
//! networks of it in virtual time, from a seed. [`Builder::record`] writes a real run to a file that
//! replays to the same end. For tests in one process there is
//! [`MemoryNetwork`](crate::transport::memory::MemoryNetwork).
//!
//! [`Plain`]: crate::rules::Plain

#[cfg(doc)]
use crate::{
    Builder, Config, Limits, Node, NodeError, PoolSpec, StartError, Validator, accept_all,
};
