//! Requests and answers (specification section 16).
//!
//! ```text
//! A → B   Request     numbered by A; as many without an answer as B allows
//!         Cancel
//! B → A   Headers, or Block and Chunks, or Failed
//! ```
//!
//! A peer's requests are answered one after the other. What is not in memory is asked of the
//! driver, a few blocks at a time over all peers, so serving costs a known amount of memory.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::block::{self, sync};
use crate::channel::{Channel as ChannelTrait, Context, Terms};
use crate::chunk::{self, Receiving, Sending};
use crate::config::Config;
use crate::id::ConnectionId;
use crate::io::{Found, Load, Output};
use crate::link::At;
use crate::rules::Rules;
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{
    self, BlockBody, Body, Frame, MAX_BLOCK_ITEMS, MAX_FRAME, MAX_HEADER, MAX_HEADERS, Offer,
    RpcBlock, RpcError, RpcFailed, RpcHeaders, RpcMessage, RpcRequest, RpcWant, RpcWantKind,
};

/// Requests a peer may have without an answer, from its hello on. R16.1
pub(crate) const REQUESTS: usize = 4;

/// How long a block that is being sent may stand still while others wait to be served.
const STALLED: Duration = Duration::from_secs(4);

/// All requests, by this node and by its peers.
#[derive(Debug, Default)]
pub(crate) struct Rpc {
    links: BTreeMap<ConnectionId, RpcLink>,
    /// What was asked of the driver, and for whom; `None` if nobody waits for it any more.
    loads: BTreeMap<u64, Option<(ConnectionId, u32)>>,
    next_load: u64,
}

#[derive(Debug)]
struct RpcLink {
    at: At,
    /// Number of the next request, and those that have no answer yet.
    next: u32,
    open: BTreeMap<u32, Open>,
    to_send: VecDeque<RpcRequest>,
    to_cancel: VecDeque<u32>,
    /// A block that arrives in chunks.
    incoming: Option<Incoming>,
    /// Requests of the peer, the first being answered.
    asked: VecDeque<(u32, RpcWant)>,
    /// The number that the peer's next request must at least have.
    expected: u64,
    /// How many of its requests it has not cancelled.
    cancels: u32,
    answer: Answer,
}

/// A block on its way.
#[derive(Debug)]
struct Incoming {
    id: u32,
    /// `None` if it is not wanted any more.
    body: Option<Receiving>,
    /// Chunks that are still to come.
    left: usize,
}

/// A request without an answer.
#[derive(Debug)]
struct Open {
    want: RpcWant,
    /// Nothing may have come of it then.
    until: Time,
    /// It is not wanted any more; its place is free when the peer says so.
    cancelled: bool,
}

/// How far the answer to the peer's first request is.
#[derive(Debug)]
enum Answer {
    /// It has not begun.
    None,
    /// The driver is looking for it.
    Loading,
    /// It is there.
    Ready(RpcMessage),
    /// The rest of it; when it last moved.
    Sending(Box<Sending>, Time),
}

impl Rpc {
    /// Whether a peer can be asked for one thing more.
    pub(crate) fn has_room(&self, link: ConnectionId) -> bool {
        self.links.get(&link).is_some_and(|link| link.open.len() < REQUESTS)
    }

    /// How many requests to a peer have no answer.
    pub(crate) fn open(&self, link: ConnectionId) -> usize {
        self.links.get(&link).map_or(0, |link| link.open.len())
    }

    /// Blocks that are being loaded or sent.
    fn serving(&self) -> usize {
        let is_block = |link: &&RpcLink| matches!(link.asked.front(), Some((_, RpcWant::Block(_))));
        let links = self.links.values().filter(is_block);
        let forgotten = self.loads.values().filter(|load| load.is_none()).count();
        links.filter(|link| !matches!(link.answer, Answer::None)).count() + forgotten
    }

