//! The one task that owns the core.
//!
//! It turns what transports say into inputs and outputs into what transports do, and nothing else
//! touches the core. Checks run outside, and come back as commands.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tidegate_proto::id::{ConnectionId, PoolIndex};
use tidegate_proto::io::{Admission, Block, Command, DialError, Event, Fate, Input, Output};
use tidegate_proto::recording::Recorder;
use tidegate_proto::{EventQueue, Node as Core, Time};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, oneshot};

use crate::identity::Identity;
use crate::rt::{self, Clock, Timer};
use crate::transport::{Traffic, Transport, from_core};
use crate::validator::{Answer, Workers};

/// How long connections may take to say goodbye when the node shuts down.
const FAREWELL: Duration = Duration::from_secs(3);

/// What handles and validators tell the driver.
pub(crate) enum Message {
    Command(Command),
    Publish { pool: PoolIndex, body: Bytes, admission: Admission, fate: oneshot::Sender<Fate> },
    PublishBlock { block: Block, fate: oneshot::Sender<Fate> },
    Query(Box<dyn Query>),
    Shutdown(oneshot::Sender<()>),
}

/// A look at the core.
pub(crate) trait Query: Send {
    fn look(self: Box<Self>, core: &Core, traffic: Traffic);
}

impl<F: FnOnce(&Core, Traffic) + Send> Query for F {
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
            Self::Shutdown(_) => "Shutdown",
        })
    }
}

/// Events that wait to be read.
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

/// Everything the driver works with.
pub(crate) struct Driver {
    pub(crate) core: Core,
    pub(crate) identity: Identity,
    pub(crate) transports: Vec<Box<dyn Transport>>,
    pub(crate) workers: Workers,
    pub(crate) messages: UnboundedReceiver<Message>,
    /// For the answers of validators. Weak, so that the driver ends when all handles are gone.
    pub(crate) sender: tokio::sync::mpsc::WeakUnboundedSender<Message>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) clock: Clock,
    /// Which transport each connection is of.
    pub(crate) routes: BTreeMap<ConnectionId, usize>,
    pub(crate) fates: BTreeMap<u64, oneshot::Sender<Fate>>,
    pub(crate) requests: u64,
    pub(crate) leaving: Option<Leaving>,
    /// Whom the next round asks first.
    pub(crate) turn: usize,
}

/// The node shuts down.
#[derive(Default)]
pub(crate) struct Leaving {
    until: Time,
    told: Vec<oneshot::Sender<()>>,
}

/// What happens next.
enum Step {
    Input(usize, Input),
    Message(Option<Message>),
    Timeout,
}

impl Driver {
    pub(crate) async fn run(mut self) {
        let mut timer = Timer::new();
        loop {
            self.drain();
            if let Some(leaving) = &self.leaving
                && (self.routes.is_empty() || self.clock.now() >= leaving.until)
            {
                break;
            }
            match poll_fn(|cx| self.poll_step(&mut timer, cx)).await {
                Step::Input(transport, input) => self.on_input(transport, input),
                Step::Message(Some(message)) => self.on_message(message),
                // All handles are gone.
                Step::Message(None) => self.leave(None),
                Step::Timeout => {
                    let now = self.clock.now();
                    self.record(|recorder| recorder.timeout(now));
                    self.core.handle_timeout(now);
                }
            }
            rt::breathe().await;
        }
        self.finish();
    }

    /// Transports, messages and time take turns to be asked first: none of them can have so much
    /// to say that the others are not heard.
    fn poll_step(&mut self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<Step> {
        let deadline = self.core.poll_timeout().map(|(at, _)| at);
        let farewell = self.leaving.as_ref().map(|leaving| leaving.until);
        let next = deadline.into_iter().chain(farewell).min();
        let (messages, sources) = (self.transports.len(), self.transports.len() + 2);
        self.turn = (self.turn + 1) % sources;
        for source in (0..sources).map(|n| (self.turn + n) % sources) {
            if let Some(transport) = self.transports.get_mut(source) {
                if let Poll::Ready(input) = transport.poll_input(cx) {
                    return Poll::Ready(Step::Input(source, input));
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
            Input::Connected { connection, .. } => {
                self.routes.insert(*connection, transport);
            }
            Input::Closed { connection } => {
                self.routes.remove(connection);
            }
            _ => {}
        }
        self.input(input);
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
            Message::Command(command) => self.command(command),
            Message::Publish { pool, body, admission, fate } => {
                let request = self.request(fate);
                self.command(Command::Publish { request, pool, body, admission });
            }
            Message::PublishBlock { block, fate } => {
                let request = self.request(fate);
                self.command(Command::PublishBlock { request, block });
            }
            Message::Query(query) => query.look(&self.core, self.traffic()),
            Message::Shutdown(told) => self.leave(Some(told)),
        }
    }

    /// A number for what somebody waits to hear the fate of.
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

    /// Does what the core says, until it has nothing more to say.
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
            Output::Dial { dial, address, peer } => {
                let found = from_core(&address).and_then(|address| {
                    let transport = self.transports.iter_mut().find(|t| t.handles(&address))?;
                    Some((transport, address))
                });
                match found {
                    Some((transport, address)) => transport.dial(dial, &address, peer),
                    None => {
                        let error = DialError::UnsupportedAddress;
                        self.input(Input::DialFailed { dial, error });
                    }
                }
            }
            Output::Sign { request, payload } => {
                let signature = self.identity.sign(&payload);
                self.command(Command::Signature { request, signature });
            }
            Output::Verify { ticket, subject } => match self.sender.upgrade() {
                Some(sender) => self.workers.ask(subject, Answer::new(ticket, sender)),
                // The last handle is gone: nobody's answer is waited for.
                None => tracing::debug!("shutting down: a question stays open"),
            },
            // There is no store yet.
            Output::Load { .. } | Output::Store { .. } => {}
            Output::Published { request, fate } => {
                if let Some(waiting) = self.fates.remove(&request) {
                    // Who published may not want to know.
                    let _ = waiting.send(fate);
                }
            }
            Output::Event(event) => {
                log(&event);
                self.mailbox.push(event);
            }
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
            // Who shut the node down may not wait for it.
            let _ = told.send(());
        }
    }
}

/// What operators read. Peers cannot make it long: connections are as rare as dials.
fn log(event: &Event) {
    match event {
        Event::PeerConnected { peer, client, inbound } => {
            tracing::info!(%peer, client, inbound, "connected");
        }
        Event::PeerDisconnected { peer, reason } => {
            tracing::info!(%peer, ?reason, "disconnected");
        }
        Event::Refused { peer, by_us, refusal } => {
            tracing::info!(%peer, by_us, ?refusal, "refused");
        }
        Event::DialFailed { error, .. } => tracing::debug!(%error, "dial failed"),
        Event::TipChanged { block, height } => tracing::debug!(%block, height, "tip"),
        Event::SyncStarted { from, to } => tracing::info!(from, to, "catching up"),
        Event::SyncEnded { from, at } => tracing::info!(from, at, "caught up"),
        Event::ItemAdded { .. } | Event::ItemRemoved { .. } | Event::Lagged(_) => {}
    }
}

/// A handle's way to the driver.
pub(crate) type Sender = UnboundedSender<Message>;
