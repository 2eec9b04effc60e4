//! The single task that owns the core.
//!
//! It turns events of the transports into inputs, and outputs into calls of the transports; nothing
//! else touches the core. Validators run outside, and their verdicts arrive as commands.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tidegate_proto::id::{ConnectionId, DialId, PoolIndex};
use tidegate_proto::io::{
    Admission, Block, Command, Connected, DialError, Direction, Event, Exchange, Fate, Input,
    Output,
};
use tidegate_proto::recording::Recorder;
use tidegate_proto::{EventQueue, MaybeSend, Node as Core, Time};
#[cfg(feature = "store")]
use tidegate_proto::{
    id::Ticket,
    io::{Lane, Subject, Verdict},
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, oneshot};

use crate::flush::Flushes;
use crate::identity::Identity;
use crate::log::Log;
use crate::node::{Addresses, BlockAt, Failure};
use crate::reach::{Reach, accepted_at};
use crate::rt::{self, Clock, Timer};
#[cfg(feature = "store")]
use crate::store::{FoundBlock, Keeper, StoreError};
use crate::transport::{Dial, Happening, Traffic, Transport, from_core};
use crate::validator::{Answer, Workers};

/// How long goodbyes may take at shutdown.
const FAREWELL: Duration = Duration::from_secs(3);

/// Messages of handles and validators to the driver.
pub(crate) enum Message {
    Command(Command),
    Publish {
        pool: PoolIndex,
        body: Bytes,
        admission: Admission,
        fate: oneshot::Sender<Fate>,
    },
    PublishBlock {
        block: Block,
        fate: oneshot::Sender<Fate>,
    },
    Query(Box<dyn Query>),
    Flush {
        peers: usize,
        patience: Duration,
        left: oneshot::Sender<usize>,
    },
    Block {
        at: BlockAt,
        answer: oneshot::Sender<Option<Block>>,
    },
    #[cfg(feature = "store")]
    FoundBlock(FoundBlock),
    #[cfg(feature = "store")]
    StoreFailed(StoreError),
    Shutdown(oneshot::Sender<()>),
}

/// A read-only query of the core.
pub(crate) trait Query: MaybeSend {
    fn look(self: Box<Self>, core: &Core, traffic: Traffic);
}

impl<F: FnOnce(&Core, Traffic) + MaybeSend> Query for F {
    fn look(self: Box<Self>, core: &Core, traffic: Traffic) {
        self(core, traffic);
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Command(_) => "Command",
            Self::Publish { .. } => "Publish",
            Self::PublishBlock { .. } => "PublishBlock",
            Self::Query(_) => "Query",
            Self::Flush { .. } => "Flush",
            Self::Block { .. } => "Block",
            #[cfg(feature = "store")]
            Self::FoundBlock(_) => "FoundBlock",
            #[cfg(feature = "store")]
            Self::StoreFailed(_) => "StoreFailed",
            Self::Shutdown(_) => "Shutdown",
        })
    }
}

/// Unread events.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    queue: Mutex<EventQueue>,
    pub(crate) filled: Notify,
}

impl Mailbox {
    fn push(&self, event: Event) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        self.filled.notify_one();
    }

    pub(crate) fn pop(&self) -> Option<Event> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// The driver's state.
pub(crate) struct Driver {
    pub(crate) core: Core,
    pub(crate) identity: Identity,
    pub(crate) transports: Vec<Box<dyn Transport>>,
    /// The node's addresses, for handles to read.
    pub(crate) addresses: Addresses,
    pub(crate) reach: Reach,
    pub(crate) flushes: Flushes,
    pub(crate) workers: Workers,
    pub(crate) messages: UnboundedReceiver<Message>,
    /// For the verdicts of validators. Weak, so that the driver ends when all handles are gone.
    pub(crate) sender: tokio::sync::mpsc::WeakUnboundedSender<Message>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) recorder: Option<Recorder>,
    #[cfg(feature = "store")]
    pub(crate) keeper: Option<Kept>,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
    /// The transport of each connection.
    pub(crate) routes: BTreeMap<ConnectionId, usize>,
    /// The transport of each dial.
    pub(crate) dials: BTreeMap<DialId, usize>,
    pub(crate) fates: BTreeMap<u64, oneshot::Sender<Fate>>,
    pub(crate) requests: u64,
    pub(crate) leaving: Option<Leaving>,
    /// Why the node has stopped, if it was not shut down.
    pub(crate) failure: Arc<OnceLock<Failure>>,
    /// What the next round polls first.
    pub(crate) turn: usize,
}

