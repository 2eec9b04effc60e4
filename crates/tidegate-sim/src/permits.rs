//! Counts permits from outside: by the frames that nodes receive and send.
//!
//! The node's own ledger is not asked. A frame without its permit, or an invalid one, must end the
//! connection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegate_proto::id::ConnectionId;
use tidegate_proto::wire::{
    BlockMessage, Body, Compact, ControlMessage, Frame, Grant, PeersMessage, PoolMessage, Return,
    RpcBlock, RpcFailed, RpcHeaders, RpcMessage, SignalMessage, TipMessage, TipSlot,
};
use tidegate_proto::{Config, Kind, Message, Time};

use crate::channels::{kind_of, name_of};
use crate::checkers::Broken;

/// Open requests that a peer may have (specification section 16).
const RPC_REQUESTS: usize = 4;
/// How long a node may take to end a connection: its last message may have to wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// Outstanding permits of peers at the nodes.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    /// By connection, and by the node that issued them.
    links: BTreeMap<(ConnectionId, usize), Link>,
}

#[derive(Debug, Default)]
struct Link {
    channels: BTreeMap<u32, Outstanding>,
    /// Headers and held tips.
    tips: [bool; 2],
    /// Whether the peer has an open question about others, and whether this node has.
    asked: [bool; 2],
    /// The same for dialing back.
    reach: [bool; 2],
    /// Open requests of the peer, and of this node.
    requests: [BTreeSet<u32>; 2],
    signals: Signals,
    /// Why the connection must end, and since when.
    guilty: Option<(Time, &'static str)>,
}

#[derive(Debug, Default)]
struct Outstanding {
    next: u32,
    /// Announcements (`None`), and bodies with their sizes.
    out: BTreeMap<u32, Option<u64>>,
}

impl Outstanding {
    fn spend(&mut self, body: Option<u64>) {
        self.out.insert(self.next, body);
        self.next += 1;
    }

    fn give_back(&mut self, returns: &[Return]) {
        for back in returns {
            self.out.remove(&back.number);
        }
    }

    fn exceeds(&self, grant: &Grant) -> bool {
        let bodies = self.out.values().flatten();
        let announcements = self.out.len() - bodies.clone().count();
        announcements > grant.announcements as usize
            || bodies.clone().count() > grant.bodies as usize
            || bodies.sum::<u64>() > u64::from(grant.body_bytes)
    }
}

impl Permits {
    /// A node receives a frame on a channel that it reads.
    pub(crate) fn arrived(
        &mut self,
        at: (ConnectionId, usize),
        (channel, frame): (u32, &Frame),
        config: &Config,
        now: Time,
    ) {
        let link = self.links.entry(at).or_default();
        let Some(kind) = kind_of(channel) else {
            return link.accuse("a frame on a channel that is not open", now);
        };
        let wrong = match kind {
            Kind::Tip => link.tip(frame),
            Kind::Block => {
                let out = link.channels.entry(channel).or_default();
                match frame.decode() {
                    Ok(BlockMessage::Push(compact)) => out.spend(Some(size(&compact))),
                    Ok(_) => {}
                    Err(_) => return link.accuse("no message", now),
                }
                out.exceeds(&config.limits.block_grant).then_some("a block without a permit")
            }
            Kind::Peers => link.peers(frame),
            Kind::Rpc => link.rpc(frame),
            Kind::Pool => {
                let out = link.channels.entry(channel).or_default();
                match frame.decode() {
                    Ok(PoolMessage::Announce(list)) => list.iter().for_each(|_| out.spend(None)),
                    Ok(PoolMessage::Push(Body::Whole(body))) => out.spend(Some(body.len() as u64)),
                    Ok(PoolMessage::Push(Body::Chunked(start))) => {
                        out.spend(Some(start.size.into()));
                    }
                    Ok(_) => {}
                    Err(_) => return link.accuse("no message", now),
                }
                let pool = config.pools.iter().find(|pool| pool.name == name_of(channel));
                let grant = pool.map(|pool| &pool.grant);
                grant.is_some_and(|grant| out.exceeds(grant)).then_some("an item without a permit")
            }
            Kind::Signal => link.signals.arrived(frame, config),
            kind => Message::decode(kind, frame).err().map(|_| "no message"),
        };
        if let Some(wrong) = wrong {
            link.accuse(wrong, now);
        }
    }

