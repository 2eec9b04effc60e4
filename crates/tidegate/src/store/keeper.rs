//! The thread that writes, and the one that reads: the core never waits for a disk.

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
    /// Tells when all before it is durable.
    Flush(tokio::sync::oneshot::Sender<()>),
}

/// The driver's end of a store.
#[derive(Debug)]
pub(crate) struct Keeper {
    writer: Sender<Job>,
    reader: Sender<(u64, Load)>,
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
        let (keep, tell) = (store.clone(), driver.clone());
        std::thread::Builder::new()
            .name("tidegate-store".into())
            .spawn(move || write(&keep, &jobs, &tell))?;
        std::thread::Builder::new()
            .name("tidegate-load".into())
            .spawn(move || read(&store, &loads, &driver))?;
        Ok(Self { writer, reader })
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

    /// Is ready when all that was given is durable, or cannot be.
    pub(crate) fn flush(&self) -> tokio::sync::oneshot::Receiver<()> {
        let (done, flushed) = tokio::sync::oneshot::channel();
        let _ = self.writer.send(Job::Flush(done));
        flushed
    }
}

type Driver = tokio::sync::mpsc::WeakUnboundedSender<Message>;

fn tell(driver: &Driver, message: Message) {
    // Without a driver nobody waits for it.
    if let Some(driver) = driver.upgrade() {
        let _ = UnboundedSender::send(&driver, message);
    }
}

fn write(store: &Store, jobs: &Receiver<Job>, driver: &Driver) {
    while let Ok(first) = jobs.recv() {
        let (mut writes, mut last, mut book, mut flushes) = (Vec::new(), None, None, Vec::new());
        let more = std::iter::from_fn(|| jobs.try_recv().ok());
        for job in std::iter::once(first).chain(more).take(BATCH) {
            match job {
                Job::Write(request, write) => {
                    writes.push(write);
                    last = Some(request);
                }
                Job::Book(newest) => book = Some(newest),
                Job::Flush(done) => flushes.push(done),
            }
        }
        if (last.is_some() || book.is_some())
            && let Err(error) = store.keep(&writes, book.as_deref())
        {
            return failed(driver, error);
        }
        if let Some(request) = last {
            tell(driver, Message::Command(Command::Stored { request }));
        }
        for flushed in flushes {
            let _ = flushed.send(());
        }
    }
}

fn read(store: &Store, loads: &Receiver<(u64, Load)>, driver: &Driver) {
    while let Ok((request, what)) = loads.recv() {
        match store.load(&what) {
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