    /// When [`expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let open = self.links.values().flat_map(|link| link.open.values());
        open.filter(|open| !open.cancelled).map(|open| open.until).min()
    }
}

/// Asks a peer, if there is room for it.
pub(crate) fn ask(cx: &mut Context, link: ConnectionId, want: RpcWant) -> bool {
    if !cx.rpc.has_room(link) {
        return false;
    }
    let until = cx.now + cx.config.limits.rpc_patience;
    let Some(asked) = cx.rpc.links.get_mut(&link) else { return false };
    let id = asked.next;
    asked.next += 1;
    asked.open.insert(id, Open { want: want.clone(), until, cancelled: false });
    asked.to_send.push_back(RpcRequest { id, want });
    cx.links.wake(link, asked.at.slot);
    true
}

/// Does not want any more what was asked of a peer.
pub(crate) fn cancel(cx: &mut Context, link: ConnectionId, want: &RpcWant) {
    let Some(asked) = cx.rpc.links.get_mut(&link) else { return };
    let mut open = asked.open.iter_mut().filter(|(_, open)| !open.cancelled);
    let Some((id, open)) = open.find(|(_, open)| open.want == *want) else { return };
    open.cancelled = true;
    let id = *id;
    let waiting = asked.to_send.len();
    asked.to_send.retain(|request| request.id != id);
    if asked.to_send.len() < waiting {
        // The peer has not heard of it.
        asked.open.remove(&id);
        return;
    }
    if let Some(incoming) = asked.incoming.as_mut().filter(|incoming| incoming.id == id) {
        incoming.body = None;
    }
    asked.to_cancel.push_back(id);
    cx.links.wake(link, asked.at.slot);
    if let Some(link) = cx.links.get_mut(link) {
        link.answered();
    }
}

/// Gives up what takes too long.
pub(crate) fn expire(cx: &mut Context) {
    let mut late = Vec::new();
    for (id, link) in &cx.rpc.links {
        let open = link.open.values().filter(|open| !open.cancelled && open.until <= cx.now);
        late.extend(open.map(|open| (*id, open.want.clone())));
    }
    for (link, want) in late {
        cancel(cx, link, &want);
        sync::failed(cx, link, &want);
    }
}

/// The channel of requests.
pub(crate) struct Channel;

impl ChannelTrait for Channel {
    const NAME: &'static str = "rpc";
    const MAX_FRAME: usize = MAX_FRAME;
    type Message = RpcMessage;

    fn offers(_: &Config, _: &dyn Rules) -> Vec<Offer> {
        // Its number is fixed.
        Vec::new()
    }

    fn on_up(cx: &mut Context, at: At, _: &Terms) {
        let link = RpcLink {
            at,
            next: 0,
            open: BTreeMap::new(),
            to_send: VecDeque::new(),
            to_cancel: VecDeque::new(),
            incoming: None,
            asked: VecDeque::new(),
            expected: 0,
            cancels: 0,
            answer: Answer::None,
        };
        cx.rpc.links.insert(at.link, link);
    }

    fn on_down(cx: &mut Context, at: At) {
        cx.rpc.links.remove(&at.link);
        for load in cx.rpc.loads.values_mut() {
            load.take_if(|(link, _)| *link == at.link);
        }
        sync::link_down(cx, at.link);
        wake_waiting(cx);
    }

    fn on_message(cx: &mut Context, at: At, message: RpcMessage) -> Result<(), Violation> {
        match message {
            RpcMessage::Request(request) => on_request(cx, at, request),
            RpcMessage::Cancel(id) => on_cancel(cx, at, id),
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
                let link = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
                link.incoming.take_if(|incoming| incoming.id == id);
                if let Some(want) = finished(cx, at, id)? {
                    sync::failed(cx, at.link, &want);
                }
                Ok(())
            }
        }
    }

    fn poll_message(cx: &mut Context, at: At) -> Option<RpcMessage> {
        let up = cx.links.get(at.link)?.up;
        let link = cx.rpc.links.get_mut(&at.link)?;
        if let Some(id) = link.to_cancel.pop_front() {
            return Some(RpcMessage::Cancel(id));
        }
        if up && let Some(request) = link.to_send.pop_front() {
            cx.links.get_mut(at.link)?.ask(cx.now);
            return Some(RpcMessage::Request(request));
        }
        poll_answer(cx, at)
    }

    fn deadline(_: &Context, _: At) -> Option<Time> {
        None
    }
}