    /// A node sends a frame.
    pub(crate) fn left(&mut self, at: (ConnectionId, usize), channel: u32, frame: &Frame) {
        let Some(link) = self.links.get_mut(&at) else { return };
        let Some(kind) = kind_of(channel) else { return };
        match kind {
            Kind::Control => {
                if let Ok(ControlMessage::Goodbye(_) | ControlMessage::Refuse(_)) = frame.decode() {
                    self.ended(at);
                }
            }
            Kind::Tip => {
                if let Ok(TipMessage::Return(slot)) = frame.decode() {
                    link.tips[slot as usize] = false;
                }
            }
            Kind::Block => {
                if let Ok(BlockMessage::Return(returns)) = frame.decode() {
                    link.channels.entry(channel).or_default().give_back(&returns);
                }
            }
            Kind::Rpc => match frame.decode() {
                Ok(RpcMessage::Request(request)) => {
                    link.requests[1].insert(request.id);
                }
                // The last chunk of a block looks like any other: it counts as answered early.
                Ok(
                    RpcMessage::Headers(RpcHeaders { id, .. })
                    | RpcMessage::Block(RpcBlock { id, .. })
                    | RpcMessage::Failed(RpcFailed { id, .. }),
                ) => {
                    link.requests[0].remove(&id);
                }
                Ok(RpcMessage::Cancel(_) | RpcMessage::Chunk(_)) | Err(_) => {}
            },
            Kind::Signal => link.signals.left(frame),
            Kind::Peers => match frame.decode() {
                Ok(PeersMessage::Records(_)) => link.asked[0] = false,
                Ok(PeersMessage::Ask) => link.asked[1] = true,
                Ok(PeersMessage::Reached(_)) => link.reach[0] = false,
                Ok(PeersMessage::Reach(_)) => link.reach[1] = true,
                Ok(PeersMessage::Moved(_)) | Err(_) => {}
            },
            Kind::Pool => {
                if let Ok(PoolMessage::Return(returns)) = frame.decode() {
                    link.channels.entry(channel).or_default().give_back(&returns);
                }
            }
            _ => {}
        }
    }

    /// A node has ended a connection.
    pub(crate) fn ended(&mut self, at: (ConnectionId, usize)) {
        self.links.remove(&at);
    }

    /// Checks that all connections that must end have ended in time.
    pub(crate) fn check(&self, now: Time) -> Result<(), Broken> {
        for ((_, node), link) in &self.links {
            if let Some((since, what)) = link.guilty
                && now.since(since) > PATIENCE
            {
                return Err(Broken::new(format!("node {node} got {what} and goes on")));
            }
        }
        Ok(())
    }
}

impl Link {
    fn accuse(&mut self, what: &'static str, now: Time) {
        self.guilty.get_or_insert((now, what));
    }

    fn rpc(&mut self, frame: &Frame) -> Option<&'static str> {
        let right = match frame.decode() {
            Ok(RpcMessage::Request(request)) => {
                self.requests[0].insert(request.id);
                self.requests[0].len() <= RPC_REQUESTS
            }
            Ok(RpcMessage::Headers(RpcHeaders { id, .. })) => self.requests[1].remove(&id),
            Ok(RpcMessage::Failed(RpcFailed { id, .. })) => self.requests[1].remove(&id),
            Ok(RpcMessage::Block(RpcBlock { id, .. })) => self.requests[1].contains(&id),
            Ok(RpcMessage::Cancel(_) | RpcMessage::Chunk(_)) => true,
            Err(_) => return Some("no message"),
        };
        (!right).then_some("a request without a permit, or an answer without a request")
    }

    fn peers(&mut self, frame: &Frame) -> Option<&'static str> {
        let right = match frame.decode() {
            Ok(PeersMessage::Ask) => !std::mem::replace(&mut self.asked[0], true),
            Ok(PeersMessage::Records(_)) => std::mem::take(&mut self.asked[1]),
            Ok(PeersMessage::Reach(_)) => !std::mem::replace(&mut self.reach[0], true),
            Ok(PeersMessage::Reached(_)) => std::mem::take(&mut self.reach[1]),
            // Their rate can only be seen by the receiver.
            Ok(PeersMessage::Moved(_)) => true,
            Err(_) => return Some("no message"),
        };
        (!right).then_some("a question without a permit, or an answer without a question")
    }

    fn tip(&mut self, frame: &Frame) -> Option<&'static str> {
        let slot = match frame.decode() {
            Ok(TipMessage::Header(_)) => TipSlot::Header,
            Ok(TipMessage::Held(_)) => TipSlot::Held,
            Ok(TipMessage::Return(_)) => return None,
            Err(_) => return Some("no message"),
        };
        let out = std::mem::replace(&mut self.tips[slot as usize], true);
        out.then_some("a tip without a permit")
    }
}

