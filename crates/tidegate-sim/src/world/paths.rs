//! Pairs with several connections: dialed again by better and worse paths, from either end or from both at once.

use tidegate_proto::id::ConnectionId;
use tidegate_proto::io::{Command, Path};

use super::World;
use crate::places::address;

impl World {
    /// These ends of a pair dial the other, whether or not they are connected.
    pub(super) fn second_dial(&mut self, pair: usize, by: [bool; 2]) {
        let [a, b] = self.pairs[pair].ends;
        for (from, to, dials) in [(a, b, by[0]), (b, a, by[1])] {
            if dials {
                let peer = Some(self.hosts[to].peer());
                self.command(from, Command::Dial { address: address(to), peer });
            }
        }
    }

    /// The path of a new connection.
    pub(super) fn path(&mut self) -> Path {
        self.paths.as_mut().map_or(Path::Direct, |paths| {
            [Path::Relayed, Path::Adapted, Path::Direct][paths.below(3) as usize]
        })
    }

    /// One of the connections of a pair, if there may be several.
    pub(super) fn any_between(&mut self, pair: usize) -> Option<ConnectionId> {
        let several = self.between(pair);
        let paths = self.paths.as_mut().filter(|_| !several.is_empty())?;
        several.get(paths.below(several.len() as u64) as usize).copied()
    }

    /// The connections of a pair that neither end has closed, if there may be several.
    pub(super) fn between(&self, pair: usize) -> Vec<ConnectionId> {
        if self.paths.is_none() {
            return Vec::new();
        }
        let [a, b] = self.pairs[pair].ends;
        let ids = self.network.ids().into_iter();
        let is = |id: &ConnectionId| {
            let connection = self.network.get(*id);
            connection.is_some_and(|connection| {
                let [dialer, listener] = connection.ends;
                let same = [dialer, listener] == [a, b] || [listener, dialer] == [a, b];
                same && connection.closed == [false; 2]
            })
        };
        ids.filter(is).collect()
    }
}
