//! Signals of transports by way of common peers: now and then a node sends one to a peer of a peer,
//! and whatever arrives must have been sent.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_proto::Time;
use tidegate_proto::id::{PeerId, SignalId};
use tidegate_proto::io::{Input, SignalError};

use super::{Happening, SLOT, World};
use crate::checkers::Broken;
use crate::entropy::Entropy;

/// The signals so far.
pub(super) struct Signals {
    /// A separate source, so that nothing else in a world depends on it.
    entropy: Entropy,
    /// By their numbers.
    said: Vec<Said>,
    /// Signals without a result: which node waits, and which start of its process.
    open: BTreeMap<SignalId, (usize, u32)>,
}

/// A signal that a node has sent.
struct Said {
    from: PeerId,
    via: PeerId,
    to: PeerId,
    at: Time,
    arrived: bool,
}

impl Signals {
    pub(super) fn new(entropy: Entropy) -> Self {
        Self { entropy, said: Vec::new(), open: BTreeMap::new() }
    }
}

/// The payload of the signal with a number.
fn payload(number: usize) -> Bytes {
    let mut payload = vec![number as u8; number % 2048];
    payload.splice(..0, (number as u64).to_be_bytes());
    payload.into()
}

fn number(payload: &[u8]) -> Option<usize> {
    let number = usize::try_from(u64::from_be_bytes(*payload.first_chunk()?)).ok()?;
    (self::payload(number) == payload).then_some(number)
}

impl World {
    pub(super) fn begin_signals(&mut self) {
        if self.scenario.load.signals > 0 {
            self.at(Time::ZERO + SLOT, Happening::Signal);
        }
    }

    /// Some node sends a signal to a peer of one of its peers, or to a node that is none.
    pub(super) fn say(&mut self) {
        let rate = u32::try_from(self.scenario.load.signals).unwrap_or(u32::MAX);
        let next = self.now + SLOT / rate;
        if next < Time::ZERO + self.scenario.producers_stop_at() {
            self.at(next, Happening::Signal);
        }
        let nodes = self.hosts.len() as u64;
        let from = self.signals.entropy.below(nodes) as usize;
        if !self.hosts[from].up || self.is_hostile(from) {
            return;
        }
        let Some(via) = self.some_peer(from) else { return };
        let relay = self.hosts.iter().position(|host| host.peer() == via);
        let to = match self.signals.entropy.below(8) {
            0 => Some(self.hosts[self.signals.entropy.below(nodes) as usize].peer()),
            1 => Some(via),
            _ => relay.and_then(|relay| self.some_peer(relay)),
        };
        let Some(to) = to else { return };
        let (id, payload) =
            (SignalId(self.signals.said.len() as u64), payload(self.signals.said.len()));
        let said = Said { from: self.hosts[from].peer(), via, to, at: self.now, arrived: false };
        self.signals.said.push(said);
        self.signals.open.insert(id, (from, self.hosts[from].life));
        self.hosts[from].input(self.now, Input::Signal { id, via, to, payload });
        self.drain(from);
    }

    fn some_peer(&mut self, node: usize) -> Option<PeerId> {
        let peers = self.hosts[node].node.status().peers;
        let at = self.signals.entropy.below(peers.len().max(1) as u64) as usize;
        peers.get(at)?.peer.parse().ok()
    }

    fn is_honest(&self, peer: PeerId) -> bool {
        let mut hosts = self.hosts.iter().enumerate();
        hosts.any(|(n, host)| host.peer() == peer && !self.is_hostile(n))
    }

    /// A signal has reached a node: if relay and sender are honest, it must be the one that was
    /// sent.
    pub(super) fn signal(&mut self, node: usize, [via, from]: [PeerId; 2], payload: &[u8]) {
        self.measured.signals += 1;
        if self.is_hostile(node) || !self.is_honest(via) || !self.is_honest(from) {
            return;
        }
        let to = self.hosts[node].peer();
        let said = number(payload).and_then(|number| self.signals.said.get_mut(number));
        // If the relay is the receiver, no other node carried it.
        let by = |said: &Said| if said.via == said.to { said.from } else { said.via };
        match said.filter(|said| (said.from, by(said), said.to) == (from, via, to)) {
            Some(said) => {
                let again = std::mem::replace(&mut said.arrived, true);
                if again && self.loses_no_connection() {
                    self.break_with(format!("node {node} was carried twice what {from} said once"));
                }
            }
            None => self.break_with(format!("node {node} was carried what {from} has not said")),
        }
    }

    /// Only what was under way on a connection that is lost may arrive twice (specification, R18.10).
    fn loses_no_connection(&self) -> bool {
        let faults = &self.scenario.faults;
        let lost = [faults.resets, faults.stalls, faults.one_way, faults.partition_ms];
        !self.scenario.discovery && lost == [0; 4] && faults.stalled_nodes.is_empty()
    }

    fn break_with(&mut self, what: String) {
        self.broken.get_or_insert_with(|| Broken::new(what));
    }

    /// A node gets the result of its signal: in time, and the truth if the others are honest.
    pub(super) fn signaled(&mut self, node: usize, id: SignalId, result: Result<(), SignalError>) {
        let open = self.signals.open.remove(&id);
        if open != Some((node, self.hosts[node].life)) {
            self.break_with(format!("node {node} was told what became of {id:?}: {open:?}"));
            return;
        }
        let said = &self.signals.said[id.0 as usize];
        let took = self.now.since(said.at);
        if took > 2 * self.hosts[node].node.config().limits.signal_patience {
            self.break_with(format!("node {node} was told after {took:?} what became of {id:?}"));
        } else if result.is_ok()
            && !said.arrived
            && self.is_honest(said.via)
            && self.is_honest(said.to)
        {
            self.break_with(format!("node {node} was told that {id:?} arrived, and it did not"));
        }
    }

    /// At the end of a world all signals must have results, except those of processes that have
    /// ended.
    pub(super) fn all_signals_are_known(&self) -> Result<(), Broken> {
        let mut open = self.signals.open.iter();
        match open.find(|(_, (node, life))| self.hosts[*node].life == *life) {
            Some((id, (node, _))) => {
                Err(Broken::new(format!("node {node} does not know what became of {id:?}")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_tells_its_number_and_no_other() {
        for n in [0, 1, 300, 5_000] {
            assert_eq!(number(&payload(n)), Some(n));
            let twisted = [&payload(n)[..], &[9]].concat();
            assert_eq!(number(&twisted), None);
        }
        assert_eq!(number(&[0; 7]), None);
        assert_eq!(number(&[255; 64]), None);
    }
}