/// The state that belongs to a store.
#[cfg(feature = "store")]
pub(crate) struct Kept {
    pub(crate) keeper: Keeper,
    /// Items published before the restart, until they have their verdicts.
    pub(crate) restoring: BTreeMap<Ticket, (PoolIndex, Bytes)>,
    /// The last saved revision of the address book, and when it may be saved next.
    pub(crate) book: u64,
    pub(crate) book_at: Time,
}

/// How often a changed address book is saved; a large one less often, so that it takes no more than
/// some 20 KB a second. A node that is killed restarts with the peers that it had met before the
/// last save.
#[cfg(feature = "store")]
const BOOK_EVERY: Duration = Duration::from_millis(250);
#[cfg(feature = "store")]
const LARGE_BOOK: usize = 100;

/// A shutdown in progress.
#[derive(Default)]
pub(crate) struct Leaving {
    until: Time,
    told: Vec<oneshot::Sender<()>>,
}

/// What the driver handles next.
enum Step {
    Happening(usize, Happening),
    Message(Option<Message>),
    Timeout,
}

/// Announces the end of the node when the rest of the driver has been dropped, also after a panic
/// of the core: otherwise readers would wait for events for ever.
struct End {
    mailbox: Arc<Mailbox>,
    failure: Arc<OnceLock<Failure>>,
}

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The first failure counts.
            let _ = self.failure.set(Failure::Panicked);
            tracing::error!("{}", Failure::Panicked);
        }
        self.mailbox.filled.notify_one();
    }
}

impl Driver {
    /// Runs until the node ends. Readers are told, even if the core panics.
    pub(crate) async fn run(self) {
        let _end = End { mailbox: self.mailbox.clone(), failure: self.failure.clone() };
        self.drive().await;
    }

    async fn drive(mut self) {
        let mut timer = Timer::new();
        #[cfg(feature = "store")]
        self.restore();
        loop {
            self.drain();
            #[cfg(feature = "store")]
            self.keep_book(false);
            self.flushes.look(&self.core, self.clock.now());
            if self.reach.look(self.clock.now()) {
                self.transports.iter_mut().for_each(|transport| transport.network_changed());
                self.command(self.reach.command());
                continue;
            }
            if let Some(leaving) = &self.leaving
                && (self.routes.is_empty() || self.clock.now() >= leaving.until)
            {
                break;
            }
            match poll_fn(|cx| self.poll_step(&mut timer, cx)).await {
                Step::Happening(transport, Happening::Input(input)) => {
                    self.on_input(transport, input);
                }
                Step::Happening(_, Happening::Addresses) => self.on_addresses(),
                Step::Message(Some(message)) => self.on_message(message),
                // All handles have been dropped.
                Step::Message(None) => self.leave(None),
                Step::Timeout => {
                    let now = self.clock.now();
                    self.record(|recorder| recorder.timeout(now));
                    self.core.handle_timeout(now);
                }
            }
            rt::breathe().await;
        }
        let transports = self.transports.iter_mut().map(|transport| transport.shut_down());
        futures_util::future::join_all(transports.collect::<Vec<_>>()).await;
        #[cfg(feature = "store")]
        self.close_store().await;
        self.finish();
    }

