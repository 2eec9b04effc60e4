//! Requests and answers (specification section 16).
//!
//! ```text
//! A → B   Request     numbered by A; as many without an answer as B allows
//!         Cancel
//! B → A   Headers, or Block and Chunks, or Failed
//! ```
//!
//! This file has the side that asks; `serve` answers.

mod serve;

pub(crate) use self::serve::{loaded, next_turn};

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use self::serve::{Loads, Serving};
use crate::block::{body, sync};
use crate::channel::{Channel as ChannelTrait, Context};
use crate::chunk::{self, Receiving};
use crate::config::Config;
use crate::id::ConnectionId;
use crate::link::Instance;
use crate::permit::Terms;
use crate::rules::Rules;
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{
    BlockBody, Body, Frame, MAX_FRAME, Offer, RpcBlock, RpcFailed, RpcHeaders, RpcMessage,
    RpcRequest, RpcWant, RpcWantKind,
};

/// Open requests per peer, from its hello on. R16.1
pub(crate) const REQUESTS: usize = 4;

/// How long a request may wait behind others that make progress.
const QUEUED: Duration = Duration::from_secs(60);

/// Requests of this node and of its peers.
#[derive(Debug, Default)]
pub(crate) struct Rpc {
    links: BTreeMap<ConnectionId, RpcLink>,
    loads: Loads,
    /// Peers waiting to be served a block, in order of arrival.
    queue: VecDeque<ConnectionId>,
}

#[derive(Debug)]
struct RpcLink {
    at: Instance,
    /// The number of the next request, and the open ones.
    next: u32,
    open: BTreeMap<u32, Open>,
    to_send: VecDeque<RpcRequest>,
    to_cancel: VecDeque<u32>,
    /// A block arriving in chunks.
    incoming: Option<Incoming>,
    /// The peer's requests.
    serving: Serving,
}

/// A block in transfer.
#[derive(Debug)]
struct Incoming {
    id: u32,
    /// `None` if it is no longer wanted.
    body: Option<Receiving>,
    /// Chunks still to come.
    left: usize,
}

/// An open request.
#[derive(Debug)]
struct Open {
    want: RpcWant,
    asked: Time,
    /// When it left.
    sent: Option<Time>,
    /// When it times out.
    until: Time,
    /// No longer wanted; its place is free when the peer confirms.
    cancelled: bool,
}

impl RpcLink {
    /// Something arrived: restarts the timeout of what is arriving, and for a while of those
    /// waiting behind it, since a peer answers requests in order.
    fn moves(&mut self, now: Time, patience: Duration) {
        let coming = self.incoming.as_ref().map(|incoming| incoming.id);
        for (id, open) in &mut self.open {
            let most = if coming == Some(*id) { now + patience } else { open.asked + QUEUED };
            open.until = open.until.max(most.min(now + patience));
        }
    }
}

impl Rpc {
    /// Whether a peer can be asked for something more.
    pub(crate) fn has_room(&self, connection: ConnectionId) -> bool {
        self.links.get(&connection).is_some_and(|side| side.open.len() < REQUESTS)
    }

    /// Open requests to a peer.
    pub(crate) fn open(&self, connection: ConnectionId) -> usize {
        self.links.get(&connection).map_or(0, |side| side.open.len())
    }

    /// Whether headers are requested from a peer.
    pub(crate) fn asks_headers(&self, connection: ConnectionId) -> bool {
        let open = self.links.get(&connection).into_iter().flat_map(|side| side.open.values());
        open.filter(|open| !open.cancelled).any(|open| open.want.kind() == RpcWantKind::Headers)
    }

    /// Whether all places are taken by cancelled requests that the peer has never ended.
    pub(crate) fn is_unresponsive(&self, connection: ConnectionId) -> bool {
        let unresponsive = |side: &RpcLink| {
            side.open.len() >= REQUESTS && side.open.values().all(|open| open.cancelled)
        };
        self.links.get(&connection).is_some_and(unresponsive)
    }

    /// When [`expire`] is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let open = self.links.values().flat_map(|side| side.open.values());
        open.filter(|open| !open.cancelled).map(|open| open.until).min()
    }
}

