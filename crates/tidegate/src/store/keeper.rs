//! The thread that writes, and the one that reads: the core never waits for a disk.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use tidegate_proto::config::PeerBook;
use tidegate_proto::io::{Command, Load, Write};
use tokio::sync::mpsc::UnboundedSender;

use super::{Store, StoreError};
use crate::driver::Message;

/// What is written at once at most: a sync costs the same for one as for many.
const BATCH: usize = 1024;

enum Job {
    Write(u64, Write),
    Book(Box<PeerBook>),
}

/// The driver's end of a store.
#[derive(Debug)]
pub(crate) struct Keeper {
    writer: Sender<Job>,
    reader: Sender<(u64, Load)>,
    /// Ends when both threads have let go of the store.
    held: tokio::sync::mpsc::Receiver<Infallible>,
}

/// A thread's share of the store, which says that it is gone when it is.
struct Share {
    // In this order they are dropped.
    store: Arc<Store>,
    _held: tokio::sync::mpsc::Sender<Infallible>,
}

impl Keeper {
    /// Starts the two threads. They tell `driver` what is durable, what was found, and of failure;
    /// they end with this, and keep what was given before.
    pub(crate) fn start(
        store: Arc<Store>,
        driver: tokio::sync::mpsc::WeakUnboundedSender<Message>,
    ) -> std::io::Result<Self> {
        let (writer, jobs) = channel();
        let (reader, loads) = channel();
        let (holds, held) = tokio::sync::mpsc::channel(1);
        let keep = Share { store: store.clone(), _held: holds.clone() };
        let look = Share { store, _held: holds };
        let tell = driver.clone();
        std::thread::Builder::new()
            .name("tidegate-store".into())
            .spawn(move || write(keep, &jobs, &tell))?;
        std::thread::Builder::new()
            .name("tidegate-load".into())
            .spawn(move || read(look, &loads, &driver))?;
        Ok(Self { writer, reader, held })
    }

    /// Keeps something; [`Command::Stored`] follows.
    pub(crate) fn write(&self, request: u64, write: Write) {
        // A thread that is gone has told why.
        let _ = self.writer.send(Job::Write(request, write));
    }

    /// Keeps what is known of peers.
    pub(crate) fn book(&self, book: PeerBook) {
        let _ = self.writer.send(Job::Book(Box::new(book)));
    }

    /// Looks for something; [`Command::Loaded`] follows.
    pub(crate) fn load(&self, request: u64, what: Load) {
        let _ = self.reader.send((request, what));
    }

    /// Is ready when all that was given is durable, or cannot be, and the store is closed: whoever
    /// opens it next finds it whole.
    pub(crate) async fn close(mut self) {
        drop((self.writer, self.reader));
        let None = self.held.recv().await;
    }
}

type Driver = tokio::sync::mpsc::WeakUnboundedSender<Message>;

fn tell(driver: &Driver, message: Message) {
    // Without a driver nobody waits for it.
    if let Some(driver) = driver.upgrade() {
        let _ = UnboundedSender::send(&driver, message);
    }
}

fn write(share: Share, jobs: &Receiver<Job>, driver: &Driver) {
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
            return failed(driver, error);
        }
        if let Some(request) = last {
            tell(driver, Message::Command(Command::Stored { request }));
        }
    }
}

fn read(share: Share, loads: &Receiver<(u64, Load)>, driver: &Driver) {
    while let Ok((request, what)) = loads.recv() {
        match share.store.load(&what) {
            Ok(found) => tell(driver, Message::Command(Command::Loaded { request, found })),
            Err(error) => return failed(driver, error),
        }
    }
}

/// Nothing that comes after is durable: the node stops.
fn failed(driver: &Driver, error: StoreError) {
    tracing::error!("the store fails, and the node stops: {error}");
    tell(driver, Message::StoreFailed(error));
}
