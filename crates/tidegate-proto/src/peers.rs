//! All peers: who may connect, which of two connections stays, who is refused for how long
//! (specification section 5).

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use self::address::{Group, group, site_bytes};

use crate::channel::Context;
use crate::config::Config;
use crate::control;
use crate::id::{Address, ConnectionId, DialId, PeerId};
use crate::io::{Direction, Output};
use crate::link::{self, Link};
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::Refusal;

pub(crate) mod address;
pub(crate) mod book;
pub(crate) mod dial_back;
pub(crate) mod dialer;
pub(crate) mod exchange;
pub(crate) mod record;

/// How long a peer that came at a busy moment should wait, in milliseconds: longer than most
/// hellos take.
const RETRY_MS: u32 = 1000;

/// What somebody is told who comes at a busy moment.
pub(crate) fn busy() -> Refusal {
    Refusal::Busy(RETRY_MS)
}

/// Sites that are remembered because work of theirs is left: more than can come and go while it is, which
/// is a second at most.
pub(crate) const UNPAID: usize = 256;
/// Sites of one network group that have left work, from which on all of the group wait: one who has many
/// addresses has them there.
const UNPAID_OF_GROUP: usize = 4;

/// Connections of one identity at a time: the one that is there, and one that may replace it.
const OF_ONE: usize = 2;

/// What is remembered of peers beyond their connections.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    bans: BTreeMap<PeerId, Ban>,
    dials: BTreeMap<DialId, Dialing>,
    /// When each dial is given up, whoever wanted it.
    due: BTreeMap<DialId, Time>,
    next_dial: u64,
    /// Sites whose peers left while there was work of theirs, and until when it would be done.
    unpaid: BTreeMap<(Group, Vec<u8>), Time>,
    /// Peers that were told to be connected, and not yet to be disconnected: each is told in turns.
    pub(crate) told: BTreeSet<PeerId>,
    /// How often somebody was banned.
    pub(crate) banned_so_far: u64,
    pub(crate) shutting_down: bool,
}

/// A peer that broke the rules.
#[derive(Clone, Copy, Debug)]
struct Ban {
    until: Time,
    /// What it did last; not known any more after a restart.
    violation: Option<Violation>,
}

/// A peer that is refused because it broke the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BannedPeer {
    /// Who.
    pub peer: String,
    /// For how much longer.
    pub left: Duration,
    /// What it did last; `None` if that was before a restart.
    pub violation: Option<Violation>,
}

/// A dial that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Dialing {
    pub(crate) address: Address,
    pub(crate) peer: Option<PeerId>,
}

impl Peers {
    /// What was remembered before.
    pub(crate) fn new(config: &Config, now: Time) -> Self {
        let bans = config.peer_book.bans.iter().take(config.limits.bans as usize);
        let bans =
            bans.map(|(peer, left)| (*peer, Ban { until: now + *left, violation: None })).collect();
        Self { bans, ..Self::default() }
    }

    /// The number of a dial that is given up at that time.
    fn dial_id(&mut self, due: Time) -> DialId {
        let dial = DialId(self.next_dial);
        self.next_dial += 1;
        self.due.insert(dial, due);
        dial
    }

    /// When the first dial is given up.
    pub(crate) fn dial_deadline(&self) -> Option<Time> {
        self.due.values().min().copied()
    }

    /// A dial that has taken too long.
    pub(crate) fn overdue(&self, now: Time) -> Option<DialId> {
        self.due.iter().find(|(_, due)| **due <= now).map(|(dial, _)| *dial)
    }

    /// A dial has come to its end, whoever wanted it.
    pub(crate) fn settled(&mut self, dial: DialId) {
        self.due.remove(&dial);
    }

    /// Dials that are under way.
    pub(crate) fn dialing(&self) -> usize {
        self.dials.len()
    }

    /// A dial has come to its end.
    pub(crate) fn dialed(&mut self, dial: DialId) -> Option<Dialing> {
        self.dials.remove(&dial)
    }