    /// Publishes items from before the restart again, after new verdicts.
    #[cfg(feature = "store")]
    fn restore(&self) {
        let Some(kept) = &self.keeper else { return };
        for (ticket, (pool, body)) in &kept.restoring {
            let Some(sender) = self.sender.upgrade() else { return };
            let (ticket, pool, body) = (*ticket, *pool, body.clone());
            let id = self.core.item_id(pool, &body);
            let subject = Subject::Item { pool, id, body };
            // There may be many: other questions must not wait for all of them.
            let lane = if self.core.config().workers > 1 { Lane::Shared } else { Lane::Pool(pool) };
            self.workers.ask(subject, Answer::new(ticket, sender), lane);
        }
    }

    /// The verdict on an item published before the restart; `false` if the ticket is another.
    #[cfg(feature = "store")]
    fn restored(&mut self, command: &Command) -> bool {
        let Command::Verdict { ticket, verdict } = command else { return false };
        let Some(kept) = &mut self.keeper else { return false };
        let Some((pool, body)) = kept.restoring.remove(ticket) else { return false };
        let id = self.core.item_id(pool, &body);
        if let Verdict::Accept(admission) = *verdict {
            self.command(Command::Publish { request: 0, pool, body, admission });
        }
        // It may not fit into its pool now: then the store keeps it like one that is in a block.
        self.command(Command::Retain { pool, id });
        true
    }

    /// Saves the address book if it has changed.
    #[cfg(feature = "store")]
    fn keep_book(&mut self, now: bool) {
        let Some(kept) = &mut self.keeper else { return };
        let revision = self.core.peer_book_revision();
        if kept.book == revision || !now && self.clock.now() < kept.book_at {
            return;
        }
        let book = self.core.peer_book();
        let large = 1 + u32::try_from(book.entries.len() / LARGE_BOOK).unwrap_or(u32::MAX);
        kept.book = revision;
        kept.book_at = self.clock.now() + BOOK_EVERY.saturating_mul(large.saturating_mul(large));
        kept.keeper.book(book);
    }

    /// When the address book is to be saved.
    fn book_due(&self) -> Option<Time> {
        #[cfg(feature = "store")]
        if let Some(kept) = &self.keeper
            && kept.book != self.core.peer_book_revision()
        {
            return Some(kept.book_at);
        }
        None
    }

    /// Waits until all writes are durable, and the store can be opened again.
    #[cfg(feature = "store")]
    async fn close_store(&mut self) {
        self.keep_book(true);
        if let Some(kept) = self.keeper.take()
            && rt::within(FAREWELL, kept.keeper.close()).await.is_none()
        {
            tracing::error!("the disk does not answer: the store is left open");
        }
    }

