//! Answers peers' requests.
//!
//! Requests of a peer are answered in order. What is not in memory is loaded by the driver: one
//! load at a time per peer, even if it is cancelled, and a few blocks at a time over all peers, so
//! that serving has bounded work and memory. Peers take turns for blocks; a peer that does not read
//! its answers, or cancels them, comes after those that do.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::{REQUESTS, RpcLink};
use crate::block::{self, body};
use crate::channel::Context;
use crate::chunk::{self, Sending};
use crate::id::ConnectionId;
use crate::io::{Found, Load, Output};
use crate::link::Instance;
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{
    self, Body, MAX_FRAME, MAX_HEADER, MAX_HEADERS, RpcBlock, RpcError, RpcFailed, RpcHeaders,
    RpcMessage, RpcRequest, RpcWant,
};

/// How long a peer may hold a serving place while others wait, besides the time to send what it has
/// read at `RATE`.
const STALLED: Duration = Duration::from_secs(4);
/// The least rate in bytes per second at which blocks should be read while others wait.
const RATE: u64 = 1 << 20;
/// Pause after a wasted answer; doubled with each in a row.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MOST: Duration = Duration::from_secs(5);
/// Loads under way for closed connections; with more, no other starts.
const FORGOTTEN: usize = 8;

/// Requests of one peer.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// The first is being answered.
    asked: VecDeque<Asked>,
    /// The least number that the peer's next request may have.
    expected: u64,
    /// Requests that it has not cancelled.
    cancels: u64,
    answer: Answer,
    /// Wasted answers in a row, and when the next may begin.
    wasted: u32,
    not_before: Option<Time>,
}

#[derive(Debug)]
struct Asked {
    id: u32,
    want: RpcWant,
    cancelled: bool,
}

/// The state of the answer to the first request.
#[derive(Debug, Default)]
enum Answer {
    /// Not started.
    #[default]
    None,
    /// The driver is loading it.
    Loading,
    /// Ready to leave, since when.
    Ready(RpcMessage, Time),
    /// A block being sent, since when.
    Sending(Box<Sending>, Time),
}

/// Loads by the driver.
#[derive(Debug, Default)]
pub(super) struct Loads {
    out: BTreeMap<u64, Loading>,
    next: u64,
}

#[derive(Debug)]
struct Loading {
    /// The requester; `None` if it is gone.
    link: Option<ConnectionId>,
    is_block: bool,
}

impl Loads {
    fn forgotten(&self) -> impl Iterator<Item = &Loading> {
        self.out.values().filter(|load| load.link.is_none())
    }
}

impl Serving {
    /// Whether it holds a block in memory.
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

    /// Whether an answer is outstanding, or part of it.
    pub(super) fn owes(&self) -> bool {
        !self.asked.is_empty()
    }

    /// When it has held its place for too long, if nothing leaves until then.
    fn stalled_at(&self) -> Option<Time> {
        match &self.answer {
            Answer::Ready(RpcMessage::Block(_), since) => Some(*since + STALLED),
            Answer::Sending(rest, since) => {
                let sending = Duration::from_micros(rest.sent() as u64 * 1_000_000 / RATE);
                Some(*since + STALLED + sending)
            }
            _ => None,
        }
    }

    /// Whether the peer is in a pause.
    fn pauses(&self, now: Time) -> bool {
        self.not_before.is_some_and(|until| until > now)
    }