/// Sends a request, if the peer has room for it.
pub(crate) fn ask(cx: &mut Context, connection: ConnectionId, want: RpcWant) -> bool {
    if !cx.rpc.has_room(connection) {
        return false;
    }
    let now = cx.now;
    let until = now + cx.config.limits.rpc_patience;
    let Some(asked) = cx.rpc.links.get_mut(&connection) else { return false };
    let id = asked.next;
    asked.next += 1;
    asked
        .open
        .insert(id, Open { want: want.clone(), asked: now, sent: None, until, cancelled: false });
    asked.to_send.push_back(RpcRequest { id, want });
    cx.links.wake(connection, asked.at.slot);
    true
}

/// Cancels a request.
pub(crate) fn cancel(cx: &mut Context, connection: ConnectionId, want: &RpcWant) {
    let Some(asked) = cx.rpc.links.get_mut(&connection) else { return };
    let mut open = asked.open.iter_mut().filter(|(_, open)| !open.cancelled);
    let Some((id, open)) = open.find(|(_, open)| open.want == *want) else { return };
    open.cancelled = true;
    let id = *id;
    let waiting = asked.to_send.len();
    asked.to_send.retain(|request| request.id != id);
    if asked.to_send.len() < waiting {
        // It has not left yet.
        asked.open.remove(&id);
        return;
    }
    if let Some(incoming) = asked.incoming.as_mut().filter(|incoming| incoming.id == id) {
        incoming.body = None;
    }
    asked.to_cancel.push_back(id);
    cx.links.wake(connection, asked.at.slot);
}

/// Times out requests.
pub(crate) fn expire(cx: &mut Context) {
    let mut late = Vec::new();
    for (id, side) in &cx.rpc.links {
        let open = side.open.values().filter(|open| !open.cancelled && open.until <= cx.now);
        late.extend(open.map(|open| (*id, open.want.clone())));
    }
    for (connection, want) in late {
        cancel(cx, connection, &want);
        sync::failed(cx, connection, &want, true);
    }
}

/// The rpc channel.
pub(crate) struct Channel;

impl ChannelTrait for Channel {
    const NAME: &'static str = "rpc";
    const FIXED: Option<u32> = Some(2);
    const MAX_FRAME: usize = MAX_FRAME;
    type Message = RpcMessage;

    fn offers(_: &Config, _: &dyn Rules) -> Vec<Offer> {
        // Its number is fixed.
        Vec::new()
    }

    fn on_up(cx: &mut Context, at: Instance, _: &Terms) {
        let side = RpcLink {
            at,
            next: 0,
            open: BTreeMap::new(),
            to_send: VecDeque::new(),
            to_cancel: VecDeque::new(),
            incoming: None,
            serving: Serving::default(),
        };
        cx.rpc.links.insert(at.link, side);
    }

    fn on_down(cx: &mut Context, at: Instance) {
        cx.rpc.links.remove(&at.link);
        serve::link_down(cx, at.link);
        sync::link_down(cx, at.link);
    }

    fn was_asked(message: &RpcMessage) -> bool {
        !matches!(message, RpcMessage::Request(_) | RpcMessage::Cancel(_))
    }

    fn on_message(cx: &mut Context, at: Instance, message: RpcMessage) -> Result<(), Violation> {
        match message {
            RpcMessage::Request(request) => serve::on_request(cx, at, request),
            RpcMessage::Cancel(id) => serve::on_cancel(cx, at, id),
            RpcMessage::Headers(RpcHeaders { id, headers }) => {
                let want = answered(cx, at, id, RpcWantKind::Headers)?;
                match want {
                    Some(RpcWant::Headers(want)) => sync::headers(cx, at.link, &want, headers),
                    _ => Ok(()),
                }
            }
            RpcMessage::Block(RpcBlock { id, body }) => on_block(cx, at, id, body),
            RpcMessage::Chunk(chunk) => on_chunk(cx, at, &chunk),
            RpcMessage::Failed(RpcFailed { id, .. }) => {
                let side = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
                side.incoming.take_if(|incoming| incoming.id == id);
                if let Some(want) = finished(cx, at, id)? {
                    sync::failed(cx, at.link, &want, false);
                }
                Ok(())
            }
        }
    }

    fn poll_message(cx: &mut Context, at: Instance) -> Option<RpcMessage> {
        let up = cx.links.get(at.link)?.up;
        let side = cx.rpc.links.get_mut(&at.link)?;
        if let Some(id) = side.to_cancel.pop_front() {
            return Some(RpcMessage::Cancel(id));
        }
        if up && let Some(request) = side.to_send.pop_front() {
            if let Some(open) = side.open.get_mut(&request.id) {
                open.sent = Some(cx.now);
            }
            return Some(RpcMessage::Request(request));
        }
        serve::poll_answer(cx, at)
    }

