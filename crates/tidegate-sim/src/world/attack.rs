//! The world's part in attacks: new identities, frames that no core made, and their end when
//! everything is healed.

use std::time::Duration;

use tidegate_proto::Time;
use tidegate_proto::id::{ConnectionId, PeerId};
use tidegate_proto::io::{Command, Input};
use tidegate_proto::wire::{ControlMessage, Frame, Goodbye, Refusal};

use super::{Happening, World};
use crate::channels::numbers;
use crate::checkers::Broken;
use crate::hostile::Hostile;
use crate::places::address;

/// When hostile nodes begin to send additional frames: most of their connections are up by then.
const FROM: Duration = Duration::from_millis(700);
/// The longest pause between two of them.
const PAUSE: Duration = Duration::from_millis(250);

impl World {
    pub(super) fn begin_attacks(&mut self) {
        for node in self.scenario.faults.hostile_nodes.clone() {
            self.at(Time::ZERO + FROM, Happening::Attack(node));
        }
    }

    pub(super) fn is_hostile(&self, node: usize) -> bool {
        self.hostile.contains_key(&node)
    }

    /// How many identities hostile nodes have had.
    pub(super) fn names(&self) -> u64 {
        self.hostile.values().map(Hostile::names).sum()
    }

    /// The hostile end of a pair, if it has one.
    fn hostile_end(&self, pair: usize) -> Option<usize> {
        self.pairs[pair].ends.into_iter().find(|node| self.is_hostile(*node))
    }

    /// Whether a pair is still dialed: hostile nodes are cut off once all is healed.
    pub(super) fn is_dialed(&self, pair: usize) -> bool {
        let healed = self.now >= Time::ZERO + self.scenario.healed_at();
        !healed || self.hostile_end(pair).is_none()
    }

    /// Connects a pair with a hostile end: either may dial, and both mostly under identities that
    /// the other has not met, so that bans of earlier ones do not matter.
    pub(super) fn dial_hostile(&mut self, pair: usize) -> bool {
        let Some(hostile) = self.hostile_end(pair) else { return false };
        if self.entropy.below(2) == 1 {
            self.pairs[pair].ends.reverse();
        }
        let keep = self.entropy.below(4) == 3;
        let known = self.pairs[pair].names.filter(|_| keep);
        let names = self.hostile.get_mut(&hostile).expect("it is hostile");
        let [own, others] = known.unwrap_or_else(|| [names.new_name(), names.new_name()]);
        self.pairs[pair].names = Some([own, others]);
        let [from, to] = self.pairs[pair].ends;
        let peer = if from == hostile { others } else { own };
        self.command(from, Command::Dial { address: address(to), peer: Some(peer) });
        true
    }

    /// The identity of `node` for the other end of a pair.
    pub(super) fn name(&self, pair: usize, node: usize) -> PeerId {
        match (self.hostile_end(pair), self.pairs[pair].names) {
            (Some(hostile), Some([own, others])) => {
                if node == hostile {
                    own
                } else {
                    others
                }
            }
            _ => self.hosts[node].peer(),
        }
    }

    /// A frame arrives at a node.
    pub(super) fn arriving(&mut self, node: usize, id: ConnectionId, channel: u32, frame: &Frame) {
        if self.hostile.is_empty() {
            return;
        }
        match self.hostile.get_mut(&node) {
            Some(hostile) => hostile.saw(channel, frame),
            None => {
                let config = self.hosts[node].node.config();
                self.permits.arrived((id, node), (channel, frame), config, self.now);
            }
        }
    }

    /// Replaces a frame that a node's core sends.
    pub(super) fn leaving(&mut self, node: usize, channel: u32, frame: Frame) -> Vec<(u32, Frame)> {
        match self.hostile.get_mut(&node) {
            Some(hostile) => hostile.instead(channel, frame, &mut self.entropy),
            None => vec![(channel, frame)],
        }
    }

    /// A hostile node sends an additional frame.
    pub(super) fn attack(&mut self, node: usize) {
        if self.entropy.is_spent() || self.now >= Time::ZERO + self.scenario.healed_at() {
            return;
        }
        let connections = self.network.ids().into_iter().filter(|id| {
            let connection = self.network.get(*id);
            connection.is_some_and(|c| c.ends.contains(&node) && !c.closed[1 - c.end(node)])
        });
        let connections = connections.collect::<Vec<_>>();
        if !connections.is_empty() {
            let id = connections[self.entropy.below(connections.len() as u64) as usize];
            let all = numbers();
            let channel = all[all.len() - 1 - self.entropy.below(all.len() as u64) as usize];
            let hostile = &self.hostile[&node];
            let frame = hostile.attack(channel, &mut self.entropy);
            self.put_on_the_line(node, id, channel, frame);
        }
        let pause = PAUSE.mul_f64(self.entropy.below(256) as f64 / 255.0);
        let at = self.now + pause.max(Duration::from_millis(1));
        self.at(at, Happening::Attack(node));
    }

    /// Whether a hostile node keeps a connection open although its core has closed it.
    pub(super) fn lingers(&mut self, node: usize) -> bool {
        self.is_hostile(node) && self.entropy.below(2) == 1
    }

    /// Cuts hostile nodes off.
    pub(super) fn end_attacks(&mut self) {
        for id in self.network.ids() {
            let Some(connection) = self.network.get(id) else { continue };
            let ends = connection.ends;
            if ends.iter().any(|node| self.is_hostile(*node)) {
                for node in ends {
                    self.at(self.now, Happening::Input(node, Input::Closed { connection: id }));
                }
            }
        }
    }

    /// An honest node sends its last message to another honest one: that must not accuse it of a
    /// violation.
    pub(super) fn look_for_accusations(&mut self, id: ConnectionId, channel: u32, frame: &Frame) {
        let Some(connection) = self.network.get(id) else { return };
        let [a, b] = connection.ends;
        if channel != 0 || self.is_hostile(a) || self.is_hostile(b) {
            return;
        }
        let accusation = match frame.decode() {
            Ok(ControlMessage::Goodbye(Goodbye::Violation(code))) => format!("violation {code}"),
            Ok(ControlMessage::Refuse(Refusal::Banned(_))) => "banned".to_owned(),
            Ok(ControlMessage::Goodbye(Goodbye::Internal)) => "internal error".to_owned(),
            _ => return,
        };
        let what = format!("between the honest nodes {a} and {b}: {accusation}");
        self.broken.get_or_insert_with(|| Broken::new(what));
    }
}