    /// Polls transports, messages and the timer, each first in turn: none of them can starve the
    /// others.
    fn poll_step(&mut self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<Step> {
        let deadline = self.core.poll_timeout().map(|(at, _)| at);
        let farewell = self.leaving.as_ref().map(|leaving| leaving.until);
        let next = deadline.into_iter().chain(farewell).chain(self.book_due());
        let next = next.chain(self.reach.next).chain(self.flushes.next).min();
        let (messages, sources) = (self.transports.len(), self.transports.len() + 2);
        self.turn = (self.turn + 1) % sources;
        for source in (0..sources).map(|n| (self.turn + n) % sources) {
            if let Some(transport) = self.transports.get_mut(source) {
                if let Poll::Ready(happening) = transport.poll(cx) {
                    return Poll::Ready(Step::Happening(source, happening));
                }
            } else if source == messages {
                let deaf = self.leaving.is_some() && self.messages.is_closed();
                if !deaf && let Poll::Ready(message) = self.messages.poll_recv(cx) {
                    return Poll::Ready(Step::Message(message));
                }
            } else if next.is_some_and(|at| at <= self.clock.now()) {
                return Poll::Ready(Step::Timeout);
            }
        }
        timer.poll(&self.clock, next, cx).map(|()| Step::Timeout)
    }

    fn on_input(&mut self, transport: usize, input: Input) {
        match &input {
            Input::Connected(Connected { connection, direction, .. }) => {
                if let Direction::Outbound(dial) = direction {
                    self.dials.remove(dial);
                }
                self.routes.insert(*connection, transport);
            }
            Input::Closed { connection } => {
                self.routes.remove(connection);
            }
            Input::DialFailed { dial, .. } => {
                self.dials.remove(dial);
            }
            _ => {}
        }
        self.input(input);
    }

    /// The addresses of the listeners have changed.
    fn on_addresses(&mut self) {
        let addresses = accepted_at(&self.transports);
        if self.reach.listens_at(&addresses) {
            self.addresses.set(addresses, self.identity.peer_id());
            self.command(self.reach.command());
        }
    }

    fn input(&mut self, input: Input) {
        let now = self.clock.now();
        self.record(|recorder| recorder.input(now, &input));
        self.core.handle_input(now, input);
    }

    fn command(&mut self, command: Command) {
        let now = self.clock.now();
        self.record(|recorder| recorder.command(now, &command));
        self.core.handle_command(now, command);
    }

    fn on_message(&mut self, message: Message) {
        match message {
            #[cfg(feature = "store")]
            Message::Command(command) if self.restored(&command) => {}
            Message::Command(command) => self.command(command),
            #[cfg(feature = "store")]
            Message::StoreFailed(error) => {
                // The first failure counts.
                let _ = self.failure.set(Failure::Store(error));
                self.leave(None);
            }
            Message::Publish { pool, body, admission, fate } => {
                let request = self.request(fate);
                self.command(Command::Publish { request, pool, body, admission });
            }
            Message::PublishBlock { block, fate } => {
                let request = self.request(fate);
                self.command(Command::PublishBlock { request, block });
            }
            Message::Block { at, answer } => self.look_for_block(at, answer),
            #[cfg(feature = "store")]
            Message::FoundBlock(FoundBlock { found, answer }) => {
                let block = found.and_then(|(block, header, body)| {
                    Some(Block { block, header, items: self.core.items_of(body)? })
                });
                let _ = answer.send(block);
            }
            Message::Query(query) => query.look(&self.core, self.traffic()),
            Message::Flush { peers, patience, left } => {
                self.flushes.add((peers, patience), left, self.clock.now());
            }
            Message::Shutdown(told) => self.leave(Some(told)),
        }
    }

    /// Looks in memory first, then in the store.
    fn look_for_block(&self, at: BlockAt, answer: oneshot::Sender<Option<Block>>) {
        let id = match at {
            BlockAt::Id(id) => Some(id),
            BlockAt::Height(height) => self.core.block_at(height),
        };
        let block = id.and_then(|id| self.core.block(&id));
        #[cfg(feature = "store")]
        if let (None, Some(kept)) = (&block, &self.keeper) {
            return kept.keeper.block(at, answer);
        }
        // The caller may have stopped waiting.
        let _ = answer.send(block);
    }

    /// The number of a request whose fate a caller awaits.
    fn request(&mut self, fate: oneshot::Sender<Fate>) -> u64 {
        self.requests += 1;
        self.fates.insert(self.requests, fate);
        self.requests
    }

    fn leave(&mut self, told: Option<oneshot::Sender<()>>) {
        if self.leaving.is_none() {
            self.command(Command::Shutdown);
            let until = self.clock.now() + FAREWELL;
            self.leaving = Some(Leaving { until, told: Vec::new() });
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.told.extend(told);
        }
    }

    /// Handles the core's outputs until there are none.
    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            if let Some(recorder) = &mut self.recorder {
                recorder.output(&output);
            }
            self.dispatch(output);
        }
    }

    fn dispatch(&mut self, output: Output) {
        match output {
            Output::Frame { connection, channel, frame } => {
                if let Some(transport) = self.transport(connection) {
                    transport.send(connection, channel, frame);
                }
            }
            Output::Open { connection, channel } => {
                if let Some(transport) = self.transport(connection) {
                    transport.open(connection, channel);
                }
            }
            Output::Close { connection } => {
                if let Some(transport) = self.transport(connection) {
                    transport.close(connection);
                }
            }
            Output::Dial { dial: id, address, peer, patience, fresh } => {
                let by_offer = address.is_by_offer();
                let found = from_core(&address).and_then(|address| {
                    let mut transports = self.transports.iter();
                    let takes = transports
                        .position(|t| t.handles(&address) || by_offer && t.takes_offers())?;
                    Some((takes, address))
                });
                let Some((at, address)) = found else {
                    let error = DialError::UnsupportedAddress;
                    return self.input(Input::DialFailed { dial: id, error });
                };
                self.dials.insert(id, at);
                self.transports[at].dial(Dial { id, address, peer, patience, fresh });
            }
            Output::Cancel { dial } => {
                if let Some(at) = self.dials.remove(&dial) {
                    self.transports[at].cancel(dial);
                }
            }
            Output::Seal { request, receiver, statement } => {
                let sealed = self.identity.seal(&receiver, &statement);
                self.command(Command::Sealed { request, sealed });
            }
            Output::Unseal { request, sealed, .. } => {
                let statement = self.identity.unseal(&sealed);
                self.command(Command::Unsealed { request, statement });
            }
            Output::Describe { exchange, peer, description } => {
                let at = match exchange {
                    Exchange::Dialed(dial) => self.dials.get(&dial).copied(),
                    Exchange::Offered(_) => self.transports.iter().position(|t| t.takes_offers()),
                };
                if let Some(transport) = at.and_then(|at| self.transports.get_mut(at)) {
                    transport.describe(exchange, peer, description);
                }
            }
            Output::Sign { request, payload } => {
                let signature = self.identity.sign(&payload);
                self.command(Command::Signature { request, signature });
            }
            Output::Verify { ticket, subject, lane } => match self.sender.upgrade() {
                Some(sender) => self.workers.ask(subject, Answer::new(ticket, sender), lane),
                // The last handle is gone: no verdict is awaited any more.
                None => tracing::debug!("shutting down: a question stays open"),
            },
            #[cfg(feature = "store")]
            Output::Load { request, what } => {
                if let Some(kept) = &self.keeper {
                    kept.keeper.load(request, what);
                }
            }
            #[cfg(feature = "store")]
            Output::Store { request, write } => {
                if let Some(kept) = &self.keeper {
                    kept.keeper.write(request, write);
                }
            }
            // Without a store the core never asks.
            #[cfg(not(feature = "store"))]
            Output::Load { .. } | Output::Store { .. } => {}
            Output::Published { request, fate } => {
                if let Some(waiting) = self.fates.remove(&request) {
                    // The caller may have stopped waiting.
                    let _ = waiting.send(fate);
                }
            }
            Output::Event(event) => {
                self.log.event(&event, self.clock.now());
                self.mailbox.push(event);
            }
            // Unreachable while the two crates are of one version.
            output => debug_assert!(false, "nobody does {output:?}"),
        }
    }

    fn transport(&mut self, connection: ConnectionId) -> Option<&mut Box<dyn Transport>> {
        self.transports.get_mut(*self.routes.get(&connection)?)
    }

    fn traffic(&self) -> Traffic {
        self.transports.iter().fold(Traffic::default(), |mut sum, transport| {
            sum += transport.traffic();
            sum
        })
    }

    fn record(&mut self, write: impl FnOnce(&mut Recorder) -> std::io::Result<()>) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = write(recorder)
        {
            tracing::error!("the recording ends here: {error}");
            self.recorder = None;
        }
    }

    fn finish(&mut self) {
        if let Some(Err(error)) = self.recorder.take().map(Recorder::finish) {
            tracing::error!("the recording has no end: {error}");
        }
        self.messages.close();
        self.mailbox.filled.notify_one();
        for told in self.leaving.take().into_iter().flat_map(|leaving| leaving.told) {
            // The caller may have stopped waiting.
            let _ = told.send(());
        }
    }
}

/// A handle's channel to the driver.
pub(crate) type Sender = UnboundedSender<Message>;