fn on_request(cx: &mut Context, at: At, request: RpcRequest) -> Result<(), Violation> {
    let link = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R16.1
    if link.asked.len() >= REQUESTS {
        return Err(Violation::RequestPermit);
    }
    // R16.2
    if u64::from(request.id) < link.expected {
        return Err(Violation::OutOfTurn);
    }
    link.expected = u64::from(request.id) + 1;
    link.cancels += 1;
    link.asked.push_back((request.id, request.want));
    cx.links.wake(at.link, at.slot);
    Ok(())
}

fn on_cancel(cx: &mut Context, at: At, id: u32) -> Result<(), Violation> {
    let link = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // It may cross the answer, but there is one for a request. R16.5
    link.cancels = link.cancels.checked_sub(1).ok_or(Violation::Empty)?;
    let failed = RpcMessage::Failed(RpcFailed { id, error: RpcError::Cancelled });
    match link.asked.iter().position(|(asked, _)| *asked == id) {
        Some(0) => {
            if matches!(link.answer, Answer::Loading) {
                for load in cx.rpc.loads.values_mut() {
                    load.take_if(|load| *load == (at.link, id));
                }
            }
            link.answer = Answer::Ready(failed);
            cx.links.wake(at.link, at.slot);
            wake_waiting(cx);
        }
        Some(later) => {
            // It is answered at once when its turn comes: there is nothing like it.
            link.asked[later].1 = RpcWant::Headers(wire::WantHeaders { locator: vec![], most: 0 });
        }
        None => {}
    }
    Ok(())
}

/// An answer of some kind begins: what was asked, if it is still wanted. R16.3
fn answered(
    cx: &mut Context,
    at: At,
    id: u32,
    kind: RpcWantKind,
) -> Result<Option<RpcWant>, Violation> {
    let link = cx.rpc.links.get(&at.link).ok_or(Violation::UnknownChannel)?;
    let open = link.open.get(&id).ok_or(Violation::Unasked)?;
    if open.want.kind() != kind || link.incoming.is_some() {
        return Err(Violation::Unasked);
    }
    finished(cx, at, id)
}

/// A request has its end: what was asked, if it is still wanted.
fn finished(cx: &mut Context, at: At, id: u32) -> Result<Option<RpcWant>, Violation> {
    let link = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    let sent = link.to_send.iter().all(|request| request.id != id);
    // R16.3
    let open = link.open.remove(&id).filter(|_| sent).ok_or(Violation::Unasked)?;
    if open.cancelled {
        sync::drive(cx);
        return Ok(None);
    }
    if let Some(link) = cx.links.get_mut(at.link) {
        link.answered();
    }
    Ok(Some(open.want))
}

fn on_block(cx: &mut Context, at: At, id: u32, body: Body) -> Result<(), Violation> {
    let most = largest_body(&cx.config);
    let link = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    match body {
        Body::Whole(body) => {
            let want = answered(cx, at, id, RpcWantKind::Block)?;
            deliver(cx, at, want, body)
        }
        Body::Chunked(start) => {
            let open = link.open.get_mut(&id).ok_or(Violation::Unasked)?;
            let RpcWant::Block(block) = open.want else { return Err(Violation::Unasked) };
            if link.incoming.is_some() {
                return Err(Violation::Unasked);
            }
            open.until = cx.now + cx.config.limits.rpc_patience;
            let wanted = !open.cancelled;
            let body = Receiving::new(&start, most)?;
            let left = body.size().div_ceil(chunk::CHUNK) - 1;
            link.incoming = Some(Incoming { id, body: wanted.then_some(body), left });
            // R16.6
            if wanted && !sync::has_room(cx, &block, start.size as usize) {
                cancel(cx, at.link, &RpcWant::Block(block));
                sync::no_room(cx, &block);
            }
            Ok(())
        }
    }
}