/// Signals without an answer (specification section 18).
#[derive(Debug, Default)]
struct Signals {
    /// Of the peer and of this node: signals to be carried, and carried ones.
    out: [[BTreeSet<u32>; 2]; 2],
    next: [[u32; 2]; 2],
    /// Whether a question for a choice is out, of the peer and of this node.
    asks: [bool; 2],
}

impl Signals {
    fn number(&mut self, end: usize, carried: bool) {
        let next = &mut self.next[end][usize::from(carried)];
        self.out[end][usize::from(carried)].insert(*next);
        *next += 1;
    }

    fn arrived(&mut self, frame: &Frame, config: &Config) -> Option<&'static str> {
        let taken = if config.sealing.is_some() { config.limits.signals_taken } else { 0 };
        let right = match frame.decode() {
            Ok(SignalMessage::Carry(_)) => {
                self.number(0, false);
                self.out[0][0].len() <= config.limits.signals_carried as usize
            }
            Ok(SignalMessage::Deliver(_)) => {
                self.number(0, true);
                self.out[0][1].len() <= taken as usize
            }
            Ok(SignalMessage::Carried(settled)) => self.out[1][0].remove(&settled.number),
            Ok(SignalMessage::Delivered(settled)) => self.out[1][1].remove(&settled.number),
            Ok(SignalMessage::Ask(_)) => !std::mem::replace(&mut self.asks[0], true),
            Ok(SignalMessage::Choice(_)) => std::mem::take(&mut self.asks[1]),
            Err(_) => return Some("no message"),
        };
        (!right).then_some("a signal without a permit, or an answer without a signal")
    }

    fn left(&mut self, frame: &Frame) {
        match frame.decode() {
            Ok(SignalMessage::Carry(_)) => self.number(1, false),
            Ok(SignalMessage::Deliver(_)) => self.number(1, true),
            Ok(SignalMessage::Carried(settled)) => drop(self.out[0][0].remove(&settled.number)),
            Ok(SignalMessage::Delivered(settled)) => drop(self.out[0][1].remove(&settled.number)),
            Ok(SignalMessage::Ask(_)) => self.asks[1] = true,
            Ok(SignalMessage::Choice(_)) => self.asks[0] = false,
            Err(_) => {}
        }
    }
}

/// What a compact block takes of the byte permits (specification section 9).
fn size(compact: &Compact) -> u64 {
    let prefilled: usize = compact.prefilled.iter().map(|item| item.body.len()).sum();
    (compact.header.len() + compact.short_ids.len() + prefilled) as u64
}

#[cfg(test)]
mod tests {
    use tidegate_proto::id::{NetworkId, PeerId};
    use tidegate_proto::wire::{Announcement, Encode as _, Goodbye, Report};

    use super::*;

    const AT: (ConnectionId, usize) = (ConnectionId(1), 0);

    #[test]
    fn one_message_over_the_grant_must_end_the_connection() {
        let mut config = Config::new(PeerId([0; 32]), NetworkId([0; 32]));
        config.pools = tidegate_ledger::pools();
        let one = Announcement { id: 1, facts: 0 };
        let most = config.pools[0].grant.announcements as usize;
        let announce = |count| PoolMessage::Announce(vec![one.clone(); count]).to_frame().unwrap();
        let mut permits = Permits::default();
        permits.arrived(AT, (17, &announce(most)), &config, Time::ZERO);
        let later = Time::ZERO + PATIENCE * 2;
        assert_eq!(permits.check(later), Ok(()));
        let back = Return { number: 7, report: Report::First };
        permits.left(AT, 17, &PoolMessage::Return(vec![back]).to_frame().unwrap());
        permits.arrived(AT, (17, &announce(1)), &config, Time::ZERO);
        assert_eq!(permits.check(later), Ok(()));
        permits.arrived(AT, (17, &announce(1)), &config, Time::ZERO);
        assert_eq!(permits.check(Time::ZERO), Ok(()));
        let broken = permits.check(later).unwrap_err().to_string();
        assert_eq!(broken, "node 0 got an item without a permit and goes on");
        permits.left(AT, 0, &ControlMessage::Goodbye(Goodbye::Violation(5)).to_frame().unwrap());
        assert_eq!(permits.check(later), Ok(()));
    }
}
