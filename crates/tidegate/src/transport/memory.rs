//! Nodes of one process without sockets, for tests and examples.
//!
//! # Not guaranteed
//!
//! Delay, loss or proof: identities are believed, and frames arrive at once. For networks with
//! faults there is the simulator (the crate `tidegate-sim`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use multiaddr::{Multiaddr, Protocol};
use tidegate_proto::id::{ConnectionId, DialId, PeerId};
use tidegate_proto::io::{Connected, DialError, Direction, Input};
use tidegate_proto::wire::{Binding, Frame, MAX_FRAME};

use super::{
    Dial, Happening, ListenError, Place, Places, Setup, Traffic, Transport, new_connection_id,
    to_core,
};

/// A network in memory. Transports of one network reach each other at `/memory/…` addresses.
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork(Arc<Mutex<Hub>>);

#[derive(Debug, Default)]
struct Hub {
    listeners: BTreeMap<u64, usize>,
    ends: Vec<End>,
    /// Each side of a connection has a number of its own, as between processes: a node may dial
    /// itself.
    sides: BTreeMap<ConnectionId, Side>,
}

/// The queue of one transport.
#[derive(Debug, Default)]
struct End {
    /// Its identity: within one process it needs no proof.
    peer: Option<PeerId>,
    /// Places for its connections.
    places: Option<Places>,
    inputs: VecDeque<Happening>,
    waker: Option<Waker>,
    gone: bool,
    traffic: Traffic,
}

/// One side of a connection.
#[derive(Debug)]
struct Side {
    /// The transport that it belongs to.
    end: usize,
    other: ConnectionId,
    /// Channels being read.
    open: BTreeSet<u32>,
    /// Frames of channels that are not read yet.
    unread: BTreeMap<u32, Frame>,
    _place: Option<Place>,
}