    /// Remembers a violation. Among too many the one whose time is up first is forgotten.
    pub(crate) fn ban(&mut self, peer: PeerId, violation: Violation, now: Time, limit: u32) {
        self.banned_so_far += 1;
        let until = now + violation.penalty();
        let ban = self.bans.entry(peer).or_insert(Ban { until, violation: None });
        ban.until = ban.until.max(until);
        ban.violation = Some(violation);
        self.bans.retain(|_, ban| ban.until > now);
        while self.bans.len() > limit as usize {
            let first = self.bans.iter().min_by_key(|(peer, ban)| (ban.until, **peer));
            let Some(first) = first.map(|(peer, _)| *peer) else { break };
            self.bans.remove(&first);
        }
    }

    /// Until when a peer is refused.
    pub(crate) fn banned(&self, peer: &PeerId, now: Time) -> Option<Time> {
        self.bans.get(peer).map(|ban| ban.until).filter(|until| *until > now)
    }

    /// Whether a peer may be connected to.
    pub(crate) fn may_meet(&self, config: &Config, peer: &PeerId, now: Time) -> bool {
        let allowed = config.allow.as_ref().is_none_or(|allowed| allowed.contains(peer));
        allowed && self.banned(peer, now).is_none()
    }

    /// Who is refused, and for how much longer.
    pub(crate) fn saved(&self, now: Time) -> Vec<(PeerId, Duration)> {
        let bans = self.bans.iter().filter(|(_, ban)| ban.until > now);
        bans.map(|(peer, ban)| (*peer, ban.until.since(now))).collect()
    }

    /// Who is refused, for how much longer, and for what.
    pub(crate) fn banned_peers(&self, now: Time) -> Vec<BannedPeer> {
        let bans = self.bans.iter().filter(|(_, ban)| ban.until > now);
        let banned = |(peer, ban): (&PeerId, &Ban)| BannedPeer {
            peer: peer.to_string(),
            left: ban.until.since(now),
            violation: ban.violation,
        };
        bans.map(banned).collect()
    }

    /// How many peers are refused.
    pub(crate) fn bans(&self) -> usize {
        self.bans.len()
    }
}

/// A connection ends. Whoever comes from there before the work is done that it left goes on from there, or
/// waits if that is too much: new permits for each connection would be more than its share.
pub(crate) fn leaves(cx: &mut Context, link: ConnectionId) {
    let Some(link) = cx.links.get(link).filter(|link| link.direction.is_inbound()) else { return };
    let Some(until) = link.works_until(cx.now) else { return };
    let (now, unpaid) = (cx.now, &mut cx.peers.unpaid);
    unpaid.retain(|_, until| *until > now);
    let known = unpaid.entry((group(&link.address), site_bytes(&link.address))).or_insert(until);
    *known = until.max(*known);
    if unpaid.len() > UNPAID
        && let Some(first) = unpaid.iter().min_by_key(|(_, until)| **until)
    {
        let first = first.0.clone();
        unpaid.remove(&first);
    }
}

/// Whether whoever comes from an address waits until work is done that was left.
fn has_left_work(cx: &Context, address: &Address) -> bool {
    let (group, site) = (group(address), site_bytes(address));
    let of_group = cx.peers.unpaid.range((group.clone(), Vec::new())..);
    let of_group = of_group.take_while(|((of, _), _)| *of == group);
    let much = of_group.filter(|(_, until)| link::is_much(**until, cx.now));
    let mut owing = much.map(|((_, site), _)| site);
    owing.clone().count() >= UNPAID_OF_GROUP || owing.any(|owes| *owes == site)
}

/// Until when the work would be done that was left by those who came from an address. A new connection
/// from there goes on from then.
pub(crate) fn left_work(cx: &Context, address: &Address) -> Option<Time> {
    cx.peers.unpaid.get(&(group(address), site_bytes(address))).copied()
}