fn on_chunk(cx: &mut Context, at: At, chunk: &[u8]) -> Result<(), Violation> {
    let link = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    // R6.4.6
    let incoming = link.incoming.as_mut().ok_or(Violation::Unasked)?;
    if let Some(body) = &mut incoming.body {
        body.push(chunk)?;
    }
    incoming.left -= 1;
    if let Some(open) = link.open.get_mut(&incoming.id) {
        open.until = cx.now + cx.config.limits.rpc_patience;
    }
    if incoming.left > 0 {
        return Ok(());
    }
    let Some(Incoming { id, body, .. }) = link.incoming.take() else { return Ok(()) };
    let want = finished(cx, at, id)?;
    match body {
        Some(body) => deliver(cx, at, want, body.finish()),
        None => Ok(()),
    }
}

fn deliver(cx: &mut Context, at: At, want: Option<RpcWant>, body: Bytes) -> Result<(), Violation> {
    let Some(RpcWant::Block(block)) = want else { return Ok(()) };
    // R16.4
    let body = Frame::from(body).decode::<BlockBody>().map_err(|_| Violation::Malformed)?;
    sync::body(cx, at.link, block, body)
}

/// Bytes of the largest block with what its encoding adds: names, and for each item its length.
pub(crate) fn largest_body(config: &Config) -> usize {
    config.limits.block_size as usize + MAX_BLOCK_ITEMS * 8 + 1024
}

fn poll_answer(cx: &mut Context, at: At) -> Option<RpcMessage> {
    let link = cx.rpc.links.get_mut(&at.link)?;
    let (id, want) = link.asked.front()?.clone();
    match std::mem::replace(&mut link.answer, Answer::None) {
        Answer::None => {}
        Answer::Loading => {
            link.answer = Answer::Loading;
            return None;
        }
        Answer::Ready(message) => return Some(send_answer(cx, at, message)),
        Answer::Sending(mut sending, _) => {
            return match sending.next() {
                Some(chunk) => {
                    link.answer = Answer::Sending(sending, cx.now);
                    Some(RpcMessage::Chunk(chunk))
                }
                None => {
                    done(cx, at);
                    poll_answer(cx, at)
                }
            };
        }
    }
    let failed = |error| RpcMessage::Failed(RpcFailed { id, error });
    let found = match &want {
        // It was cancelled before its turn.
        RpcWant::Headers(want) if want.locator.is_empty() => {
            return Some(send_answer(cx, at, failed(RpcError::Cancelled)));
        }
        RpcWant::Headers(want) => block::headers_after(cx, &want.locator, want.most),
        RpcWant::Block(_) if !has_turn(cx, at) => return None,
        RpcWant::Block(block) => block::body_of(cx, block),
    };
    match found {
        Some(found) => {
            let message = message(id, found, largest_body(&cx.config));
            Some(send_answer(cx, at, message))
        }
        None if cx.config.store => {
            load(cx, at, id, want);
            None
        }
        None => Some(send_answer(cx, at, failed(RpcError::Unknown))),
    }
}

/// Whether one more block may be served. One that stands still makes room.
fn has_turn(cx: &mut Context, at: At) -> bool {
    if cx.rpc.serving() < cx.config.limits.serving as usize {
        return true;
    }
    let now = cx.now;
    let stalled = |link: &&mut RpcLink| {
        link.at != at && matches!(link.answer, Answer::Sending(_, at) if now.since(at) > STALLED)
    };
    let Some(link) = cx.rpc.links.values_mut().find(stalled) else { return false };
    let id = link.asked.front().map_or(0, |(id, _)| *id);
    link.answer = Answer::Ready(RpcMessage::Failed(RpcFailed { id, error: RpcError::Busy }));
    let other = link.at;
    cx.links.wake(other.link, other.slot);
    // Its place is free when that has left.
    false
}

