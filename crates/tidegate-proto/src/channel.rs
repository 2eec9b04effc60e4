//! What a channel is, and the table of all of them.
//!
//! To add a channel, write its module and add its line to the table at the end of this file.

use std::collections::VecDeque;

use crate::block::Blocks;
use crate::block::sync::Sync;
use crate::config::Config;
use crate::control::Control;
use crate::id::ConnectionId;
use crate::io::{Event, Output};
use crate::link::{At, Links};
use crate::peers::Peers;
use crate::peers::book::Book;
use crate::peers::dialer::Dialer;
use crate::peers::exchange::Exchange;
use crate::permit::Terms;
use crate::pool::Pool;
use crate::pool::budget::Budget;
use crate::rpc::Rpc;
use crate::rules::Rules;
use crate::stats::{Count, Stats};
use crate::store::Store;
use crate::tickets::Tickets;
use crate::time::Time;
use crate::timers::Timers;
use crate::tip::Tip;
use crate::violation::Violation;
use crate::wire::{Decode, Encode, EncodeError, Frame, Offer};

/// A kind of channel. It has one instance for each connection, or one for each pool.
///
/// A channel has no state of its own: it works on the parts that the [`Context`] holds, where
/// what belongs to one link is kept by link.
pub(crate) trait Channel {
    /// Its name in logs and metrics.
    const NAME: &'static str;
    /// Bytes of its largest frame.
    const MAX_FRAME: usize;
    /// Its messages.
    type Message: Encode + Decode;

    /// What this node offers of it. The channels with fixed numbers are not negotiated.
    fn offers(config: &Config, rules: &dyn Rules) -> Vec<Offer>;

    /// Both ends have agreed on it.
    fn on_up(cx: &mut Context, at: At, terms: &Terms);

    /// The connection is gone.
    fn on_down(cx: &mut Context, at: At);

    /// Whether this node has asked for `message`, or has waited for it: what it costs is then not the
    /// peer's doing, nor held against it ([`crate::link::Links::worked`]). A body of a pool is charged
    /// when its permit goes back, unless it was of use.
    fn was_asked(message: &Self::Message) -> bool;

    /// The peer sent `message`. A violation ends the connection.
    fn on_message(cx: &mut Context, at: At, message: Self::Message) -> Result<(), Violation>;

    /// The next message for the peer, if one may be sent now.
    fn poll_message(cx: &mut Context, at: At) -> Option<Self::Message>;

    /// When to ask for a message even if nothing happens before.
    fn deadline(cx: &Context, at: At) -> Option<Time>;

    /// Since when the peer has owed something on it, an answer or the return of a permit: a peer that owes
    /// and is silent is taken for dead. R5.5.4
    fn awaited_since(cx: &Context, at: At) -> Option<Time>;
}

/// All parts of a node: whom a channel works with.
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
    pub(crate) store: Store,
    pub(crate) pools: Vec<Pool>,
    pub(crate) tickets: Tickets,
    pub(crate) timers: Timers,
    /// What the driver must do, besides sending frames and asking for verdicts.
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) stats: Stats,
    /// Bytes that were asked for and have no verdict yet, on all links and pools.
    pub(crate) fetches: Budget,
    /// Work of what is being dealt with that is charged when it shows whether it was of use.
    pub(crate) charged_later: u64,
}

impl Context {
    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// The steps that a link may be charged with now.
    pub(crate) fn room(&self, link: ConnectionId) -> u64 {
        self.links.room(link, self.config.limits.work_per_second, self.now)
    }

    /// A link has caused so many steps: by what it sent, asked for or gave back, or by permits that go
    /// back to it.
    pub(crate) fn caused(&mut self, link: ConnectionId, steps: u64) {
        if steps > 0 {
            self.links.worked(link, steps, self.config.limits.work_per_second, self.now);
        }
    }

    /// What was done since so much work had been counted was caused by a link, unasked.
    pub(crate) fn charge(&mut self, link: ConnectionId, before: u64) {
        let later = std::mem::take(&mut self.charged_later);
        self.caused(link, 1 + steps((self.stats.of(Count::Work) - before).saturating_sub(later)));
    }
}

/// Steps that a link is charged with for so much work: looks at what peers pile up are short.
pub(crate) fn steps(work: u64) -> u64 {
    work / 16
}

/// Writes the dispatch over all channels.
macro_rules! channels {
    ($($number:literal => $variant:ident($channel:ty)),+ $(,)?) => {
        /// The kinds of channel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kind { $($variant),+ }

        impl Kind {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its number in offers.
            pub(crate) fn number(self) -> u32 {
                match self { $(Self::$variant => $number),+ }
            }

            /// The kind of this number.
            pub(crate) fn of(number: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.number() == number)
            }

            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => <$channel>::NAME),+ }
            }

            pub(crate) fn offers(self, config: &Config, rules: &dyn Rules) -> Vec<Offer> {
                match self { $(Self::$variant => <$channel>::offers(config, rules)),+ }
            }

            pub(crate) fn on_up(self, cx: &mut Context, at: At, terms: &Terms) {
                match self { $(Self::$variant => <$channel>::on_up(cx, at, terms)),+ }
            }

            pub(crate) fn on_down(self, cx: &mut Context, at: At) {
                match self { $(Self::$variant => <$channel>::on_down(cx, at)),+ }
            }

            /// A frame came: decodes it and hands it to the channel. Whether it had been asked for.
            pub(crate) fn on_frame(self, cx: &mut Context, at: At, frame: &Frame) -> Result<bool, Violation> {
                match self { $(Self::$variant => {
                    // R3.8
                    if frame.len() > <$channel>::MAX_FRAME {
                        return Err(Violation::FrameTooLarge);
                    }
                    // R3.7
                    let message = frame.decode().map_err(|_| Violation::Malformed)?;
                    let was_asked = <$channel>::was_asked(&message);
                    <$channel>::on_message(cx, at, message)?;
                    Ok(was_asked)
                }),+ }
            }

            /// The next frame for the peer.
            pub(crate) fn poll_frame(self, cx: &mut Context, at: At) -> Option<Result<Frame, EncodeError>> {
                match self { $(Self::$variant => {
                    <$channel>::poll_message(cx, at).map(|message| message.to_frame())
                }),+ }
            }

            pub(crate) fn deadline(self, cx: &Context, at: At) -> Option<Time> {
                match self { $(Self::$variant => <$channel>::deadline(cx, at)),+ }
            }

            pub(crate) fn awaited_since(self, cx: &Context, at: At) -> Option<Time> {
                match self { $(Self::$variant => <$channel>::awaited_since(cx, at)),+ }
            }
        }
    };
}

channels! {
    0 => Control(crate::control::Channel),
    1 => Tip(crate::tip::Channel),
    2 => Rpc(crate::rpc::Channel),
    3 => Block(crate::block::Channel),
    4 => Pool(crate::pool::Channel),
    5 => Peers(crate::peers::exchange::Channel),
}
