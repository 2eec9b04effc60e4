//! All peers: which may connect, which of two connections stays, and which are banned
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
use crate::io::{Direction, Output, Path};
use crate::link::{self, Link};
use crate::offer;
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::Refusal;

pub(crate) mod address;
pub(crate) mod book;
pub(crate) mod dial_back;
pub(crate) mod dialer;
pub(crate) mod exchange;
pub(crate) mod record;

/// How long a peer should wait after a refusal as busy, in milliseconds: longer than most hellos
/// take.
const RETRY_MS: u32 = 1000;

/// The refusal while too many hellos are in progress.
pub(crate) fn busy() -> Refusal {
    Refusal::Busy(RETRY_MS)
}

/// Sites that are remembered because they have unfinished work: more than can connect and leave
/// before it is done, which takes a second at most.
pub(crate) const UNPAID: usize = 256;
/// From this number of sites with unfinished work in one network group, the whole group waits: a
/// party with many addresses has them in one group.
const UNPAID_OF_GROUP: usize = 4;

/// Connections with one identity at a time: the current one, and one that may replace it.
const OF_ONE: usize = 2;

/// What is known of peers beyond their connections.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    bans: BTreeMap<PeerId, Ban>,
    dials: BTreeMap<DialId, Dialing>,
    /// The timeout of each dial, whatever it is for.
    due: BTreeMap<DialId, Time>,
    next_dial: u64,
    /// Sites whose peers disconnected with unfinished work, and when that is done.
    unpaid: BTreeMap<(Group, Vec<u8>), Time>,
    /// Peers reported to the application as connected: each is reported in turns as connected and
    /// disconnected.
    pub(crate) told: BTreeSet<PeerId>,
    /// How many bans there have been.
    pub(crate) banned_so_far: u64,
    pub(crate) shutting_down: bool,
}

/// A banned peer.
#[derive(Clone, Copy, Debug)]
struct Ban {
    until: Time,
    /// The last violation; unknown after a restart.
    violation: Option<Violation>,
}

/// A peer that is refused because of a violation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BannedPeer {
    /// Its id.
    pub peer: String,
    /// The time left.
    pub left: Duration,
    /// The last violation; `None` if it was before a restart.
    pub violation: Option<Violation>,
}

/// A dial in progress.
#[derive(Clone, Debug)]
pub(crate) struct Dialing {
    pub(crate) address: Address,
    pub(crate) peer: Option<PeerId>,
}

impl Peers {
    /// Starts with the saved bans.
    pub(crate) fn new(config: &Config, now: Time) -> Self {
        let bans = config.peer_book.bans.iter().take(config.limits.bans as usize);
        let bans =
            bans.map(|(peer, left)| (*peer, Ban { until: now + *left, violation: None })).collect();
        Self { bans, ..Self::default() }
    }

    /// The number of a new dial with this timeout.
    fn dial_id(&mut self, due: Time) -> DialId {
        let dial = DialId(self.next_dial);
        self.next_dial += 1;
        self.due.insert(dial, due);
        dial
    }

    /// When the first dial times out.
    pub(crate) fn dial_deadline(&self) -> Option<Time> {
        self.due.values().min().copied()
    }

    /// A dial that has timed out.
    pub(crate) fn overdue(&self, now: Time) -> Option<DialId> {
        self.due.iter().find(|(_, due)| **due <= now).map(|(dial, _)| *dial)
    }

    /// A dial has ended, whatever it was for.
    pub(crate) fn settled(&mut self, dial: DialId) {
        self.due.remove(&dial);
    }

    /// How many dials are in progress.
    pub(crate) fn dialing(&self) -> usize {
        self.dials.len()
    }

    /// Removes a dial that has ended.
    pub(crate) fn dialed(&mut self, dial: DialId) -> Option<Dialing> {
        self.dials.remove(&dial)
    }

    /// Bans a peer. If there are too many bans, the one that expires first is dropped.
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

    /// Until when a peer is banned.
    pub(crate) fn banned(&self, peer: &PeerId, now: Time) -> Option<Time> {
        self.bans.get(peer).map(|ban| ban.until).filter(|until| *until > now)
    }

    /// Whether a connection to a peer is allowed.
    pub(crate) fn may_meet(&self, config: &Config, peer: &PeerId, now: Time) -> bool {
        let allowed = config.allow.as_ref().is_none_or(|allowed| allowed.contains(peer));
        allowed && self.banned(peer, now).is_none()
    }

    /// The bans to be saved, with the time left.
    pub(crate) fn saved(&self, now: Time) -> Vec<(PeerId, Duration)> {
        let bans = self.bans.iter().filter(|(_, ban)| ban.until > now);
        bans.map(|(peer, ban)| (*peer, ban.until.since(now))).collect()
    }