/// Why the peer of a connection is not wanted, if it is not.
pub(crate) fn admit(cx: &Context, link: ConnectionId) -> Result<(), Refusal> {
    let Some(connection) = cx.links.get(link) else { return Ok(()) };
    let peer = connection.peer;
    // R5.2.2
    if peer == cx.config.peer {
        return Err(Refusal::SelfDial);
    }
    if cx.peers.shutting_down {
        return Err(Refusal::ShuttingDown);
    }
    if let Some(until) = cx.peers.banned(&peer, cx.now) {
        // R5.2.3
        let remaining = until.since(cx.now).as_secs().max(1);
        return Err(Refusal::Banned(u32::try_from(remaining).unwrap_or(u32::MAX)));
    }
    if !cx.peers.may_meet(&cx.config, &peer, cx.now) {
        return Err(Refusal::NotAllowed);
    }
    if connection.direction.is_inbound() {
        // R5.3.7
        if has_left_work(cx, &connection.address) {
            return Err(busy());
        }
        if let Some(until) = cx.dialer.sent_away(&peer, cx.now) {
            let wait = until.since(cx.now).as_millis().max(1);
            return Err(Refusal::Busy(u32::try_from(wait).unwrap_or(u32::MAX)));
        }
        // One whose place it takes makes room for it.
        let stays = |other: &Link| other.peer != peer || other.path >= connection.path;
        let inbound = cx.links.iter().filter(|(id, other)| {
            let counts = *id != link && other.direction.is_inbound() && stays(other);
            counts && control::is_admitted(cx, *id)
        });
        if inbound.count() >= cx.config.limits.max_inbound as usize {
            return Err(Refusal::Full(Vec::new()));
        }
    }
    Ok(())
}

/// Dials an address that is one of those that this node, or its application, chose.
pub(crate) fn dial(cx: &mut Context, address: Address, peer: Option<PeerId>) -> DialId {
    let dial = begin_dial(cx, address.clone(), peer, false);
    cx.peers.dials.insert(dial, Dialing { address, peer });
    dial
}

fn begin_dial(cx: &mut Context, address: Address, peer: Option<PeerId>, fresh: bool) -> DialId {
    let limits = &cx.config.limits;
    let patience =
        if address::is_slow(&address) { limits.dial_timeout_slow } else { limits.dial_timeout };
    let dial = cx.peers.dial_id(cx.now + patience);
    cx.outputs.push_back(Output::Dial { dial, address, peer, patience, fresh });
    dial
}

/// Whether one more may be dialed.
pub(crate) fn may_dial(cx: &Context) -> bool {
    let dialed = cx.links.iter().filter(|(_, link)| !link.direction.is_inbound()).count();
    dialed + cx.peers.dialing() < cx.config.limits.max_outbound as usize
}

/// Whether there is room for one more hello, and which other has to make it. There always is room for
/// those whom this node dialed: strangers must not keep it from finding others.
pub(crate) fn has_room_for_hello(
    cx: &Context,
    link: ConnectionId,
) -> Result<Option<ConnectionId>, Refusal> {
    let this = cx.links.get(link).filter(|link| link.direction.is_inbound());
    let Some(this) = this else { return Ok(None) };
    let same = cx.links.iter().filter(|(id, other)| *id != link && other.peer == this.peer);
    // One may be dead without this node's knowing, and another waits for that to be seen. R5.3.6
    if same.filter(|(id, _)| !control::is_over(cx, *id)).count() >= OF_ONE {
        return Err(Refusal::Duplicate);
    }
    let pending = || {
        let waits = |(id, link): &(ConnectionId, &Link)| {
            link.direction.is_inbound() && !link.up && !control::is_over(cx, *id)
        };
        cx.links.iter().filter(waits)
    };
    // R5.3.7
    if has_left_work(cx, &this.address) {
        return Err(busy());
    }
    if pending().count() <= cx.config.limits.handshakes as usize {
        return Ok(None);
    }
    // The group with the most hellos makes room, so that one cannot keep all others out.
    let mut groups = BTreeMap::<Group, (usize, ConnectionId)>::new();
    for (id, other) in pending().filter(|(id, _)| *id != link) {
        groups.entry(group(&other.address)).or_insert((0, id)).0 += 1;
    }
    let own = groups.get(&group(&this.address)).map_or(0, |(count, _)| *count);
    let most = groups.into_values().max_by_key(|(count, oldest)| (*count, Reverse(*oldest)));
    match most.filter(|(count, _)| *count > own + 1) {
        Some((_, oldest)) => Ok(Some(oldest)),
        None => Err(busy()),
    }
}

