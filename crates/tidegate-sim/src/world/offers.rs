//! Offers and answers by way of common peers: now and then a node dials a peer of a peer in this way, and whatever
//! reaches its transports must be what the other's have said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tidegate_proto::Time;
use tidegate_proto::id::{Address, DialId, OfferId, PeerId, SealingKey};
use tidegate_proto::io::{Command, Exchange, Input, Path};
use tidegate_proto::wire::{Description, Encode as _, SignedStatement};

use super::{Happening, SLOT, World};
use crate::checkers::Broken;
use crate::entropy::Entropy;

/// How long a connection stays that was offered, where there are few places.
const STAYS: Duration = Duration::from_secs(2);

/// The offers so far.
pub(super) struct Offers {
    /// A separate source, so that nothing else in a world depends on it.
    entropy: Entropy,
    /// Dials without an end: which node dials, in which life, whom, and since when.
    open: BTreeMap<(usize, u32, DialId), (Option<PeerId>, Time)>,
    /// Offers that were answered: the dial, and who answered.
    answered: BTreeMap<(usize, u32, DialId), usize>,
    /// What was delivered to whom, by whom.
    delivered: BTreeSet<(usize, PeerId, Bytes)>,
}

impl Offers {
    pub(super) fn new(entropy: Entropy) -> Self {
        let (open, answered, delivered) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { entropy, open, answered, delivered }
    }
}

/// What the transports of a node say of themselves in an offer or an answer: which exchange it is.
fn description(kind: &str, (node, life, dial): (usize, u32, DialId)) -> Description {
    Description {
        ufrag: format!("{kind} {node} {life} {}", dial.0),
        password: "x".repeat(22),
        fingerprint: [node as u8; 32],
        candidates: Vec::new(),
        max_message: 16 << 10,
        instances: 1,
        sctp: Bytes::new(),
    }
}

/// The dial that a description is about.
fn dial_of(description: &Description, kind: &str) -> Option<(usize, u32, DialId)> {
    let mut parts = description.ufrag.strip_prefix(kind)?.trim_start().split(' ');
    let node = parts.next()?.parse().ok()?;
    let life = parts.next()?.parse().ok()?;
    Some((node, life, DialId(parts.next()?.parse().ok()?)))
}

impl World {
    pub(super) fn begin_offers(&mut self) {
        if self.scenario.load.offers > 0 {
            self.at(Time::ZERO + SLOT, Happening::Offer);
        }
    }

    /// Some node dials a peer of one of its peers, or a node that is none.
    pub(super) fn offer(&mut self) {
        let rate = u32::try_from(self.scenario.load.offers).unwrap_or(u32::MAX);
        let next = self.now + SLOT / rate;
        if next < Time::ZERO + self.scenario.producers_stop_at() {
            self.at(next, Happening::Offer);
        }
        let nodes = self.hosts.len() as u64;
        let from = self.offers.entropy.below(nodes) as usize;
        let is_dialing = self.offers.open.keys().any(|(node, ..)| *node == from);
        if !self.hosts[from].up || self.is_hostile(from) || is_dialing && self.scenario.small {
            return;
        }
        let Some(via) = self.some_peer(from) else { return };
        let relay = self.hosts.iter().position(|host| host.peer() == via);
        let to = match self.offers.entropy.below(8) {
            0 => Some(self.hosts[self.offers.entropy.below(nodes) as usize].peer()),
            1 => Some(via),
            _ => relay.and_then(|relay| self.some_peer(relay)),
        };
        let Some(to) = to else { return };
        let address = Address::by_offer();
        self.command(from, Command::Dial { address, peer: Some(to) });
    }

    fn some_peer(&mut self, node: usize) -> Option<PeerId> {
        let peers = self.hosts[node].node.status().peers;
        let at = self.offers.entropy.below(peers.len().max(1) as u64) as usize;
        peers.get(at)?.peer.parse().ok()
    }

    fn node_of(&self, peer: PeerId) -> Option<usize> {
        self.hosts.iter().position(|host| host.peer() == peer)
    }

    fn is_honest(&self, peer: PeerId) -> bool {
        self.node_of(peer).is_some_and(|node| !self.is_hostile(node))
    }

    /// A node dials by way of a common peer: its transport makes an offer at once.
    pub(super) fn dial_by_offer(&mut self, node: usize, dial: DialId, peer: Option<PeerId>) {
        let of = (node, self.hosts[node].life, dial);
        self.offers.open.insert(of, (peer, self.now));
        let description = description("offer", of);
        let exchange = Exchange::Dialed(dial);
        self.hosts[node].input(self.now, Input::Described { exchange, description });
    }

    /// A dial has ended.
    pub(super) fn dial_ended(&mut self, node: usize, dial: DialId) {
        self.offers.open.remove(&(node, self.hosts[node].life, dial));
    }