    fn deadline(cx: &Context, at: Instance) -> Option<Time> {
        serve::deadline(cx, at)
    }

    fn awaited_since(cx: &Context, at: Instance) -> Option<Time> {
        let open = cx.rpc.links.get(&at.link)?.open.values();
        open.filter(|open| !open.cancelled).filter_map(|open| open.sent).min()
    }

    fn is_owed(cx: &Context, at: Instance) -> bool {
        cx.rpc.links.get(&at.link).is_some_and(|side| side.serving.owes())
    }

    fn due(cx: &Context, _: usize) -> Option<Time> {
        cx.rpc.deadline()
    }

    fn expire(cx: &mut Context, _: usize) {
        expire(cx);
    }
}

/// An answer of some kind begins: its request, if still wanted. R16.3
fn answered(
    cx: &mut Context,
    at: Instance,
    id: u32,
    kind: RpcWantKind,
) -> Result<Option<RpcWant>, Violation> {
    let side = cx.rpc.links.get(&at.link).ok_or(Violation::UnknownChannel)?;
    let open = side.open.get(&id).ok_or(Violation::Unasked)?;
    if open.want.kind() != kind || side.incoming.is_some() {
        return Err(Violation::Unasked);
    }
    finished(cx, at, id)
}

/// A request ends: what was requested, if still wanted.
fn finished(cx: &mut Context, at: Instance, id: u32) -> Result<Option<RpcWant>, Violation> {
    let side = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R16.3
    let open = side.open.remove(&id).filter(|open| open.sent.is_some());
    let open = open.ok_or(Violation::Unasked)?;
    side.moves(cx.now, cx.config.limits.rpc_patience);
    if open.cancelled {
        cx.sync.changed();
        return Ok(None);
    }
    Ok(Some(open.want))
}

fn on_block(cx: &mut Context, at: Instance, id: u32, body: Body) -> Result<(), Violation> {
    let most = body::largest(&cx.config);
    let side = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    match body {
        Body::Whole(body) => {
            let want = answered(cx, at, id, RpcWantKind::Block)?;
            deliver(cx, at, want, body)
        }
        Body::Chunked(start) => {
            let open = side.open.get_mut(&id).ok_or(Violation::Unasked)?;
            let RpcWant::Block(block) = open.want else { return Err(Violation::Unasked) };
            if side.incoming.is_some() {
                return Err(Violation::Unasked);
            }
            let wanted = !open.cancelled;
            let body = Receiving::new(&start, most)?;
            let left = body.size().div_ceil(chunk::CHUNK) - 1;
            side.incoming = Some(Incoming { id, body: wanted.then_some(body), left });
            side.moves(cx.now, cx.config.limits.rpc_patience);
            // R16.6
            if wanted && !sync::body_begins(cx, at.link, &block, start.size as usize) {
                cancel(cx, at.link, &RpcWant::Block(block));
            }
            Ok(())
        }
    }
}

fn on_chunk(cx: &mut Context, at: Instance, chunk: &[u8]) -> Result<(), Violation> {
    let side = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R6.4.6
    let incoming = side.incoming.as_mut().ok_or(Violation::Unasked)?;
    if let Some(body) = &mut incoming.body {
        body.push(chunk)?;
    }
    incoming.left -= 1;
    if incoming.left > 0 {
        side.moves(cx.now, cx.config.limits.rpc_patience);
        return Ok(());
    }
    let Some(Incoming { id, body, .. }) = side.incoming.take() else { return Ok(()) };
    let want = finished(cx, at, id)?;
    match body {
        Some(body) => deliver(cx, at, want, body.finish()),
        None => Ok(()),
    }
}

fn deliver(
    cx: &mut Context,
    at: Instance,
    want: Option<RpcWant>,
    body: Bytes,
) -> Result<(), Violation> {
    let Some(RpcWant::Block(block)) = want else { return Ok(()) };
    // R16.4
    let body = Frame::from(body).decode::<BlockBody>().map_err(|_| Violation::Malformed)?;
    sync::body(cx, at.link, block, body)
}

impl RpcWant {
    fn kind(&self) -> RpcWantKind {
        match self {
            Self::Headers(_) => RpcWantKind::Headers,
            Self::Block(_) => RpcWantKind::Block,
        }
    }
}
