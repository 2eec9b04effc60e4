//! What a channel is, and the table of all of them.
//!
//! To add a channel, write its module and its messages, and add its line to the table at the end of
//! this file. Everything else (numbers, dispatch, decoding, timers, raised grants, the report that
//! a peer does not share it) follows from the table and the trait.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::block::Blocks;
use crate::block::sync::Sync;
use crate::config::Config;
use crate::control::Control;
use crate::id::ConnectionId;
use crate::io::{Event, NotShared, Output};
use crate::link::{Instance, Links};
use crate::offer::Offers;
use crate::peers::Peers;
use crate::peers::book::Book;
use crate::peers::dialer::Dialer;
use crate::peers::exchange::Exchange;
use crate::permit::Terms;
use crate::pool::Pool;
use crate::pool::budget::Budget;
use crate::rpc::Rpc;
use crate::rules::Rules;
use crate::signal::Signals;
use crate::stats::{Count, Stats};
use crate::store::Store;
use crate::tickets::Tickets;
use crate::time::Time;
use crate::timers::Timers;
use crate::tip::Tip;
use crate::violation::Violation;
use crate::wire::{
    self, Decode, DecodeError, Encode, EncodeError, Frame, Grant, MAX_OFFERS, Offer,
};

/// A kind of channel. A connection has one instance of it, or several, each with a name and an
/// index, such as one for each pool.
///
/// A channel has no state of its own: it works on the parts in the [`Context`], which keep a
/// channel's state by connection.
pub(crate) trait Channel {
    /// Its name in logs and metrics.
    const NAME: &'static str;
    /// The number of its instance, if it is the same on every connection: then it is not
    /// negotiated.
    const FIXED: Option<u32>;
    /// Bytes of its largest frame.
    const MAX_FRAME: usize;
    /// Its messages.
    type Message: Encode + Decode;

    /// What this node offers of it, in the order of the instances' indices. A channel with a fixed
    /// number offers nothing.
    fn offers(config: &Config, rules: &dyn Rules) -> Vec<Offer>;

    /// Both ends have agreed on an instance.
    fn on_up(cx: &mut Context, at: Instance, terms: &Terms);

    /// The connection is gone.
    fn on_down(cx: &mut Context, at: Instance);

    /// Whether this node requested or awaited `message`: then its cost is not charged to the peer
    /// ([`crate::link::Links::worked`]). The body of a pool item is charged when its permit goes
    /// back, unless it was useful.
    fn was_asked(message: &Self::Message) -> bool;

    /// Handles a message of the peer. A violation ends the connection.
    fn on_message(cx: &mut Context, at: Instance, message: Self::Message) -> Result<(), Violation>;

    /// The next message to the peer, if one may leave now.
    fn poll_message(cx: &mut Context, at: Instance) -> Option<Self::Message>;

    /// When to poll for a message even if nothing happens before.
    fn deadline(cx: &Context, at: Instance) -> Option<Time>;

    /// Since when the peer has owed something on it: an answer, or the return of a permit. A peer
    /// that owes something and is silent times out. R5.5.4
    fn awaited_since(cx: &Context, at: Instance) -> Option<Time>;

    /// Whether this node owes the peer something on it: an answer, or the return of a permit. A
    /// connection that a better one replaces stays open until then.
    fn is_owed(cx: &Context, at: Instance) -> bool;

    /// The largest number of instances on one connection.
    fn instances(_: &Config) -> usize {
        1
    }

    /// When [`Channel::expire`] is due, for all connections together.
    fn due(cx: &Context, index: usize) -> Option<Time>;

    /// Handles what has timed out.
    fn expire(cx: &mut Context, index: usize);

    /// Raises the peer's grant; returns the new one if it is larger than before.
    fn raise(_: &mut Context, _: Instance, _: &Grant) -> Option<Grant> {
        None
    }

    /// The peer raised this node's grant.
    fn raised(_: &mut Context, _: Instance, _: &Grant) -> Result<(), Violation> {
        // R6.1.5
        Err(Violation::UnknownChannel)
    }
}

/// All parts of a node: what the channels work on.
pub(crate) struct Context {
    pub(crate) now: Time,
    pub(crate) config: Config,
    pub(crate) rules: Box<dyn Rules>,
    pub(crate) links: Links,
    pub(crate) control: Control,
    pub(crate) peers: Peers,
    pub(crate) dialer: Dialer,
    pub(crate) book: Book,
    pub(crate) exchange: Exchange,
    pub(crate) tip: Tip,
    pub(crate) blocks: Blocks,
    pub(crate) sync: Sync,
    pub(crate) rpc: Rpc,
    pub(crate) signals: Signals,
    pub(crate) offers: Offers,
    pub(crate) store: Store,
    pub(crate) pools: Vec<Pool>,
    pub(crate) tickets: Tickets,
    pub(crate) timers: Timers,
    /// What the driver must do, besides sending frames and asking for verdicts.
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) stats: Stats,
    /// Bytes requested that have no verdict yet, on all links and in all pools.
    pub(crate) fetches: Budget,
    /// Work of the current message that is charged later, once it is known whether it was useful.
    pub(crate) charged_later: u64,
}

