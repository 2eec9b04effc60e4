//! The tip: which block is best, and which tip each peer announces (specification section 8).
//!
//! ```text
//! A → B   Header      the best header whose verdict was accept; one permit
//! A → B   Held        the best block that was executed; one permit
//! B → A   Return      the next one may come
//! ```
//!
//! Both messages are made when the link can take them, so superseded tips are never sent.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::block;
use crate::channel::{Channel as ChannelTrait, Context};
use crate::config::Config;
use crate::id::{BlockId, ConnectionId};
use crate::link::Instance;
use crate::permit::Terms;
use crate::pool;
use crate::rules::{HeaderFacts, Rules};
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{Held, MAX_HEADER, Offer, TipMessage, TipSlot};

/// This node's tip, and what it has announced on each link.
#[derive(Debug, Default)]
pub(crate) struct Tip {
    held: Option<HeaderFacts>,
    /// The best accepted header; its block may still be missing.
    best: Option<(HeaderFacts, Bytes)>,
    links: BTreeMap<ConnectionId, TipLink>,
}

#[derive(Debug)]
struct TipLink {
    at: Instance,
    /// The last announcement, and whether its permit is back.
    header: Announced,
    held: Announced,
    /// The peer's last header and held tip, and when their permits go back.
    from_peer: [Incoming; 2],
}

#[derive(Debug, Default)]
struct Announced {
    last: Option<BlockId>,
    out: bool,
}

/// A permit that the peer spent.
#[derive(Debug, Default)]
struct Incoming {
    out: bool,
    /// The header, while it waits for its verdict; the peer may meanwhile send others that this
    /// node requested.
    header: Option<BlockId>,
    /// It has been processed: the permit goes back at that time.
    back_at: Option<Time>,
    /// When the permit last went back.
    last: Option<Time>,
}

impl Tip {
    pub(crate) fn new(genesis: Option<(HeaderFacts, Bytes)>) -> Self {
        let held = genesis.as_ref().map(|(facts, _)| *facts);
        Self { held, best: genesis, links: BTreeMap::new() }
    }

    /// The best executed block.
    pub(crate) fn held(&self) -> Option<&HeaderFacts> {
        self.held.as_ref()
    }

    /// The best block by its header.
    pub(crate) fn best(&self) -> Option<&HeaderFacts> {
        self.best.as_ref().map(|(facts, _)| facts)
    }
}

/// There is a better executed block.
pub(crate) fn set_held(cx: &mut Context, facts: HeaderFacts) {
    cx.tip.held = Some(facts);
    wake_all(cx);
}

/// There is a better header, or the best one turned out bad.
pub(crate) fn set_best(cx: &mut Context, facts: HeaderFacts, header: Bytes) {
    cx.tip.best = Some((facts, header));
    wake_all(cx);
}

fn wake_all(cx: &mut Context) {
    for side in cx.tip.links.values() {
        cx.links.wake(side.at.link, side.at.slot);
    }
}

/// The header that a peer announced waits for its verdict.
pub(crate) fn header_waits(cx: &mut Context, connection: ConnectionId, block: BlockId) {
    if let Some(side) = cx.tip.links.get_mut(&connection) {
        side.from_peer[TipSlot::Header as usize].header = Some(block);
    }
}

/// A header has its verdict, or needs none. If a peer announced it, the permit goes back. R8.4
pub(crate) fn header_done(cx: &mut Context, connection: ConnectionId, block: &BlockId) {
    let waits =
        cx.tip.links.get(&connection).and_then(|l| l.from_peer[TipSlot::Header as usize].header);
    if waits.is_none_or(|waits| waits == *block) {
        done(cx, connection, TipSlot::Header);
    }
}

fn done(cx: &mut Context, connection: ConnectionId, slot: TipSlot) {
    let (now, interval) = (cx.now, cx.config.limits.tip_interval);
    let Some(side) = cx.tip.links.get_mut(&connection) else { return };
    let incoming = &mut side.from_peer[slot as usize];
    if incoming.out && incoming.back_at.is_none() {
        incoming.back_at = Some(incoming.last.map_or(now, |last| now.max(last + interval)));
        cx.links.wake(side.at.link, side.at.slot);
    }
}

/// The tip channel.
pub(crate) struct Channel;