/// What to do about a second connection to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duplicate {
    /// It has the better path, or both dialed at once and this one stays: the other ends when this one is up
    /// and nothing is owed on the other.
    Replaces(ConnectionId),
    /// The other one has the better path, or both dialed at once and the other one stays.
    Yields(ConnectionId),
    /// The older one is pinged: it stays if it answers.
    Pings(ConnectionId),
}

/// What another connection to the same peer means for `link`, whose peer's process has this
/// `instance` number.
pub(crate) fn duplicate(cx: &Context, link: ConnectionId, instance: u64) -> Option<Duplicate> {
    let this = cx.links.get(link)?;
    let others = cx.links.iter().filter(|(id, other)| {
        let admitted = *id != link && other.peer == this.peer && control::is_admitted(cx, *id);
        // One that is on its way out, since another has taken its place, decides nothing.
        admitted && !cx.control.is_replaced(*id)
    });
    let (older, other) = others.max_by_key(|(id, other)| (other.path, Reverse(*id)))?;
    if cx.control.instance(older) != Some(instance) {
        return Some(Duplicate::Pings(older));
    }
    // R5.3.8
    match this.path.cmp(&other.path) {
        Ordering::Greater => return Some(Duplicate::Replaces(older)),
        // The better one may be dead without this node's knowing, and the peer has noticed. R5.3.10
        Ordering::Less if this.direction.is_inbound() => return Some(Duplicate::Pings(older)),
        Ordering::Less => return Some(Duplicate::Yields(older)),
        Ordering::Equal => {}
    }
    if this.direction.is_inbound() == other.direction.is_inbound() {
        return Some(Duplicate::Pings(older));
    }
    let dialer = match this.direction {
        Direction::Inbound => this.peer,
        Direction::Outbound(_) => cx.config.peer,
    };
    // R5.3.1
    Some(if dialer == this.peer.min(cx.config.peer) {
        Duplicate::Replaces(older)
    } else {
        Duplicate::Yields(older)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    #[test]
    fn bans_end_and_are_bounded() {
        let mut peers = Peers::default();
        let now = Time::ZERO;
        peers.ban(peer(1), Violation::Malformed, now, 2);
        assert_eq!(peers.banned(&peer(1), now), Some(now + Duration::from_secs(60)));
        assert_eq!(peers.banned(&peer(1), now + Duration::from_secs(60)), None);
        // A lighter violation does not shorten the time.
        peers.ban(peer(2), Violation::RejectedItem, now, 2);
        peers.ban(peer(2), Violation::Malformed, now, 2);
        assert_eq!(peers.banned(&peer(2), now), Some(now + Duration::from_secs(3600)));
        let banned = peers.banned_peers(now + Duration::from_secs(60));
        assert_eq!(banned.len(), 1, "the first one's time is up");
        assert_eq!(banned[0].peer, peer(2).to_string());
        assert_eq!(banned[0].violation, Some(Violation::Malformed));
        assert_eq!(banned[0].left, Duration::from_secs(3540));
        // One past the limit: the one whose time is up first makes room.
        peers.ban(peer(3), Violation::RejectedItem, now, 2);
        assert_eq!(peers.bans(), 2);
        assert_eq!(peers.banned(&peer(1), now), None);
    }
}
