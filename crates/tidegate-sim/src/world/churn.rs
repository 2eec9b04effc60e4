//! Churn: processes that die and restart, with their store or without; nodes that find each other.

use std::time::Duration;

use tidegate_proto::io::{Command, Input};
use tidegate_proto::recording;

use super::{Happening, Pair, World};
use crate::places::listening;

/// How long a disk takes to make a write durable.
const SYNC: Duration = Duration::from_millis(3);

impl World {
    /// Tells all nodes their listeners.
    pub(super) fn begin_finding(&mut self) {
        for node in 0..self.hosts.len() {
            self.command(node, listening(node));
        }
    }

    /// The pair of two nodes, of which the first dials.
    pub(super) fn pair(&mut self, from: usize, to: usize) -> usize {
        if let Some(pair) = self.pair_index.get(&[from, to]) {
            return *pair;
        }
        // Where pairs have several connections, either end's dials are the pair's.
        let reverse = self.pair_index.get(&[to, from]).filter(|_| self.paths.is_some());
        if let Some(pair) = reverse {
            return *pair;
        }
        // The same delay in both directions, and in every run of the seed.
        let delay = match self.pair_index.get(&[to, from]) {
            Some(other) => self.pairs[*other].delay,
            None => {
                let links = &self.scenario.links;
                let least = Duration::from_millis(links.least_delay_ms);
                let most = Duration::from_millis(links.most_delay_ms);
                self.entropy.between(least, most)
            }
        };
        let pair = Pair { ends: [from, to], delay, connection: None, dial: None, names: None };
        self.pairs.push(pair);
        self.pair_index.insert([from, to], self.pairs.len() - 1);
        self.pairs.len() - 1
    }

    /// The process of a node dies or shuts down.
    pub(super) fn down(&mut self, node: usize, keeps: bool, orderly: bool) {
        if !self.hosts[node].up {
            return;
        }
        if orderly {
            self.command(node, Command::Shutdown);
        }
        let host = &mut self.hosts[node];
        host.up = false;
        host.life += 1;
        host.timer = None;
        host.disk.book = host.node.peer_book();
        if orderly {
            host.disk.sync();
        }
        host.disk.lose_pending();
        if !keeps {
            host.disk = Default::default();
        }
        for id in self.network.ids() {
            let Some(connection) = self.network.get_mut(id) else { continue };
            if connection.ends.contains(&node) {
                let end = connection.end(node);
                // Its peers notice nothing, unless it said goodbye.
                connection.closed[end] = true;
                self.network.forget(id);
            }
        }
    }

    /// The process of a node starts again.
    pub(super) fn up(&mut self, node: usize) {
        if self.hosts[node].up {
            return;
        }
        let seed = self.entropy.number();
        let items = self.hosts[node].restart(seed, self.now, &self.scenario, &self.first);
        if let Some(trace) = &mut self.trace {
            recording::TraceHash::number(trace, seed);
        }
        self.command(node, listening(node));
        for (pool, body) in items {
            for command in self.hosts[node].offer_again(pool, body) {
                self.command(node, command);
            }
        }
        self.set_timer(node);
    }

    /// A node writes to its disk.
    pub(super) fn keep(&mut self, node: usize, request: u64, write: tidegate_proto::io::Write) {
        if self.hosts[node].disk.keep(request, write) {
            let at = self.now + SYNC;
            self.at(at, Happening::Synced(node));
        }
    }

    pub(super) fn synced(&mut self, node: usize) {
        if let Some(request) = self.hosts[node].disk.sync() {
            self.command(node, Command::Stored { request });
        }
    }

    /// Whether a dial cannot succeed: it ends by its timeout.
    pub(super) fn is_unreachable(&self, from: usize, to: usize) -> bool {
        let crossing = self.cut_off.contains(&from) != self.cut_off.contains(&to);
        crossing && self.now < self.partition_until
            || !self.hosts.get(to).is_some_and(|host| host.up)
    }

    /// Whether an event is for the process of a node that is running now.
    pub(super) fn is_for(&self, happening: &Happening, life: u32) -> bool {
        match happening.node() {
            Some(node) => {
                let ends = matches!(happening, Happening::Input(_, Input::Closed { .. }));
                self.hosts[node].life == life && self.hosts[node].up || ends
            }
            None => true,
        }
    }
}

impl Happening {
    /// The node whose process the event is for.
    pub(super) fn node(&self) -> Option<usize> {
        match self {
            Self::Input(node, _)
            | Self::Timer(node)
            | Self::Verdict(node, ..)
            | Self::Synced(node)
            | Self::Prove(node, _) => Some(*node),
            _ => None,
        }
    }
}
