//! Connections between simulated nodes: delay, bandwidth, and faults.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tidegate_proto::Time;
use tidegate_proto::id::ConnectionId;
use tidegate_proto::io::Input;
use tidegate_proto::wire::Frame;

/// The overhead of a frame: its length, and headers and acknowledgements of its packet.
const OVERHEAD: usize = 60;

/// All connections of a world.
#[derive(Debug, Default)]
pub(crate) struct Network {
    connections: BTreeMap<ConnectionId, Connection>,
    next: u64,
}

/// A connection, whose dialer is end 0.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: [usize; 2],
    pub(crate) delay: Duration,
    kbit: u64,
    /// Both directions, by the sending end.
    ways: [Way; 2],
    /// The end has been told that the connection is closed.
    pub(crate) closed: [bool; 2],
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Way {
    /// When the line is free again.
    free_at: Time,
    /// Nothing passes before then.
    blocked_until: Time,
    /// Inputs held back, in order, with the receiving node.
    held: VecDeque<(usize, Input)>,
    /// Channels that the receiver reads.
    open: BTreeSet<u32>,
    unread: BTreeMap<u32, VecDeque<Frame>>,
}

/// What to do with inputs that were held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    Now(usize, Input),
    Later(Time),
    Empty,
}

impl Network {
    /// Adds a connection. Control is read from the start.
    pub(crate) fn connect(&mut self, ends: [usize; 2], delay: Duration, kbit: u64) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        let way = || Way { open: [0].into(), ..Way::default() };
        let ways = [way(), way()];
        self.connections.insert(id, Connection { ends, delay, kbit, ways, closed: [false; 2] });
        id
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        self.connections.keys().copied().collect()
    }

    /// Removes a connection once both ends know that it is closed.
    pub(crate) fn forget(&mut self, id: ConnectionId) {
        if self.connections.get(&id).is_some_and(|connection| connection.closed == [true; 2]) {
            self.connections.remove(&id);
        }
    }

    /// Blocks one direction between two nodes, on all their connections.
    pub(crate) fn block(&mut self, from: usize, to: usize, until: Time) {
        for connection in self.connections.values_mut() {
            for end in [0, 1] {
                if connection.ends[end] == from && connection.ends[1 - end] == to {
                    connection.block(end, until);
                }
            }
        }
    }
}

impl Connection {
    /// Which end a node has.
    pub(crate) fn end(&self, node: usize) -> usize {
        usize::from(self.ends[0] != node)
    }

    /// Puts a frame on the line; returns when the line is free again, and when the frame arrives.
    pub(crate) fn send(&mut self, end: usize, length: usize, now: Time) -> (Time, Time) {
        let way = &mut self.ways[end];
        let bits = (length + OVERHEAD) as u64 * 8;
        let sending = (bits * 1000).checked_div(self.kbit).unwrap_or(0);
        let start = now.max(way.free_at).max(way.blocked_until);
        way.free_at = start + Duration::from_micros(sending);
        (way.free_at, way.free_at + self.delay)
    }

    /// Blocks one direction until a time.
    pub(crate) fn block(&mut self, end: usize, until: Time) {
        let way = &mut self.ways[end];
        way.blocked_until = way.blocked_until.max(until);
    }

    /// Holds an input back if it cannot pass now; returns when to call [`Connection::release`].
    /// `None` if it passes. Inputs behind one that is held back are held back too.
    pub(crate) fn hold(
        &mut self,
        end: usize,
        node: usize,
        input: &Input,
        now: Time,
    ) -> Option<Time> {
        let way = &mut self.ways[end];
        if way.blocked_until <= now && way.held.is_empty() {
            return None;
        }
        way.held.push_back((node, input.clone()));
        Some(way.blocked_until.max(now))
    }

    /// The next input that was held back, if it may pass now; or when it may.
    pub(crate) fn release(&mut self, end: usize, now: Time) -> Release {
        let way = &mut self.ways[end];
        if !way.held.is_empty() && way.blocked_until > now {
            return Release::Later(way.blocked_until);
        }
        let next = way.held.pop_front();
        next.map_or(Release::Empty, |(node, input)| Release::Now(node, input))
    }

    /// Ends all blocks.
    pub(crate) fn heal(&mut self, now: Time) {
        for way in &mut self.ways {
            way.blocked_until = way.blocked_until.min(now);
        }
    }

    /// A frame from `end` arrives; returns whether the receiver reads its channel. If not, it is
    /// kept.
    pub(crate) fn arrive(&mut self, end: usize, channel: u32, frame: &Frame) -> bool {
        let way = &mut self.ways[end];
        let reads = way.open.contains(&channel);
        if !reads {
            way.unread.entry(channel).or_default().push_back(frame.clone());
        }
        reads
    }

    /// The node at `end` starts reading a channel; returns what has arrived on it.
    pub(crate) fn open(&mut self, end: usize, channel: u32) -> VecDeque<Frame> {
        let way = &mut self.ways[1 - end];
        way.open.insert(channel);
        way.unread.remove(&channel).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    #[test]
    fn a_line_takes_its_time_exactly() {
        let mut network = Network::default();
        let id = network.connect([3, 5], Duration::from_millis(50), 1000);
        let connection = network.get_mut(id).unwrap();
        assert_eq!((connection.end(3), connection.end(5)), (0, 1));
        // 65 + 60 bytes are 1,000 bits: a millisecond at 1 Mbit/s.
        assert_eq!(connection.send(0, 65, at(0)), (at(1), at(51)));
        assert_eq!(connection.send(0, 65, at(0)), (at(2), at(52)));
        assert_eq!(connection.send(1, 65, at(0)), (at(1), at(51)));
        connection.block(0, at(100));
        assert_eq!(connection.send(0, 65, at(10)), (at(101), at(151)));
        let id = network.connect([0, 1], Duration::from_millis(50), 0);
        assert_eq!(network.get_mut(id).unwrap().send(0, 1 << 20, at(7)), (at(7), at(57)));
    }

    #[test]
    fn blocked_inputs_keep_their_order() {
        let mut network = Network::default();
        let id = network.connect([0, 1], Duration::ZERO, 0);
        let connection = network.get_mut(id).unwrap();
        let input = |channel| Input::Writable { connection: id, channel };
        assert_eq!(connection.hold(0, 1, &input(1), at(5)), None);
        connection.block(0, at(100));
        assert_eq!(connection.hold(0, 1, &input(2), at(10)), Some(at(100)));
        assert_eq!(connection.release(0, at(10)), Release::Later(at(100)));
        connection.heal(at(20));
        // What arrives after the healing, but before the release, stays behind what was held back.
        assert_eq!(connection.hold(0, 1, &input(3), at(20)), Some(at(20)));
        assert_eq!(connection.release(0, at(20)), Release::Now(1, input(2)));
        assert_eq!(connection.release(0, at(20)), Release::Now(1, input(3)));
        assert_eq!(connection.release(0, at(20)), Release::Empty);
        assert_eq!(connection.hold(0, 1, &input(4), at(20)), None);
    }

    #[test]
    fn unread_frames_wait() {
        let mut network = Network::default();
        let id = network.connect([0, 1], Duration::ZERO, 0);
        let connection = network.get_mut(id).unwrap();
        let frame = Frame::from(bytes::Bytes::from_static(b"x"));
        assert!(connection.arrive(0, 0, &frame));
        assert!(!connection.arrive(0, 16, &frame));
        assert_eq!(connection.open(1, 16).len(), 1);
        assert!(connection.arrive(0, 16, &frame));
        assert!(!connection.arrive(1, 16, &frame), "the other direction is another matter");
    }
}