impl ChannelTrait for Channel {
    const NAME: &'static str = "tip";
    const FIXED: Option<u32> = Some(1);
    const MAX_FRAME: usize = MAX_HEADER + 8;
    type Message = TipMessage;

    fn offers(_: &Config, _: &dyn Rules) -> Vec<Offer> {
        // Its number is fixed.
        Vec::new()
    }

    fn on_up(cx: &mut Context, at: Instance, _: &Terms) {
        let side = TipLink {
            at,
            header: Announced::default(),
            held: Announced::default(),
            from_peer: Default::default(),
        };
        cx.tip.links.insert(at.link, side);
        cx.links.wake(at.link, at.slot);
    }

    fn on_down(cx: &mut Context, at: Instance) {
        cx.tip.links.remove(&at.link);
        block::announcer_down(cx, at.link);
    }

    fn was_asked(message: &TipMessage) -> bool {
        matches!(message, TipMessage::Return(_))
    }

    fn on_message(cx: &mut Context, at: Instance, message: TipMessage) -> Result<(), Violation> {
        let side = cx.tip.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
        match message {
            TipMessage::Header(header) => {
                spend(&mut side.from_peer[TipSlot::Header as usize])?;
                // R16.10
                if !block::has_channel(cx, at.link) {
                    done(cx, at.link, TipSlot::Header);
                    return Ok(());
                }
                block::header_announced(cx, at.link, header)
            }
            TipMessage::Held(held) => {
                spend(&mut side.from_peer[TipSlot::Held as usize])?;
                let link = cx.links.get_mut(at.link).ok_or(Violation::UnknownChannel)?;
                // Costs work, so only if it has changed.
                if link.held.as_ref() != Some(&held) {
                    link.held = Some(held.clone());
                    pool::peer_tip_changed(cx, at.link);
                    block::peer_holds(cx, at.link, &held);
                }
                done(cx, at.link, TipSlot::Held);
                Ok(())
            }
            TipMessage::Return(slot) => {
                let announced = match slot {
                    TipSlot::Header => &mut side.header,
                    TipSlot::Held => &mut side.held,
                };
                if !std::mem::take(&mut announced.out) {
                    // R8.3
                    return Err(Violation::FalseReturn);
                }
                cx.links.wake(at.link, at.slot);
                Ok(())
            }
        }
    }

    fn poll_message(cx: &mut Context, at: Instance) -> Option<TipMessage> {
        let side = cx.tip.links.get_mut(&at.link)?;
        for slot in [TipSlot::Header, TipSlot::Held] {
            let incoming = &mut side.from_peer[slot as usize];
            if incoming.back_at.is_some_and(|at| at <= cx.now) {
                *incoming = Incoming { last: Some(cx.now), ..Incoming::default() };
                return Some(TipMessage::Return(slot));
            }
        }
        if let Some((best, header)) = &cx.tip.best
            && !side.header.out
            && side.header.last != Some(best.block)
        {
            // R8.5
            side.header.last = Some(best.block);
            // R8.8
            if !block::announced_by(&cx.blocks, &best.block, at.link) {
                side.header.out = true;
                return Some(TipMessage::Header(header.clone()));
            }
        }
        if let Some(held) = cx.tip.held
            && !side.held.out
            && side.held.last != Some(held.block)
        {
            side.held = Announced { last: Some(held.block), out: true };
            return Some(TipMessage::Held(Held { block: held.block, height: held.height }));
        }
        None
    }

    fn deadline(cx: &Context, at: Instance) -> Option<Time> {
        let side = cx.tip.links.get(&at.link)?;
        side.from_peer.iter().filter_map(|incoming| incoming.back_at).min()
    }

    // R5.5.5
    fn awaited_since(_: &Context, _: Instance) -> Option<Time> {
        None
    }

    fn is_owed(_: &Context, _: Instance) -> bool {
        false
    }

    fn due(_: &Context, _: usize) -> Option<Time> {
        None
    }

    fn expire(_: &mut Context, _: usize) {}
}

fn spend(incoming: &mut Incoming) -> Result<(), Violation> {
    if std::mem::replace(&mut incoming.out, true) {
        // R8.2
        Err(Violation::TipPermit)
    } else {
        Ok(())
    }
}