    /// The bans, with the time left and the reason.
    pub(crate) fn banned_peers(&self, now: Time) -> Vec<BannedPeer> {
        let bans = self.bans.iter().filter(|(_, ban)| ban.until > now);
        let banned = |(peer, ban): (&PeerId, &Ban)| BannedPeer {
            peer: peer.to_string(),
            left: ban.until.since(now),
            violation: ban.violation,
        };
        bans.map(banned).collect()
    }

    /// How many peers are banned.
    pub(crate) fn bans(&self) -> usize {
        self.bans.len()
    }
}

/// A connection has ended: remembers its unfinished work. The next connection from the same site
/// starts with it, or has to wait if it is too much: otherwise a peer could get more than its share
/// by reconnecting, which brings new permits.
pub(crate) fn leaves(cx: &mut Context, connection: ConnectionId) {
    let Some(link) = cx.links.get(connection).filter(|link| link.direction.is_inbound()) else {
        return;
    };
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

/// Whether peers at an address have to wait for unfinished work.
fn has_left_work(cx: &Context, address: &Address) -> bool {
    let (group, site) = (group(address), site_bytes(address));
    let of_group = cx.peers.unpaid.range((group.clone(), Vec::new())..);
    let of_group = of_group.take_while(|((of, _), _)| *of == group);
    let much = of_group.filter(|(_, until)| link::is_much(**until, cx.now));
    let mut owing = much.map(|((_, site), _)| site);
    owing.clone().count() >= UNPAID_OF_GROUP || owing.any(|owes| *owes == site)
}

/// When the unfinished work of connections from an address's site is done. A new connection from
/// there starts with it.
pub(crate) fn left_work(cx: &Context, address: &Address) -> Option<Time> {
    cx.peers.unpaid.get(&(group(address), site_bytes(address))).copied()
}

/// Why the peer of a connection is refused, if it is.
pub(crate) fn admit(cx: &Context, connection: ConnectionId) -> Result<(), Refusal> {
    let Some(link) = cx.links.get(connection) else { return Ok(()) };
    let peer = link.peer;
    may_admit(cx, &peer)?;
    if link.direction.is_inbound() {
        // R5.3.7
        if has_left_work(cx, &link.address) {
            return Err(busy());
        }
        if let Some(busy) = sent_away(cx, &peer) {
            return Err(busy);
        }
        // A connection that this one replaces does not count.
        let stays = |other: &Link| other.peer != peer || other.path >= link.path;
        if is_full(cx, |id, other| id != connection && stays(other)) {
            return Err(Refusal::Full(Vec::new()));
        }
    }
    Ok(())
}

/// Whether there is no place for another inbound connection beside those that count.
fn is_full(cx: &Context, counts: impl Fn(ConnectionId, &Link) -> bool) -> bool {
    let inbound = cx.links.iter().filter(|(id, other)| {
        other.direction.is_inbound() && counts(*id, other) && control::is_admitted(cx, *id)
    });
    inbound.count() >= cx.config.limits.max_inbound as usize
}

/// Why an offer of a peer is refused, if it is: for the same reasons as a connection would be.
pub(crate) fn admit_offer(cx: &Context, peer: &PeerId) -> Result<(), Refusal> {
    may_admit(cx, peer)?;
    // A connection that a new one would not replace.
    let is_there = |(id, link): (ConnectionId, &Link)| {
        link.peer == *peer && link.path >= Path::Adapted && !control::is_over(cx, id)
    };
    if cx.links.iter().any(is_there) {
        return Err(Refusal::Duplicate);
    }
    if let Some(busy) = sent_away(cx, peer) {
        return Err(busy);
    }
    if is_full(cx, |_, other| other.peer != *peer) {
        return Err(Refusal::Full(Vec::new()));
    }
    Ok(())
}

/// Why this node refuses a peer whatever the connection.
fn may_admit(cx: &Context, peer: &PeerId) -> Result<(), Refusal> {
    // R5.2.2
    if *peer == cx.config.peer {
        return Err(Refusal::SelfDial);
    }
    if cx.peers.shutting_down {
        return Err(Refusal::ShuttingDown);
    }
    if let Some(until) = cx.peers.banned(peer, cx.now) {
        // R5.2.3
        let remaining = until.since(cx.now).as_secs().max(1);
        return Err(Refusal::Banned(u32::try_from(remaining).unwrap_or(u32::MAX)));
    }
    if !cx.peers.may_meet(&cx.config, peer, cx.now) {
        return Err(Refusal::NotAllowed);
    }
    Ok(())
}

fn sent_away(cx: &Context, peer: &PeerId) -> Option<Refusal> {
    let until = cx.dialer.sent_away(peer, cx.now)?;
    let wait = until.since(cx.now).as_millis().max(1);
    Some(Refusal::Busy(u32::try_from(wait).unwrap_or(u32::MAX)))
}

/// Starts a dial that counts as an outbound connection.
pub(crate) fn dial(cx: &mut Context, address: Address, peer: Option<PeerId>) -> DialId {
    let dial = begin_dial(cx, address.clone(), peer, false);
    cx.peers.dials.insert(dial, Dialing { address, peer });
    dial
}

fn begin_dial(cx: &mut Context, address: Address, peer: Option<PeerId>, fresh: bool) -> DialId {
    let limits = &cx.config.limits;
    let by_offer = address.is_by_offer();
    let patience = match () {
        () if by_offer => limits.dial_timeout_ice,
        () if address::is_slow(&address) => limits.dial_timeout_slow,
        () => limits.dial_timeout,
    };
    let dial = cx.peers.dial_id(cx.now + patience);
    cx.outputs.push_back(Output::Dial { dial, address, peer, patience, fresh });
    if by_offer {
        offer::begin(cx, dial, peer);
    }
    dial
}

/// Whether another outbound connection is allowed.
pub(crate) fn may_dial(cx: &Context) -> bool {
    let dialed = cx.links.iter().filter(|(_, link)| !link.direction.is_inbound()).count();
    dialed + cx.peers.dialing() < cx.config.limits.max_outbound as usize
}

/// Whether there is room for another hello, and which other has to be ended for it. Outbound
/// connections always find room: strangers must not keep this node from finding peers.
pub(crate) fn has_room_for_hello(
    cx: &Context,
    connection: ConnectionId,
) -> Result<Option<ConnectionId>, Refusal> {
    let this = cx.links.get(connection).filter(|link| link.direction.is_inbound());
    let Some(this) = this else { return Ok(None) };
    let same = cx.links.iter().filter(|(id, other)| *id != connection && other.peer == this.peer);
    // An old connection may be dead without this node having noticed, while another waits for that.
    // R5.3.6
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
    // Evicts from the group with the most hellos, so that one group cannot shut all others out.
    let mut groups = BTreeMap::<Group, (usize, ConnectionId)>::new();
    for (id, other) in pending().filter(|(id, _)| *id != connection) {
        groups.entry(group(&other.address)).or_insert((0, id)).0 += 1;
    }
    let own = groups.get(&group(&this.address)).map_or(0, |(count, _)| *count);
    let most = groups.into_values().max_by_key(|(count, oldest)| (*count, Reverse(*oldest)));
    match most.filter(|(count, _)| *count > own + 1) {
        Some((_, oldest)) => Ok(Some(oldest)),
        None => Err(busy()),
    }
}

/// How to resolve two connections to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duplicate {
    /// This one has the better path, or both dialed at once and this one stays. The other ends once
    /// this one is up and nothing is owed on the other.
    Replaces(ConnectionId),
    /// The other one has the better path, or both dialed at once and the other stays.
    Yields(ConnectionId),
    /// The older one is pinged: it stays if it answers.
    Pings(ConnectionId),
}

