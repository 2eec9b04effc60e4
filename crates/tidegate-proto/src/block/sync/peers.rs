//! What is known of each peer that is asked while this node catches up: what it failed to deliver, and whether it
//! has delivered anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{BlockId, ConnectionId};
use crate::rules::HeaderFacts;
use crate::time::Time;

/// How long a peer that did not deliver is not asked for the same again; doubled each time.
pub(super) const PASSED_OVER: Duration = Duration::from_secs(2);
/// The same at most.
const PASSED_OVER_MOST: Duration = Duration::from_secs(300);

/// What a peer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Headers,
    /// This one.
    Body(BlockId),
    /// Some, in time.
    Bodies,
}

impl What {
    /// What the peer's failures with this say about: headers, or bodies of whatever block.
    pub(super) fn kind(self) -> Self {
        if self == Self::Headers { self } else { Self::Bodies }
    }
}

/// What a peer did not deliver.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    /// How often in a row.
    count: u32,
    /// Until when it is not asked again.
    until: Option<Time>,
}

impl Failures {
    fn is_passed(self, now: Time) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    fn is_none(self, now: Time) -> bool {
        self.count == 0 && !self.is_passed(now)
    }
}

/// What is known of one peer.
#[derive(Debug, Default)]
struct Peer {
    headers: Failures,
    bodies: Failures,
    of_block: BTreeMap<BlockId, Failures>,
    /// Bytes of bodies for which there was no room, as it says: others are asked.
    large: BTreeMap<BlockId, usize>,
    /// It has delivered a body on this connection: others may be here only to be asked.
    proven: bool,
    /// It announced a header that is not far ahead, and to which there is no way header by header.
    unfollowed: bool,
    /// When it was last asked for headers, counted in requests.
    turn: Option<u64>,
}

/// All peers of which anything is known.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<ConnectionId, Peer>,
    /// How often any peer was asked for headers: they take turns.
    turn: u64,
}

impl Peers {
    fn failures_of(&self, link: ConnectionId, what: What) -> Failures {
        let Some(peer) = self.peers.get(&link) else { return Failures::default() };
        match what {
            What::Headers => peer.headers,
            What::Bodies => peer.bodies,
            What::Body(block) => peer.of_block.get(&block).copied().unwrap_or_default(),
        }
    }

    fn failures_mut(&mut self, link: ConnectionId, what: What) -> &mut Failures {
        let peer = self.peers.entry(link).or_default();
        match what {
            What::Headers => &mut peer.headers,
            What::Bodies => &mut peer.bodies,
            What::Body(block) => peer.of_block.entry(block).or_default(),
        }
    }

    /// Whether a peer is not asked for something now.
    pub(super) fn is_passed(&self, link: ConnectionId, what: What, now: Time) -> bool {
        self.failures_of(link, what).is_passed(now)
    }

    /// How often in a row a peer did not deliver something.
    pub(super) fn failures(&self, link: ConnectionId, what: What) -> u32 {
        self.failures_of(link, what).count
    }

    /// A peer is not asked for something again for a while, ever longer.
    pub(super) fn pass_over(&mut self, link: ConnectionId, what: What, now: Time) {
        let failures = self.failures_mut(link, what);
        let wait = PASSED_OVER.saturating_mul(1 << failures.count.min(16)).min(PASSED_OVER_MOST);
        failures.count = failures.count.saturating_add(1);
        failures.until = Some(now + wait);
    }

    /// A peer did not deliver bodies, perhaps for good reasons: others are asked before it.
    pub(super) fn disappointed(&mut self, link: ConnectionId) {
        let failures = self.failures_mut(link, What::Bodies);
        failures.count = failures.count.saturating_add(1);
    }

    /// A peer has shown that it delivers.
    pub(super) fn forgive(&mut self, link: ConnectionId, what: What) {
        if self.peers.contains_key(&link) {
            *self.failures_mut(link, what) = Failures::default();
        }
    }

    /// When the first of those that are passed over may be asked again.
    pub(super) fn first_again(&self, now: Time) -> Option<Time> {
        let of = |peer: &Peer| {
            let of_block = peer.of_block.values().filter_map(|failures| failures.until);
            [peer.headers.until, peer.bodies.until].into_iter().flatten().chain(of_block).min()
        };
        self.peers.values().filter_map(of).filter(|at| *at > now).min()
    }

    /// A peer has delivered a body: whoever failed with that block before is not to blame for it any more.
    pub(super) fn delivered(&mut self, link: ConnectionId, block: BlockId) {
        self.forgive(link, What::Bodies);
        self.peers.entry(link).or_default().proven = true;
        for peer in self.peers.values_mut() {
            if let Some(failures) = peer.of_block.get_mut(&block) {
                failures.count = 0;
            }
        }
    }

    pub(super) fn is_proven(&self, link: ConnectionId) -> bool {
        self.peers.get(&link).is_some_and(|peer| peer.proven)
    }

    /// Whether any peer has delivered a body.
    pub(super) fn is_any_proven(&self) -> bool {
        self.peers.values().any(|peer| peer.proven)
    }

    /// Bytes of a body for which there was no room, as a peer says.
    pub(super) fn large(&self, link: ConnectionId, block: &BlockId) -> Option<usize> {
        self.peers.get(&link)?.large.get(block).copied()
    }

    pub(super) fn set_large(&mut self, link: ConnectionId, block: BlockId, size: usize) {
        self.peers.entry(link).or_default().large.insert(block, size);
    }

    pub(super) fn is_unfollowed(&self, link: ConnectionId) -> bool {
        self.peers.get(&link).is_some_and(|peer| peer.unfollowed)
    }

    pub(super) fn set_unfollowed(&mut self, link: ConnectionId, unfollowed: bool) {
        self.peers.entry(link).or_default().unfollowed = unfollowed;
    }

    /// Whose turn it is to be asked for headers: the least first. A peer that has not been asked comes after
    /// all that have, as if it had just been asked: leaving and coming back gives nobody a turn.
    pub(super) fn turn(&self, link: ConnectionId) -> (u64, bool) {
        match self.peers.get(&link).and_then(|peer| peer.turn) {
            Some(turn) => (turn, true),
            None => (self.turn, false),
        }
    }

    pub(super) fn takes_turn(&mut self, link: ConnectionId) {
        self.turn += 1;
        self.peers.entry(link).or_default().turn = Some(self.turn);
    }

    /// Forgets what peers did about blocks that are not missing, and what counts no more.
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

    /// A link is gone.
    pub(super) fn link_down(&mut self, link: ConnectionId) {
        self.peers.remove(&link);
    }
}