impl Context {
    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// The steps that a link can be charged with before it rests.
    pub(crate) fn room(&self, connection: ConnectionId) -> u64 {
        self.links.room(connection, self.config.limits.work_per_second, self.now)
    }

    /// Charges a link with `steps` steps: for what it sent, requested or returned, or for permits
    /// that go back to it.
    pub(crate) fn caused(&mut self, connection: ConnectionId, steps: u64) {
        if steps > 0 {
            self.links.worked(connection, steps, self.config.limits.work_per_second, self.now);
        }
    }

    /// Charges a link with the work counted since `before`, for an unrequested message.
    pub(crate) fn charge(&mut self, connection: ConnectionId, before: u64) {
        let later = std::mem::take(&mut self.charged_later);
        self.caused(
            connection,
            1 + steps((self.stats.of(Count::Work) - before).saturating_sub(later)),
        );
    }
}

/// The steps charged for an amount of work: 16 look-ups make a step, since they are cheap.
pub(crate) fn steps(work: u64) -> u64 {
    work / 16
}

/// Generates the dispatch over all channels.
macro_rules! channels {
    ($($(#[$doc:meta])* $number:literal => $variant:ident($channel:ty, $message:ident)),+ $(,)?) => {
        /// A kind of channel (specification section 5.7).
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Kind { $($(#[$doc])* $variant),+ }

        /// A message of any channel.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        #[non_exhaustive]
        pub enum Message { $($(#[$doc])* $variant(wire::$message)),+ }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its number in offers.
            pub const fn number(self) -> u32 {
                match self { $(Self::$variant => $number),+ }
            }

            /// Its name in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => <$channel>::NAME),+ }
            }

            /// The name of its messages in the schema.
            pub const fn message(self) -> &'static str {
                match self { $(Self::$variant => stringify!($message)),+ }
            }

            /// The number of its instance, if it is the same on every connection; the others are
            /// negotiated and counted from [`FIRST_AGREED`].
            pub const fn fixed(self) -> Option<u32> {
                match self { $(Self::$variant => <$channel>::FIXED),+ }
            }

            /// Bytes of its largest frame.
            pub const fn max_frame(self) -> usize {
                match self { $(Self::$variant => <$channel>::MAX_FRAME),+ }
            }

            pub(crate) fn offers(self, config: &Config, rules: &dyn Rules) -> Vec<Offer> {
                match self { $(Self::$variant => <$channel>::offers(config, rules)),+ }
            }

            pub(crate) fn on_up(self, cx: &mut Context, at: Instance, terms: &Terms) {
                match self { $(Self::$variant => <$channel>::on_up(cx, at, terms)),+ }
            }

            pub(crate) fn on_down(self, cx: &mut Context, at: Instance) {
                match self { $(Self::$variant => <$channel>::on_down(cx, at)),+ }
            }

            /// Decodes a frame and passes it to the channel. Returns whether it was requested.
            pub(crate) fn on_frame(
                self,
                cx: &mut Context,
                at: Instance,
                frame: &Frame,
            ) -> Result<bool, Violation> {
                // R3.8
                if frame.len() > self.max_frame() {
                    return Err(Violation::FrameTooLarge);
                }
                match self { $(Self::$variant => {
                    // R3.7
                    let message = frame.decode().map_err(|_| Violation::Malformed)?;
                    let was_asked = <$channel>::was_asked(&message);
                    <$channel>::on_message(cx, at, message)?;
                    Ok(was_asked)
                }),+ }
            }

            /// Polls the channel for the next frame to the peer.
            pub(crate) fn poll_frame(
                self,
                cx: &mut Context,
                at: Instance,
            ) -> Option<Result<Frame, EncodeError>> {
                match self { $(Self::$variant => {
                    <$channel>::poll_message(cx, at).map(|message| message.to_frame())
                }),+ }
            }

            pub(crate) fn deadline(self, cx: &Context, at: Instance) -> Option<Time> {
                match self { $(Self::$variant => <$channel>::deadline(cx, at)),+ }
            }

            pub(crate) fn awaited_since(self, cx: &Context, at: Instance) -> Option<Time> {
                match self { $(Self::$variant => <$channel>::awaited_since(cx, at)),+ }
            }

            pub(crate) fn is_owed(self, cx: &Context, at: Instance) -> bool {
                match self { $(Self::$variant => <$channel>::is_owed(cx, at)),+ }
            }

            pub(crate) fn instances(self, config: &Config) -> usize {
                match self { $(Self::$variant => <$channel>::instances(config)),+ }
            }

            pub(crate) fn due(self, cx: &Context, index: usize) -> Option<Time> {
                match self { $(Self::$variant => <$channel>::due(cx, index)),+ }
            }

            pub(crate) fn expire(self, cx: &mut Context, index: usize) {
                match self { $(Self::$variant => <$channel>::expire(cx, index)),+ }
            }

            pub(crate) fn raise(
                self,
                cx: &mut Context,
                at: Instance,
                grant: &Grant,
            ) -> Option<Grant> {
                match self { $(Self::$variant => <$channel>::raise(cx, at, grant)),+ }
            }

            pub(crate) fn raised(
                self,
                cx: &mut Context,
                at: Instance,
                grant: &Grant,
            ) -> Result<(), Violation> {
                match self { $(Self::$variant => <$channel>::raised(cx, at, grant)),+ }
            }
        }

        impl Message {
            /// Decodes a frame of a channel of this kind.
            ///
            /// # Errors
            ///
            /// If the frame is not a message of such a channel.
            pub fn decode(kind: Kind, frame: &Frame) -> Result<Self, DecodeError> {
                match kind { $(Kind::$variant => frame.decode().map(Self::$variant)),+ }
            }

            /// Encodes it as a frame.
            ///
            /// # Errors
            ///
            /// If a part of it is larger than the schema allows.
            pub fn to_frame(&self) -> Result<Frame, EncodeError> {
                match self { $(Self::$variant(message) => message.to_frame()),+ }
            }
        }
    };
}

channels! {
    /// Hello, negotiation, pings and the end of a connection (section 5).
    0 => Control(crate::control::Channel, ControlMessage),
    /// The best header and the executed tip (section 8).
    1 => Tip(crate::tip::Channel, TipMessage),
    /// Requests and answers (section 16).
    2 => Rpc(crate::rpc::Channel, RpcMessage),
    /// Compact blocks (section 9).
    3 => Block(crate::block::Channel, BlockMessage),
    /// The items of one pool (section 7).
    4 => Pool(crate::pool::Channel, PoolMessage),
    /// Addresses of other nodes (section 15).
    5 => Peers(crate::peers::exchange::Channel, PeersMessage),
    /// Signals between transports, by way of a peer of both (section 18).
    6 => Signal(crate::signal::Channel, SignalMessage),
}

/// Number of the first negotiated instance; lower numbers are fixed.
pub const FIRST_AGREED: u32 = 16;

impl Kind {
    /// The kind with this number in offers.
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.number() == number)
    }

    /// Kinds with a fixed number, with that number.
    pub fn all_fixed() -> impl Iterator<Item = (u32, Self)> {
        Self::ALL.iter().filter_map(|kind| Some((kind.fixed()?, *kind)))
    }

    /// The largest number of instances on one connection.
    pub const fn most_instances() -> u32 {
        let (mut count, mut at) = (MAX_OFFERS as u32, 0);
        while at < Self::ALL.len() {
            count += Self::ALL[at].fixed().is_some() as u32;
            at += 1;
        }
        count
    }
}

/// An instance that both ends offer, and therefore number alike (specification section 5.7).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Agreed {
    /// Its number on their connection.
    pub number: u32,
    /// Its kind.
    pub kind: Kind,
    /// Its name, for instance that of the pool.
    pub name: String,
    /// The version that both speak, or why there is none: then the number stays unused.
    pub version: Result<u32, NotShared>,
}

/// The instances that result from two nodes' offers, in the order of their numbers.
pub fn agreed(own: &[Offer], other: &[Offer]) -> Vec<Agreed> {
    let mut number = FIRST_AGREED;
    let mut agreed = Vec::new();
    // R5.7.3
    for offer in own {
        let same = |theirs: &&Offer| theirs.kind == offer.kind && theirs.name == offer.name;
        // R5.1.7
        let (Some(kind), Some(theirs)) = (Kind::of(offer.kind), other.iter().find(same)) else {
            continue;
        };
        // R5.7.6
        let version = common_version(offer, theirs);
        agreed.push(Agreed { number, kind, name: offer.name.clone(), version });
        // A number is taken even if the two only agree on the name. R5.7.4
        number += 1;
    }
    agreed
}

/// The highest common version, if both have the same rules for it. R5.7.5
pub(crate) fn common_version(ours: &Offer, theirs: &Offer) -> Result<u32, NotShared> {
    let common = ours.versions.iter().rev().find_map(|version| {
        let same = theirs.versions.iter().find(|other| other.number == version.number)?;
        Some((version.number, version.rules == same.rules))
    });
    match common {
        Some((number, true)) => Ok(number),
        Some((_, false)) => Err(NotShared::OtherRules),
        None => Err(NotShared::NoCommonVersion),
    }
}

impl Config {
    /// The offers of a node with this configuration, ascending by kind and name.
    pub fn offers(&self, rules: &dyn Rules) -> Vec<Offer> {
        offers(self, rules).into_iter().map(|(_, offer)| offer).collect()
    }
}

/// The same, with the index of each instance.
pub(crate) fn offers(config: &Config, rules: &dyn Rules) -> Vec<(usize, Offer)> {
    let all = Kind::ALL.iter().flat_map(|kind| kind.offers(config, rules).into_iter().enumerate());
    let mut all = all.collect::<Vec<_>>();
    all.sort_by(|(_, a), (_, b)| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    all
}
