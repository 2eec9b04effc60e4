//! WebRTC, by str0m: for nodes without an open port, and for browsers.
//!
//! Each channel is a negotiated data channel with its number (specification section 19). A connection begins with an
//! offer and an answer that are carried in another way: this transport makes and takes [`Description`]s
//! ([`Input::Described`], [`Transport::describe`]), and knows nothing of how they travel, nor who made them.
//!
//! A task of its own has the sockets and the connections; frames that the node does not ask for stay where the peer's
//! credits bound them.
//!
//! # Not guaranteed
//!
//! Speed over long distances: SCTP's congestion control in str0m takes losses hard. Bulk goes better over QUIC.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use multiaddr::{Multiaddr, Protocol};
use tidegate_proto::id::{ConnectionId, DialId, PeerId};
use tidegate_proto::io::{DialError, Direction, Exchange, Input};
use tidegate_proto::wire::{Description, Frame, MAX_OFFERS};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;

use super::form::Form;
use super::outbox::Outbox;
use super::{BoxFuture, Dial, Happening, ListenError, Setup, Traffic, Transport};
use crate::rt;

mod engine;
mod session;
mod socket;
mod stun;

use engine::{Engine, Order};
use session::Common;
use socket::Socket;

/// WebRTC's data channels, on one UDP socket for each listener.
pub struct WebRtc {
    orders: UnboundedSender<Order>,
    outbox: Arc<Outbox>,
    listeners: Vec<SocketAddr>,
    /// Dials of whose end the node has not been told.
    dials: BTreeSet<DialId>,
    /// Connections of dials that were cancelled, until they are closed.
    unwanted: BTreeSet<ConnectionId>,
}

impl WebRtc {
    /// A transport for a node. To be called within a runtime.
    pub fn new(setup: &Setup) -> Self {
        let common = Common::new(MAX_OFFERS as u32);
        let (orders, inbox) = mpsc::unbounded_channel();
        let outbox = Arc::new(Outbox::default());
        let engine = Engine::new(common, inbox, outbox.clone(), setup.places.clone());
        rt::spawn(engine.run());
        Self {
            orders,
            outbox,
            listeners: Vec::new(),
            dials: BTreeSet::new(),
            unwanted: BTreeSet::new(),
        }
    }

    fn order(&self, order: Order) {
        // The task ends only when this is dropped or shut down.
        let _ = self.orders.send(order);
    }
}

impl WebRtc {
    /// Whether the node is to be told: not of dials that it has cancelled, nor of connections that came of them.
    fn is_current(&mut self, happening: &Happening) -> bool {
        match happening {
            Happening::Input(Input::DialFailed { dial, .. }) => self.dials.remove(dial),
            Happening::Input(Input::Described { exchange: Exchange::Dialed(dial), .. }) => {
                self.dials.contains(dial)
            }
            Happening::Input(Input::Connected(up)) => match up.direction {
                Direction::Outbound(dial) if !self.dials.remove(&dial) => {
                    self.unwanted.insert(up.connection);
                    self.order(Order::Close(up.connection));
                    false
                }
                _ => true,
            },
            Happening::Input(Input::Closed { connection }) => !self.unwanted.remove(connection),
            Happening::Input(
                Input::Frame { connection, .. } | Input::Writable { connection, .. },
            ) => !self.unwanted.contains(connection),
            _ => true,
        }
    }
}

impl Transport for WebRtc {
    fn handles(&self, address: &Multiaddr) -> bool {
        address.iter().last() == Some(Protocol::WebRTC)
    }

    fn listen(&mut self, address: &Multiaddr) -> Result<(), ListenError> {
        let at = Form::WebRtc
            .socket(address)
            .ok_or_else(|| ListenError::Unsupported(address.clone()))?;
        let failed = |source| ListenError::Io { address: address.clone(), source };
        let socket = Socket::bind(at).map_err(failed)?;
        self.listeners.push(socket.address);
        self.order(Order::Listen(Box::new(socket)));
        self.outbox.give(Happening::Addresses);
        Ok(())
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        self.listeners.iter().copied().map(|socket| Form::WebRtc.address(socket)).collect()
    }

    fn dial(&mut self, dial: Dial) {
        self.dials.insert(dial.id);
        if !self.handles(&dial.address) {
            let error = DialError::Unreachable;
            return self.outbox.give(Input::DialFailed { dial: dial.id, error });
        }
        self.order(Order::Dial { id: dial.id, peer: dial.peer, patience: dial.patience });
    }

    fn cancel(&mut self, dial: DialId) {
        if self.dials.remove(&dial) {
            self.order(Order::Cancel(dial));
        }
    }

    fn describe(&mut self, exchange: Exchange, from: PeerId, description: Description) {
        self.order(Order::Describe(exchange, from, description));
    }

    fn takes_offers(&self) -> bool {
        true
    }

    fn send(&mut self, connection: ConnectionId, channel: u32, frame: Frame) {
        self.order(Order::Send(connection, channel, frame));
    }

    fn open(&mut self, connection: ConnectionId, channel: u32) {
        self.order(Order::Open(connection, channel));
    }

    fn close(&mut self, connection: ConnectionId) {
        self.order(Order::Close(connection));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        loop {
            let happening = std::task::ready!(self.outbox.poll(cx));
            if self.is_current(&happening) {
                return Poll::Ready(happening);
            }
        }
    }

    fn shut_down(&mut self) -> BoxFuture<()> {
        let (done, ended) = oneshot::channel();
        self.order(Order::ShutDown(done));
        Box::pin(async move {
            // An error means that it has ended.
            let _ = ended.await;
        })
    }

    fn traffic(&self) -> Traffic {
        self.outbox.traffic()
    }
}