    /// A load, or a copied and hashed block, was wasted.
    fn wasted(&mut self, now: Time) {
        self.not_before = Some(now + (PAUSE * (1 << self.wasted.min(7))).min(PAUSE_MOST));
        self.wasted = self.wasted.saturating_add(1);
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

pub(super) fn on_request(
    cx: &mut Context,
    at: Instance,
    request: RpcRequest,
) -> Result<(), Violation> {
    let side = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    let serving = &mut side.serving;
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

pub(super) fn on_cancel(cx: &mut Context, at: Instance, id: u32) -> Result<(), Violation> {
    let now = cx.now;
    let side = cx.rpc.links.get_mut(&at.link).ok_or(Violation::UnknownChannel)?;
    let serving = &mut side.serving;
    // It may cross the answer, but each request has one cancel at most. R16.5
    serving.cancels = serving.cancels.checked_sub(1).ok_or(Violation::Empty)?;
    let Some(place) = serving.asked.iter().position(|asked| asked.id == id) else { return Ok(()) };
    serving.asked[place].cancelled = true;
    if place == 0 && !matches!(serving.answer, Answer::None) {
        serving.wasted(now);
    }
    // A load cannot be stopped. It is awaited, or a peer that requests and cancels in turn could
    // cause any number of them.
    if place == 0 && !matches!(serving.answer, Answer::None | Answer::Loading) {
        serving.answer = Answer::Ready(failed(id, RpcError::Cancelled), now);
    }
    cx.links.wake(at.link, at.slot);
    next_turn(cx);
    Ok(())
}

pub(super) fn link_down(cx: &mut Context, connection: ConnectionId) {
    for load in cx.rpc.loads.out.values_mut() {
        load.link.take_if(|waiting| *waiting == connection);
    }
    cx.rpc.queue.retain(|waiting| *waiting != connection);
    next_turn(cx);
}

/// When the peer may be answered again, or when another has held its place for too long.
pub(super) fn deadline(cx: &Context, at: Instance) -> Option<Time> {
    let serving = &cx.rpc.links.get(&at.link)?.serving;
    let waits = matches!(serving.answer, Answer::None) && !serving.asked.is_empty();
    if waits && serving.pauses(cx.now) {
        return serving.not_before;
    }
    // The end of another peer's turn wakes it.
    if !serving.waits_for_turn() || has_free_place(cx) {
        return None;
    }
    cx.rpc.links.values().filter_map(|side| side.serving.stalled_at()).min()
}

/// Answers the peer's first request, or continues to.
///
/// A cancelled request still gets its one `Failed`, and a block waits for the peer's turn before anything
/// is copied or loaded for it, so that requests which are cancelled or never read cost little.
pub(super) fn poll_answer(cx: &mut Context, at: Instance) -> Option<RpcMessage> {
    let now = cx.now;
    let serving = &mut cx.rpc.links.get_mut(&at.link)?.serving;
    match std::mem::take(&mut serving.answer) {
        Answer::None => {}
        Answer::Loading => {
            serving.answer = Answer::Loading;
            return None;
        }
        Answer::Ready(message, _) => return Some(send(cx, at, message)),
        Answer::Sending(mut rest, since) => {
            let chunk = rest.next();
            // With the last chunk the request ends, and the peer may send another.
            if chunk.is_none() || rest.is_done() {
                done(cx, at, true);
            } else {
                serving.answer = Answer::Sending(rest, since);
            }
            return chunk.map(RpcMessage::Chunk);
        }
    }
    let Asked { id, want, cancelled } = serving.asked.front()?;
    let id = *id;
    if *cancelled {
        return Some(send(cx, at, failed(id, RpcError::Cancelled)));
    }
    if serving.pauses(now) {
        return None;
    }
    let want = want.clone();
    let found = match &want {
        RpcWant::Headers(want) => block::headers_after(cx, &want.locator, want.most),
        RpcWant::Block(_) if !has_turn(cx, at) => return None,
        RpcWant::Block(block) => block::body_of(cx, block),
    };
    match found {
        Some(found) => {
            let message = message(id, found, body::largest(&cx.config));
            Some(send(cx, at, message))
        }
        None if cx.config.store => {
            if cx.rpc.loads.forgotten().count() < FORGOTTEN {
                load(cx, at, want);
            }
            None
        }
        None => Some(send(cx, at, failed(id, RpcError::Unknown))),
    }
}

/// Whether it is this peer's turn to be served a block. A peer that has held a place for too long
/// loses it.
fn has_turn(cx: &mut Context, at: Instance) -> bool {
    if !cx.rpc.queue.contains(&at.link) {
        cx.rpc.queue.push_back(at.link);
    }
    if !has_place(cx) {
        return false;
    }
    if next_in_turn(cx) != Some(at) {
        next_turn(cx);
        return false;
    }
    cx.rpc.queue.retain(|waiting| *waiting != at.link);
    // Another place may be free, or can be taken.
    next_turn(cx);
    true
}

fn has_free_place(cx: &Context) -> bool {
    let held = cx.rpc.links.values().filter(|side| side.serving.holds_block()).count();
    let forgotten = cx.rpc.loads.forgotten().filter(|load| load.is_block).count();
    held + forgotten < cx.config.limits.serving as usize
}

fn has_place(cx: &mut Context) -> bool {
    if has_free_place(cx) {
        return true;
    }
    let now = cx.now;
    let is_stalled = |side: &&mut RpcLink| side.serving.stalled_at().is_some_and(|at| at <= now);
    // R16.9
    let Some(side) = cx.rpc.links.values_mut().find(is_stalled) else { return false };
    let id = side.serving.asked.front().map_or(0, |asked| asked.id);
    side.serving.wasted(now);
    side.serving.answer = Answer::Ready(failed(id, RpcError::Busy), now);
    let other = side.at;
    cx.links.wake(other.link, other.slot);
    true
}

/// Of the waiting peers that can be sent something, the first of those that wasted least.
fn next_in_turn(cx: &Context) -> Option<Instance> {
    let waiting = cx.rpc.queue.iter().filter_map(|connection| cx.rpc.links.get(connection));
    let ready = waiting.filter(|side| {
        let serving = &side.serving;
        serving.waits_for_turn() && !serving.pauses(cx.now) && cx.links.may_send(side.at, cx.now)
    });
    ready.min_by_key(|side| side.serving.wasted).map(|side| side.at)
}

/// Wakes the peer whose turn it is, if a place may be free.
pub(crate) fn next_turn(cx: &mut Context) {
    if let Some(at) = next_in_turn(cx) {
        cx.links.wake(at.link, at.slot);
    }
}

/// The message for what was found.
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

/// Sends an answer, or its first part.
fn send(cx: &mut Context, at: Instance, message: RpcMessage) -> RpcMessage {
    if let RpcMessage::Block(RpcBlock { id, body: Body::Whole(body) }) = &message {
        let (body, rest) = chunk::start(body);
        if let Some(rest) = rest {
            let now = cx.now;
            if let Some(side) = cx.rpc.links.get_mut(&at.link) {
                side.serving.answer = Answer::Sending(Box::new(rest), now);
            }
            return RpcMessage::Block(RpcBlock { id: *id, body });
        }
    }
    let useful = !matches!(message, RpcMessage::Failed(_));
    done(cx, at, useful);
    message
}

/// The first request is answered; `useful` if the peer got what it wanted.
fn done(cx: &mut Context, at: Instance, useful: bool) {
    if let Some(side) = cx.rpc.links.get_mut(&at.link) {
        side.serving.asked.pop_front();
        side.serving.answer = Answer::None;
        if useful {
            side.serving.wasted = 0;
        }
        cx.links.wake(at.link, at.slot);
    }
    next_turn(cx);
}

fn load(cx: &mut Context, at: Instance, want: RpcWant) {
    let loads = &mut cx.rpc.loads;
    let request = loads.next;
    loads.next += 1;
    loads.out.insert(request, Loading { link: Some(at.link), is_block: is_block(&want) });
    if let Some(side) = cx.rpc.links.get_mut(&at.link) {
        side.serving.answer = Answer::Loading;
    }
    let what = match want {
        RpcWant::Headers(want) => {
            Load::Headers { locator: want.locator, most: want.most.min(MAX_HEADERS as u32) }
        }
        RpcWant::Block(block) => Load::Block(block),
    };
    cx.outputs.push_back(Output::Load { request, what });
}

/// The driver has finished a load.
pub(crate) fn loaded(cx: &mut Context, request: u64, found: Found) {
    let Some(load) = cx.rpc.loads.out.remove(&request) else { return };
    let most = body::largest(&cx.config);
    if let Some(waiting) = load.link.and_then(|connection| cx.rpc.links.get_mut(&connection))
        && let Some(Asked { id, cancelled, .. }) = waiting.serving.asked.front()
    {
        let message =
            if *cancelled { failed(*id, RpcError::Cancelled) } else { message(*id, found, most) };
        waiting.serving.answer = Answer::Ready(message, cx.now);
        cx.links.wake(waiting.at.link, waiting.at.slot);
    }
    if load.link.is_none() {
        // Other loads may have been waiting.
        for side in cx.rpc.links.values().filter(|side| !side.serving.asked.is_empty()) {
            cx.links.wake(side.at.link, side.at.slot);
        }
    }
    next_turn(cx);
}
