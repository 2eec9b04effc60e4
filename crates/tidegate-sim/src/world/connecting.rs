//! Dials, and connections as the lines carry them.

use std::time::Duration;

use tidegate_proto::id::{Address, ConnectionId, DialId};
use tidegate_proto::io::{Connected, DialError, Direction, Input, Path};
use tidegate_proto::wire::Binding;

use super::{Happening, World};
use crate::places::{address, listener, node_at};

impl World {
    pub(super) fn dial(
        &mut self,
        node: usize,
        dial: DialId,
        address: &Address,
        patience: Duration,
    ) {
        let to = node_at(address);
        let pair = self.pair(node, to);
        if self.is_unreachable(node, to) {
            let at = self.now + patience;
            let failed = Input::DialFailed { dial, error: DialError::TimedOut };
            self.pairs[pair].dial = Some(dial);
            self.at(at, Happening::Input(node, failed));
            return;
        }
        let path = self.path();
        let id = self.connect([node, to], dial, self.pairs[pair].delay, path);
        self.pairs[pair].connection = Some(id);
    }

    pub(super) fn connect(
        &mut self,
        [node, to]: [usize; 2],
        dial: DialId,
        delay: Duration,
        path: Path,
    ) -> ConnectionId {
        let names = match self.pair_index.get(&[node, to]).copied() {
            Some(pair) => [self.name(pair, node), self.name(pair, to)],
            None => [node, to].map(|node| self.hosts[node].peer()),
        };
        let id = self.network.connect([node, to], delay, self.scenario.links.kbit);
        for (from, to) in [(node, to), (to, node)] {
            if let Some(until) = self.deaf.get(&to).copied() {
                self.network.block(from, to, until);
            }
        }
        let mut exporter = [0; 32];
        exporter[..8].copy_from_slice(&id.0.to_be_bytes());
        let connected = |other: usize, peer, direction: Direction| {
            Input::Connected(
                Connected::new(id, peer, direction, address(other), Binding::Exporter(exporter))
                    .from_listener((!direction.is_inbound()).then(listener))
                    .by(path),
            )
        };
        let outbound = connected(to, names[1], Direction::Outbound(dial));
        let inbound = connected(node, names[0], Direction::Inbound);
        // As with QUIC: the dialer is connected after a round trip, the listener half of one later.
        let at = self.now + delay * 2;
        self.at(at, Happening::Input(node, outbound));
        self.at(at + delay, Happening::Input(to, inbound));
        id
    }

    pub(super) fn open(&mut self, node: usize, id: ConnectionId, channel: u32) {
        let Some(connection) = self.network.get_mut(id) else { return };
        let end = connection.end(node);
        for frame in connection.open(end, channel) {
            let input = Input::Frame { connection: id, channel, frame };
            self.at(self.now, Happening::Input(node, input));
        }
    }

    pub(super) fn close(&mut self, node: usize, id: ConnectionId) {
        let lingers = self.lingers(node);
        self.permits.ended((id, node));
        let Some(connection) = self.network.get_mut(id) else { return };
        let end = connection.end(node);
        let other = connection.ends[1 - end];
        if !lingers {
            let (_, arrives) = connection.send(end, 0, self.now);
            self.at(arrives, Happening::Input(other, Input::Closed { connection: id }));
        }
        // Its own end is closed at once, whatever is still leaving.
        self.network.get_mut(id).into_iter().for_each(|c| c.closed[end] = true);
        self.hosts[node].input(self.now, Input::Closed { connection: id });
        self.network.forget(id);
        if self.pairs.iter().any(|pair| pair.connection == Some(id) && pair.ends[0] == node) {
            self.lost(id);
        }
    }
}