/// What is found becomes a message.
fn message(id: u32, found: Found, most: usize) -> RpcMessage {
    match found {
        Found::Headers(headers) => {
            let mut room = MAX_FRAME - 64;
            let fits = |header: &Bytes| {
                let size = header.len().next_multiple_of(4) + 4;
                room = room.saturating_sub(size);
                room > 0 && header.len() <= MAX_HEADER
            };
            let headers = headers.into_iter().take(MAX_HEADERS).take_while(fits);
            let headers = headers.map(wire::BlockHeader).collect();
            RpcMessage::Headers(RpcHeaders { id, headers })
        }
        Found::Block(body) if body.len() <= most => {
            RpcMessage::Block(RpcBlock { id, body: Body::Whole(body) })
        }
        Found::Block(_) => RpcMessage::Failed(RpcFailed { id, error: RpcError::Internal }),
        Found::Nothing => RpcMessage::Failed(RpcFailed { id, error: RpcError::Unknown }),
    }
}

/// An answer leaves, or its first part does.
fn send_answer(cx: &mut Context, at: At, message: RpcMessage) -> RpcMessage {
    if let RpcMessage::Block(RpcBlock { id, body: Body::Whole(body) }) = &message {
        let (body, rest) = chunk::start(body);
        if let Some(rest) = rest {
            let now = cx.now;
            if let Some(link) = cx.rpc.links.get_mut(&at.link) {
                link.answer = Answer::Sending(Box::new(rest), now);
            }
            return RpcMessage::Block(RpcBlock { id: *id, body });
        }
    }
    done(cx, at);
    message
}

/// The peer's first request is answered.
fn done(cx: &mut Context, at: At) {
    if let Some(link) = cx.rpc.links.get_mut(&at.link) {
        link.asked.pop_front();
        link.answer = Answer::None;
        cx.links.wake(at.link, at.slot);
    }
    wake_waiting(cx);
}

/// Those whose turn to be served a block may have come.
fn wake_waiting(cx: &mut Context) {
    for link in cx.rpc.links.values() {
        if matches!(link.answer, Answer::None) && !link.asked.is_empty() {
            cx.links.wake(link.at.link, link.at.slot);
        }
    }
}

fn load(cx: &mut Context, at: At, id: u32, want: RpcWant) {
    let request = cx.rpc.next_load;
    cx.rpc.next_load += 1;
    cx.rpc.loads.insert(request, Some((at.link, id)));
    if let Some(link) = cx.rpc.links.get_mut(&at.link) {
        link.answer = Answer::Loading;
    }
    let what = match want {
        RpcWant::Headers(want) => {
            Load::Headers { locator: want.locator, most: want.most.min(MAX_HEADERS as u32) }
        }
        RpcWant::Block(block) => Load::Block(block),
    };
    cx.outputs.push_back(Output::Load { request, what });
}

/// The driver has looked for what a peer asked.
pub(crate) fn loaded(cx: &mut Context, request: u64, found: Found) {
    let Some(load) = cx.rpc.loads.remove(&request) else { return };
    let most = largest_body(&cx.config);
    if let Some((link, id)) = load
        && let Some(waiting) = cx.rpc.links.get_mut(&link)
    {
        waiting.answer = Answer::Ready(message(id, found, most));
        cx.links.wake(link, waiting.at.slot);
    }
    wake_waiting(cx);
}

impl RpcWant {
    fn kind(&self) -> RpcWantKind {
        match self {
            Self::Headers(_) => RpcWantKind::Headers,
            Self::Block(_) => RpcWantKind::Block,
        }
    }
}
