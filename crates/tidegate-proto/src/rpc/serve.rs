//! Answers to what peers ask.
//!
//! A peer's requests are answered one after the other. What is not in memory is asked of the
//! driver: once at a time for a peer, whatever it cancels, and a few blocks at a time over all
//! peers, so serving costs a known amount of work and of memory.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::{REQUESTS, RpcLink, largest_body};
use crate::block;
use crate::channel::Context;
use crate::chunk::{self, Sending};
use crate::id::ConnectionId;
use crate::io::{Found, Load, Output};
use crate::link::At;
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{
    self, Body, MAX_FRAME, MAX_HEADER, MAX_HEADERS, RpcBlock, RpcError, RpcFailed, RpcHeaders,
    RpcMessage, RpcRequest, RpcWant,
};

/// How long a block that is being sent may stand still while others wait to be served.
const STALLED: Duration = Duration::from_secs(4);

/// What one peer asks.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// The first is being answered.
    asked: VecDeque<Asked>,
    /// The number that the peer's next request must at least have.
    expected: u64,
    /// How many of its requests it has not cancelled.
    cancels: u32,
    answer: Answer,
}

#[derive(Debug)]
struct Asked {
    id: u32,
    want: RpcWant,
    cancelled: bool,
}

/// How far the answer to the peer's first request is.
#[derive(Debug, Default)]
enum Answer {
    /// It has not begun.
    #[default]
    None,
    /// The driver is looking for it.
    Loading,
    /// It is there, since when.
    Ready(RpcMessage, Time),
    /// The rest of a block; when it last moved.
    Sending(Box<Sending>, Time),
}

/// What is asked of the driver.
#[derive(Debug, Default)]
pub(super) struct Loads {
    /// For whom; `None` if nobody waits for it any more.
    out: BTreeMap<u64, Option<ConnectionId>>,
    next: u64,
}

impl Serving {
    /// Whether it takes the memory of a block.
    fn holds_block(&self) -> bool {
        let wants_block =
            || matches!(self.asked.front(), Some(Asked { want, .. }) if is_block(want));
        match &self.answer {
            Answer::None => false,
            Answer::Loading => wants_block(),
            Answer::Ready(message, _) => matches!(message, RpcMessage::Block(_)),
            Answer::Sending(..) => true,
        }
    }

    /// When it has kept a block for too long, if nothing leaves until then.
    fn stalled_at(&self) -> Option<Time> {
        match &self.answer {
            Answer::Ready(RpcMessage::Block(_), since) | Answer::Sending(_, since) => {
                Some(*since + STALLED)
            }
            _ => None,
        }
    }

    fn waits_for_turn(&self) -> bool {
        let is_next = |asked: &Asked| !asked.cancelled && is_block(&asked.want);
        matches!(self.answer, Answer::None) && self.asked.front().is_some_and(is_next)
    }
}

fn is_block(want: &RpcWant) -> bool {
    matches!(want, RpcWant::Block(_))
}

fn failed(id: u32, error: RpcError) -> RpcMessage {
    RpcMessage::Failed(RpcFailed { id, error })
}

pub(super) fn on_request(cx: &mut Context, at: At, request: RpcRequest) -> Result<(), Violation> {
    let link = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    let serving = &mut link.serving;
    // R16.1
    if serving.asked.len() >= REQUESTS {
        return Err(Violation::RequestPermit);
    }
    // R16.2
    if u64::from(request.id) < serving.expected {
        return Err(Violation::OutOfTurn);
    }
    serving.expected = u64::from(request.id) + 1;
    serving.cancels += 1;
    serving.asked.push_back(Asked { id: request.id, want: request.want, cancelled: false });
    cx.links.wake(at.link, at.slot);
    Ok(())
}

pub(super) fn on_cancel(cx: &mut Context, at: At, id: u32) -> Result<(), Violation> {
    let now = cx.now;
    let link = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    let serving = &mut link.serving;
    // It may cross the answer, but there is one for a request. R16.5
    serving.cancels = serving.cancels.checked_sub(1).ok_or(Violation::Empty)?;
    let Some(place) = serving.asked.iter().position(|asked| asked.id == id) else { return Ok(()) };
    serving.asked[place].cancelled = true;
    // What the driver is looking for cannot be stopped: its answer is awaited, or who asks and
    // cancels in turn would have it look for any number of things.
    if place == 0 && !matches!(serving.answer, Answer::None | Answer::Loading) {
        serving.answer = Answer::Ready(failed(id, RpcError::Cancelled), now);
        wake_waiting(cx);
    }
    cx.links.wake(at.link, at.slot);
    Ok(())
}

pub(super) fn link_down(cx: &mut Context, link: ConnectionId) {
    for load in cx.rpc.loads.out.values_mut() {
        load.take_if(|waiting| *waiting == link);
    }
    wake_waiting(cx);
}