impl MemoryNetwork {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A transport of this network for a node.
    pub fn transport(&self, setup: &Setup) -> Memory {
        let mut hub = self.lock();
        let (peer, places) = (Some(setup.identity.peer_id()), Some(setup.places.clone()));
        hub.ends.push(End { peer, places, ..End::default() });
        Memory { network: self.clone(), end: hub.ends.len() - 1 }
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    fn give(&mut self, end: usize, happening: impl Into<Happening>) {
        let end = &mut self.ends[end];
        if !end.gone {
            end.inputs.push_back(happening.into());
            end.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        let Some(side) = self.sides.remove(&connection) else { return };
        self.give(side.end, Input::Closed { connection });
        self.close(side.other);
    }

    fn connect(&mut self, from: usize, dial: DialId, address: &Multiaddr, peer: Option<PeerId>) {
        let listener = port(address).and_then(|port| self.listeners.get(&port).copied());
        let listener = listener.filter(|end| !self.ends[*end].gone);
        let error = match listener.map(|end| (end, self.ends[end].peer)) {
            None => DialError::Unreachable,
            Some((_, found)) if peer.is_some() && found != peer => DialError::WrongPeer,
            Some((to, Some(found))) => {
                self.join(from, to, dial, found, address);
                return;
            }
            Some((_, None)) => DialError::Unreachable,
        };
        self.give(from, Input::DialFailed { dial, error });
    }

    fn join(&mut self, from: usize, to: usize, dial: DialId, found: PeerId, address: &Multiaddr) {
        let Some(dialer) = self.ends[from].peer else { return };
        let accepted = self.ends[to].places.as_ref().map(Places::take);
        if let Some(None) = accepted {
            let error = DialError::because("there is no room for another connection");
            return self.give(from, Input::DialFailed { dial, error });
        }
        let places = [self.ends[from].places.as_ref().map(Places::add), accepted.flatten()];
        let (near, far) = (new_connection_id(), new_connection_id());
        let mut exporter = [0; 32];
        exporter[..8].copy_from_slice(&near.0.to_be_bytes());
        let connected = |connection, peer, direction, address| {
            Input::Connected(Connected::new(
                connection,
                peer,
                direction,
                to_core(&address),
                Binding::Exporter(exporter),
            ))
        };
        let side = |end, other, place| Side {
            end,
            other,
            open: [0].into(),
            unread: BTreeMap::new(),
            _place: place,
        };
        let [dialing, accepting] = places;
        self.sides.insert(near, side(from, far, dialing));
        self.sides.insert(far, side(to, near, accepting));
        let back = Multiaddr::from(Protocol::Memory(from as u64 + DIALER_PORTS));
        self.give(from, connected(near, found, Direction::Outbound(dial), address.clone()));
        self.give(to, connected(far, dialer, Direction::Inbound, back));
    }
}

/// The connection of an event.
fn connection_of(happening: &Happening) -> Option<ConnectionId> {
    match happening {
        Happening::Input(
            Input::Frame { connection, .. }
            | Input::Writable { connection, .. }
            | Input::Closed { connection },
        ) => Some(*connection),
        _ => None,
    }
}

/// Addresses of dialers: no node listens there.
const DIALER_PORTS: u64 = 1 << 32;

/// The transport of one node of a [`MemoryNetwork`].
#[derive(Debug)]
pub struct Memory {
    network: MemoryNetwork,
    end: usize,
}

fn port(address: &Multiaddr) -> Option<u64> {
    let mut parts = address.iter();
    match (parts.next(), parts.next()) {
        (Some(Protocol::Memory(port)), None) => Some(port),
        _ => None,
    }
}

impl Transport for Memory {
    fn handles(&self, address: &Multiaddr) -> bool {
        port(address).is_some()
    }

    fn listen(&mut self, address: &Multiaddr) -> Result<(), ListenError> {
        let asked = port(address).ok_or_else(|| ListenError::Unsupported(address.clone()))?;
        let mut hub = self.network.lock();
        let free = |port: &u64| !hub.listeners.contains_key(port);
        // Port 0 is any, as with sockets.
        let port = if asked == 0 { (1..DIALER_PORTS).find(free) } else { Some(asked).filter(free) };
        let port = port.ok_or_else(|| ListenError::Io {
            address: address.clone(),
            source: std::io::ErrorKind::AddrInUse.into(),
        })?;
        hub.listeners.insert(port, self.end);
        hub.give(self.end, Happening::Addresses);
        Ok(())
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        let hub = self.network.lock();
        let own = hub.listeners.iter().filter(|(_, end)| **end == self.end);
        own.map(|(port, _)| Protocol::Memory(*port).into()).collect()
    }

    fn dial(&mut self, dial: Dial) {
        self.network.lock().connect(self.end, dial.id, &dial.address, dial.peer);
    }

    fn cancel(&mut self, dial: DialId) {
        // Dials end at once, and the result may still be in the queue.
        let mut hub = self.network.lock();
        let mut undone = Vec::new();
        hub.ends[self.end].inputs.retain(|happening| match happening {
            Happening::Input(Input::DialFailed { dial: failed, .. }) => *failed != dial,
            Happening::Input(Input::Connected(up)) if up.direction == Direction::Outbound(dial) => {
                undone.push(up.connection);
                false
            }
            _ => true,
        });
        for connection in undone {
            hub.close(connection);
            hub.ends[self.end]
                .inputs
                .retain(|happening| connection_of(happening) != Some(connection));
        }
    }

    fn send(&mut self, connection: ConnectionId, channel: u32, frame: Frame) {
        let mut hub = self.network.lock();
        let Some(connection) = hub.sides.get(&connection).map(|side| side.other) else { return };
        let Some(receiver) = hub.sides.get_mut(&connection) else { return };
        if frame.len() > MAX_FRAME {
            return hub.close(connection);
        }
        let length = frame.len() as u64;
        if receiver.open.contains(&channel) {
            let end = receiver.end;
            hub.give(end, Input::Frame { connection, channel, frame });
        } else {
            receiver.unread.insert(channel, frame);
        }
        hub.ends[self.end].traffic.sent += length;
    }

    fn open(&mut self, connection: ConnectionId, channel: u32) {
        let mut hub = self.network.lock();
        let Some(side) = hub.sides.get_mut(&connection) else { return };
        side.open.insert(channel);
        if let Some(frame) = side.unread.remove(&channel) {
            hub.give(self.end, Input::Frame { connection, channel, frame });
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        self.network.lock().close(connection);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        let mut hub = self.network.lock();
        let Some(happening) = hub.ends[self.end].inputs.pop_front() else {
            hub.ends[self.end].waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        // The sender may send the next frame once this one has been taken.
        if let Happening::Input(Input::Frame { connection, channel, frame }) = &happening {
            hub.ends[self.end].traffic.received += frame.len() as u64;
            if let Some(sender) = hub.sides.get(connection).map(|side| side.other)
                && let Some(end) = hub.sides.get(&sender).map(|side| side.end)
            {
                hub.give(end, Input::Writable { connection: sender, channel: *channel });
            }
        }
        Poll::Ready(happening)
    }

    fn traffic(&self) -> Traffic {
        self.network.lock().ends[self.end].traffic
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut hub = self.network.lock();
        hub.ends[self.end].gone = true;
        hub.ends[self.end].inputs.clear();
        hub.listeners.retain(|_, end| *end != self.end);
        let own = hub.sides.iter().filter(|(_, side)| side.end == self.end).map(|(id, _)| *id);
        own.collect::<Vec<_>>().into_iter().for_each(|connection| hub.close(connection));
    }
}
