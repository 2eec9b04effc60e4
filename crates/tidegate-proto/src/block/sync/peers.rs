//! What is known of each peer while this node catches up: which requests it failed, and whether it
//! has delivered anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{BlockId, ConnectionId};
use crate::rules::HeaderFacts;
use crate::time::Time;

/// How long a peer that failed a request is not asked for the same again; doubled with each
/// failure.
pub(super) const BACKOFF: Duration = Duration::from_secs(2);
/// The longest backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// What is requested from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Headers,
    /// One body.
    Body(BlockId),
    /// Bodies in general, in time.
    Bodies,
}

impl What {
    /// The kind of request that a failure counts against: headers, or bodies of any block.
    pub(super) fn kind(self) -> Self {
        if self == Self::Headers { self } else { Self::Bodies }
    }
}

/// Failed requests of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    /// Failures in a row.
    count: u32,
    /// End of the backoff.
    until: Option<Time>,
}

impl Failures {
    fn backs_off(self, now: Time) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    fn is_none(self, now: Time) -> bool {
        self.count == 0 && !self.backs_off(now)
    }
}

/// One peer.
#[derive(Debug, Default)]
struct Peer {
    headers: Failures,
    bodies: Failures,
    of_block: BTreeMap<BlockId, Failures>,
    /// Sizes of bodies for which there was no room: they are requested from others.
    large: BTreeMap<BlockId, usize>,
    /// It has delivered a body on this connection: others may have connected only to occupy a
    /// place.
    proven: bool,
    /// It announced a header that is near, but has too many unknown ancestors to be followed one by
    /// one.
    unfollowed: bool,
    /// The number of the last request for headers to it.
    turn: Option<u64>,
}

/// All peers with any record.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<ConnectionId, Peer>,
    /// The number of requests for headers to any peer: peers take turns.
    turn: u64,
}

impl Peers {
    fn failures_of(&self, connection: ConnectionId, what: What) -> Failures {
        let Some(peer) = self.peers.get(&connection) else { return Failures::default() };
        match what {
            What::Headers => peer.headers,
            What::Bodies => peer.bodies,
            What::Body(block) => peer.of_block.get(&block).copied().unwrap_or_default(),
        }
    }

    fn failures_mut(&mut self, connection: ConnectionId, what: What) -> &mut Failures {
        let peer = self.peers.entry(connection).or_default();
        match what {
            What::Headers => &mut peer.headers,
            What::Bodies => &mut peer.bodies,
            What::Body(block) => peer.of_block.entry(block).or_default(),
        }
    }

    /// Whether a peer is in backoff for a kind of request.
    pub(super) fn backs_off(&self, connection: ConnectionId, what: What, now: Time) -> bool {
        self.failures_of(connection, what).backs_off(now)
    }

    /// How many requests of a kind a peer failed in a row.
    pub(super) fn failures(&self, connection: ConnectionId, what: What) -> u32 {
        self.failures_of(connection, what).count
    }

    /// Starts a peer's backoff, doubled with each failure.
    pub(super) fn back_off(&mut self, connection: ConnectionId, what: What, now: Time) {
        let failures = self.failures_mut(connection, what);
        let wait = BACKOFF.saturating_mul(1 << failures.count.min(16)).min(MAX_BACKOFF);
        failures.count = failures.count.saturating_add(1);
        failures.until = Some(now + wait);
    }

    /// A peer failed to deliver a body, perhaps for a good reason: others come first, but it has no
    /// backoff.
    pub(super) fn failed(&mut self, connection: ConnectionId) {
        let failures = self.failures_mut(connection, What::Bodies);
        failures.count = failures.count.saturating_add(1);
    }

    /// A peer has delivered: its failures are forgotten.
    pub(super) fn forgive(&mut self, connection: ConnectionId, what: What) {
        if self.peers.contains_key(&connection) {
            *self.failures_mut(connection, what) = Failures::default();
        }
    }

    /// When the first backoff ends.
    pub(super) fn next_retry(&self, now: Time) -> Option<Time> {
        let of = |peer: &Peer| {
            let of_block = peer.of_block.values().filter_map(|failures| failures.until);
            [peer.headers.until, peer.bodies.until].into_iter().flatten().chain(of_block).min()
        };
        self.peers.values().filter_map(of).filter(|at| *at > now).min()
    }

    /// A peer has delivered a body: it is proven, and other peers' failures with that block are
    /// forgiven.
    pub(super) fn delivered(&mut self, connection: ConnectionId, block: BlockId) {
        self.forgive(connection, What::Bodies);
        self.peers.entry(connection).or_default().proven = true;
        for peer in self.peers.values_mut() {
            if let Some(failures) = peer.of_block.get_mut(&block) {
                failures.count = 0;
            }
        }
    }

    pub(super) fn is_proven(&self, connection: ConnectionId) -> bool {
        self.peers.get(&connection).is_some_and(|peer| peer.proven)
    }

    /// Whether any peer has delivered a body.
    pub(super) fn is_any_proven(&self) -> bool {
        self.peers.values().any(|peer| peer.proven)
    }

    /// The size of a body for which there was no room, as told by the peer.
    pub(super) fn large(&self, connection: ConnectionId, block: &BlockId) -> Option<usize> {
        self.peers.get(&connection)?.large.get(block).copied()
    }

    pub(super) fn set_large(&mut self, connection: ConnectionId, block: BlockId, size: usize) {
        self.peers.entry(connection).or_default().large.insert(block, size);
    }

    pub(super) fn is_unfollowed(&self, connection: ConnectionId) -> bool {
        self.peers.get(&connection).is_some_and(|peer| peer.unfollowed)
    }

    pub(super) fn set_unfollowed(&mut self, connection: ConnectionId, unfollowed: bool) {
        self.peers.entry(connection).or_default().unfollowed = unfollowed;
    }

    /// The order in which peers are asked for headers, lowest first. A peer that has not been asked
    /// ranks as if it had just been asked, so that reconnecting gains nothing.
    pub(super) fn turn(&self, connection: ConnectionId) -> (u64, bool) {
        match self.peers.get(&connection).and_then(|peer| peer.turn) {
            Some(turn) => (turn, true),
            None => (self.turn, false),
        }
    }

    pub(super) fn takes_turn(&mut self, connection: ConnectionId) {
        self.turn += 1;
        self.peers.entry(connection).or_default().turn = Some(self.turn);
    }

    /// Forgets records about blocks that are no longer missing.
    pub(super) fn prune(&mut self, missing: &[HeaderFacts], now: Time) {
        let is_empty = |peer: &Peer| peer.large.is_empty() && peer.of_block.is_empty();
        if self.peers.values().all(is_empty) {
            return;
        }
        let wanted = missing.iter().map(|facts| facts.block).collect::<BTreeSet<_>>();
        for peer in self.peers.values_mut() {
            peer.large.retain(|block, _| wanted.contains(block));
            for failures in peer.of_block.iter_mut().filter(|(block, _)| !wanted.contains(block)) {
                failures.1.count = 0;
            }
            peer.of_block.retain(|_, failures| !failures.is_none(now));
        }
    }

    /// A connection is gone.
    pub(super) fn link_down(&mut self, connection: ConnectionId) {
        self.peers.remove(&connection);
    }
}