    /// Nothing in here is secret: what is sealed names whom it is sealed to.
    pub(super) fn seal(
        &mut self,
        node: usize,
        request: u64,
        receiver: SealingKey,
        statement: Bytes,
    ) {
        let signature = self.hosts[node].sign(&statement);
        let signed = SignedStatement { statement, signature }.to_bytes().expect("it is bounded");
        let sealed = Some([&receiver.0[..], &signed].concat().into());
        self.hosts[node].command(self.now, Command::Sealed { request, sealed });
    }

    pub(super) fn unseal(
        &mut self,
        node: usize,
        request: u64,
        [via, from]: [PeerId; 2],
        sealed: Bytes,
    ) {
        self.measured.offers += 1;
        let own = self.hosts[node].node.config().sealing.expect("it takes offers");
        let statement = sealed.strip_prefix(&own.0).map(Bytes::copy_from_slice);
        self.hosts[node].command(self.now, Command::Unsealed { request, statement });
        let is_new = self.offers.delivered.insert((node, via, sealed));
        let are_honest = [via, from].iter().all(|peer| self.is_honest(*peer));
        if !is_new && are_honest && !self.is_hostile(node) && self.loses_no_connection() {
            self.break_with(format!("node {node} was carried twice what {from} said once"));
        }
    }

    /// The transports of a node are told of another: it must be what that one's have said, and once.
    pub(super) fn describe(
        &mut self,
        node: usize,
        exchange: Exchange,
        peer: PeerId,
        description: &Description,
    ) {
        // Also of a hostile one, which signs only what its core says.
        let other = self.node_of(peer);
        match exchange {
            Exchange::Offered(offer) => self.offered(node, offer, other, description),
            Exchange::Dialed(dial) => self.answered(node, dial, other, description),
        }
    }

    fn offered(
        &mut self,
        node: usize,
        offer: OfferId,
        from: Option<usize>,
        description: &Description,
    ) {
        let of = dial_of(description, "offer");
        let Some(of) = of.filter(|of| Some(of.0) == from) else {
            return self
                .break_with(format!("node {node} was told an offer of nobody: {description:?}"));
        };
        if self.offers.answered.insert(of, node).is_some() {
            return self.break_with(format!("node {node} was told the offer {of:?} twice"));
        }
        let input = match self.offers.entropy.below(16) {
            0 => Input::Declined { offer },
            _ => {
                let exchange = Exchange::Offered(offer);
                Input::Described { exchange, description: self::description("answer", of) }
            }
        };
        self.hosts[node].input(self.now, input);
    }

    fn answered(
        &mut self,
        node: usize,
        dial: DialId,
        by: Option<usize>,
        description: &Description,
    ) {
        let of = (node, self.hosts[node].life, dial);
        let is_for_it = dial_of(description, "answer") == Some(of);
        let answered_by = self.offers.answered.get(&of).copied();
        let dialed = self.offers.open.get(&of).map(|(peer, _)| *peer);
        let expected = by.map(|by| Some(self.hosts[by].peer()));
        if !is_for_it || answered_by != by || dialed != expected {
            return self.break_with(format!(
                "node {node} was told an answer to {of:?} that nobody gave: {description:?}"
            ));
        }
        let Some(by) = by.filter(|by| !self.is_unreachable(node, *by)) else { return };
        let delay = self.offers.entropy.between(SLOT / 200, SLOT / 10);
        self.offers.open.remove(&of);
        let id = self.connect([node, by], dial, delay, Path::Adapted);
        if self.scenario.small {
            // There are few places, and the wired connections need them.
            let at = self.now + STAYS;
            for node in [node, by] {
                self.at(at, Happening::Input(node, Input::Closed { connection: id }));
            }
        }
    }

    /// Only what was under way on a connection that is lost may arrive twice (specification, R18.10).
    fn loses_no_connection(&self) -> bool {
        let faults = &self.scenario.faults;
        let lost = [faults.resets, faults.stalls, faults.one_way, faults.partition_ms];
        !self.scenario.discovery
            && !self.scenario.small
            && lost == [0; 4]
            && faults.stalled_nodes.is_empty()
    }

    fn break_with(&mut self, what: String) {
        self.broken.get_or_insert_with(|| Broken::new(what));
    }

    /// At the end of a world all dials must have ended, except those of processes that have.
    pub(super) fn all_offers_have_ended(&self) -> Result<(), Broken> {
        let open = self.offers.open.iter();
        let mut open = open.filter(|((node, life, _), _)| self.hosts[*node].life == *life);
        let is_late = |(_, since): &(Option<PeerId>, Time)| {
            self.now.since(*since) > tidegate_proto::Limits::default().dial_timeout_ice
        };
        match open.find(|(_, dial)| is_late(dial)) {
            Some((of, _)) => Err(Broken::new(format!("the dial {of:?} does not end"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_tells_its_dial_and_no_other() {
        let of = (7, 2, DialId(30));
        assert_eq!(dial_of(&description("offer", of), "offer"), Some(of));
        assert_eq!(dial_of(&description("offer", of), "answer"), None);
        let mut other = description("offer", of);
        other.ufrag.clear();
        assert_eq!(dial_of(&other, "offer"), None);
    }
}