/// How to resolve another connection to the same peer, whose process has this `instance` number.
pub(crate) fn duplicate(
    cx: &Context,
    connection: ConnectionId,
    instance: u64,
) -> Option<Duplicate> {
    let this = cx.links.get(connection)?;
    let others = cx.links.iter().filter(|(id, other)| {
        let admitted =
            *id != connection && other.peer == this.peer && control::is_admitted(cx, *id);
        // A connection that is already being replaced does not count.
        admitted && !cx.control.is_replaced(*id)
    });
    let (older, other) = others.max_by_key(|(id, other)| (other.path, Reverse(*id)))?;
    if cx.control.instance(older) != Some(instance) {
        return Some(Duplicate::Pings(older));
    }
    // R5.3.8
    match this.path.cmp(&other.path) {
        Ordering::Greater => return Some(Duplicate::Replaces(older)),
        // The better one may be dead without this node having noticed, while the peer has. R5.3.10
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
        // A lighter violation does not shorten a ban.
        peers.ban(peer(2), Violation::RejectedItem, now, 2);
        peers.ban(peer(2), Violation::Malformed, now, 2);
        assert_eq!(peers.banned(&peer(2), now), Some(now + Duration::from_secs(3600)));
        let banned = peers.banned_peers(now + Duration::from_secs(60));
        assert_eq!(banned.len(), 1, "the first one's time is up");
        assert_eq!(banned[0].peer, peer(2).to_string());
        assert_eq!(banned[0].violation, Some(Violation::Malformed));
        assert_eq!(banned[0].left, Duration::from_secs(3540));
        // One past the limit: the ban that expires first is dropped.
        peers.ban(peer(3), Violation::RejectedItem, now, 2);
        assert_eq!(peers.bans(), 2);
        assert_eq!(peers.banned(&peer(1), now), None);
    }
}