/// When a block of another may have stood still for long enough to make room for this peer's.
pub(super) fn deadline(cx: &Context, at: At) -> Option<Time> {
    if !cx.rpc.links.get(&at.link)?.serving.waits_for_turn() {
        return None;
    }
    cx.rpc.links.values().filter_map(|link| link.serving.stalled_at()).min()
}

pub(super) fn poll_answer(cx: &mut Context, at: At) -> Option<RpcMessage> {
    let now = cx.now;
    let serving = &mut cx.rpc.links.get_mut(&at.link)?.serving;
    match std::mem::take(&mut serving.answer) {
        Answer::None => {}
        Answer::Loading => {
            serving.answer = Answer::Loading;
            return None;
        }
        Answer::Ready(message, _) => return Some(send(cx, at, message)),
        Answer::Sending(mut rest, _) => {
            let chunk = rest.next();
            // The last one is the end of the request: the peer may send another when it is there.
            match chunk.is_none() || rest.is_done() {
                true => done(cx, at),
                false => serving.answer = Answer::Sending(rest, now),
            }
            return chunk.map(RpcMessage::Chunk);
        }
    }
    let Asked { id, want, cancelled } = serving.asked.front()?;
    let id = *id;
    if *cancelled {
        return Some(send(cx, at, failed(id, RpcError::Cancelled)));
    }
    let want = want.clone();
    let found = match &want {
        RpcWant::Headers(want) => block::headers_after(cx, &want.locator, want.most),
        RpcWant::Block(_) if !has_turn(cx) => return None,
        RpcWant::Block(block) => block::body_of(cx, block),
    };
    match found {
        Some(found) => {
            let message = message(id, found, largest_body(&cx.config));
            Some(send(cx, at, message))
        }
        None if cx.config.store => {
            load(cx, at, want);
            None
        }
        None => Some(send(cx, at, failed(id, RpcError::Unknown))),
    }
}

/// Whether one more block may be served. One that stands still makes room.
fn has_turn(cx: &mut Context) -> bool {
    let held = cx.rpc.links.values().filter(|link| link.serving.holds_block()).count();
    let forgotten = cx.rpc.loads.out.values().filter(|load| load.is_none()).count();
    if held + forgotten < cx.config.limits.serving as usize {
        return true;
    }
    let now = cx.now;
    let is_stalled = |link: &&mut RpcLink| link.serving.stalled_at().is_some_and(|at| at <= now);
    // R16.9
    let Some(link) = cx.rpc.links.values_mut().find(is_stalled) else { return false };
    let id = link.serving.asked.front().map_or(0, |asked| asked.id);
    link.serving.answer = Answer::Ready(failed(id, RpcError::Busy), now);
    let other = link.at;
    cx.links.wake(other.link, other.slot);
    true
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
        Found::Block(_) => failed(id, RpcError::Internal),
        Found::Nothing => failed(id, RpcError::Unknown),
    }
}

/// An answer leaves, or its first part does.
fn send(cx: &mut Context, at: At, message: RpcMessage) -> RpcMessage {
    if let RpcMessage::Block(RpcBlock { id, body: Body::Whole(body) }) = &message {
        let (body, rest) = chunk::start(body);
        if let Some(rest) = rest {
            let now = cx.now;
            if let Some(link) = cx.rpc.links.get_mut(&at.link) {
                link.serving.answer = Answer::Sending(Box::new(rest), now);
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
        link.serving.asked.pop_front();
        link.serving.answer = Answer::None;
        cx.links.wake(at.link, at.slot);
    }
    wake_waiting(cx);
}

/// Those whose turn to be served a block may have come.
fn wake_waiting(cx: &mut Context) {
    for link in cx.rpc.links.values().filter(|link| link.serving.waits_for_turn()) {
        cx.links.wake(link.at.link, link.at.slot);
    }
}

fn load(cx: &mut Context, at: At, want: RpcWant) {
    let loads = &mut cx.rpc.loads;
    let request = loads.next;
    loads.next += 1;
    loads.out.insert(request, Some(at.link));
    if let Some(link) = cx.rpc.links.get_mut(&at.link) {
        link.serving.answer = Answer::Loading;
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
    let Some(load) = cx.rpc.loads.out.remove(&request) else { return };
    let most = largest_body(&cx.config);
    if let Some(waiting) = load.and_then(|link| cx.rpc.links.get_mut(&link))
        && let Some(Asked { id, cancelled, .. }) = waiting.serving.asked.front()
    {
        let message = match cancelled {
            true => failed(*id, RpcError::Cancelled),
            false => message(*id, found, most),
        };
        waiting.serving.answer = Answer::Ready(message, cx.now);
        cx.links.wake(waiting.at.link, waiting.at.slot);
    }
    wake_waiting(cx);
}
