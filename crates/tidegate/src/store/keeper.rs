//! Two threads for the store, one that writes and one that reads, so that the core never waits for
//! a disk.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use tidegate_proto::config::PeerBook;
use tidegate_proto::id::BlockId;
use tidegate_proto::io::{Block, Command, Load, Write};
use tokio::sync::mpsc::UnboundedSender;

use super::{Store, StoreError};
use crate::driver::Message;
use crate::node::BlockAt;
use crate::rt;

/// Writes in one transaction at most: a sync costs the same for one as for many.
const BATCH: usize = 1024;

/// A stored block, for a caller that waits for it.
pub(crate) struct FoundBlock {
    /// Id, header and encoded items, if there is such a block.
    pub(crate) found: Option<(BlockId, Bytes, Bytes)>,
    pub(crate) answer: tokio::sync::oneshot::Sender<Option<Block>>,
}

enum Question {
    Peer(u64, Load),
    Block(BlockAt, tokio::sync::oneshot::Sender<Option<Block>>),
}

enum Job {
    Write(u64, Write),
    Book(Box<PeerBook>),
}

/// The driver's handle to the store's threads.
#[derive(Debug)]
pub(crate) struct Keeper {
    writer: Sender<Job>,
    reader: Sender<Question>,
    /// Closed when both threads have dropped the store.
    held: tokio::sync::mpsc::Receiver<Infallible>,
}

/// A thread's share of the store; dropping it shows that the thread is gone.
struct Share {
    // Dropped in this order.
    store: Arc<Store>,
    driver: Driver,
    _held: tokio::sync::mpsc::Sender<Infallible>,
}

impl Drop for Share {
    /// If the thread was lost, the driver must be told, since it would wait for ever.
    fn drop(&mut self) {
        if std::thread::panicking() {
            failed(&self.driver, StoreError::Panicked { path: self.store.path.clone() });
        }
    }
}

impl Keeper {
    /// Starts the two threads. They tell `driver` what is durable, what was found, and failures;
    /// they end when this is dropped, after all earlier writes.
    pub(crate) fn start(store: Arc<Store>, driver: Driver) -> std::io::Result<Self> {
        let (writer, jobs) = channel();
        let (reader, loads) = channel();
        let (holds, held) = tokio::sync::mpsc::channel(1);
        let keep = Share { store: store.clone(), driver: driver.clone(), _held: holds.clone() };
        let look = Share { store, driver, _held: holds };
        rt::thread("tidegate-store".into(), move || write(&keep, &jobs))?;
        rt::thread("tidegate-load".into(), move || read(&look, &loads))?;
        Ok(Self { writer, reader, held })
    }

    /// Writes something; [`Command::Stored`] follows.
    pub(crate) fn write(&self, request: u64, write: Write) {
        // A thread that is gone has reported why.
        let _ = self.writer.send(Job::Write(request, write));
    }

    /// Saves the address book.
    pub(crate) fn book(&self, book: PeerBook) {
        let _ = self.writer.send(Job::Book(Box::new(book)));
    }

    /// Loads something; [`Command::Loaded`] follows.
    pub(crate) fn load(&self, request: u64, what: Load) {
        let _ = self.reader.send(Question::Peer(request, what));
    }

    /// Loads a block; [`Message::FoundBlock`] follows.
    pub(crate) fn block(&self, at: BlockAt, answer: tokio::sync::oneshot::Sender<Option<Block>>) {
        let _ = self.reader.send(Question::Block(at, answer));
    }

    /// Completes when all writes are durable, or have failed, and the store is closed: it can be
    /// opened again then.
    pub(crate) async fn close(mut self) {
        drop((self.writer, self.reader));
        let None = self.held.recv().await;
    }
}

type Driver = tokio::sync::mpsc::WeakUnboundedSender<Message>;

fn tell(driver: &Driver, message: Message) {
    // Without a driver no one waits for it.
    if let Some(driver) = driver.upgrade() {
        let _ = UnboundedSender::send(&driver, message);
    }
}

fn write(share: &Share, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let (mut writes, mut last, mut book) = (Vec::new(), None, None);
        let more = std::iter::from_fn(|| jobs.try_recv().ok());
        for job in std::iter::once(first).chain(more).take(BATCH) {
            match job {
                Job::Write(request, write) => {
                    writes.push(write);
                    last = Some(request);
                }
                Job::Book(newest) => book = Some(newest),
            }
        }
        if (last.is_some() || book.is_some())
            && let Err(error) = share.store.keep(&writes, book.as_deref())
        {
            return failed(&share.driver, error);
        }
        if let Some(request) = last {
            tell(&share.driver, Message::Command(Command::Stored { request }));
        }
    }
}

fn read(share: &Share, questions: &Receiver<Question>) {
    while let Ok(question) = questions.recv() {
        let message = match question {
            Question::Peer(request, what) => {
                let found = share.store.load(&what);
                found.map(|found| Message::Command(Command::Loaded { request, found }))
            }
            Question::Block(at, answer) => {
                let found = share.store.block(at);
                found.map(|found| Message::FoundBlock(FoundBlock { found, answer }))
            }
        };
        match message {
            Ok(message) => tell(&share.driver, message),
            Err(error) => return failed(&share.driver, error),
        }
    }
}

/// Later writes cannot become durable either: the node stops.
fn failed(driver: &Driver, error: StoreError) {
    tracing::error!("the store fails, and the node stops: {error}");
    tell(driver, Message::StoreFailed(error));
}
