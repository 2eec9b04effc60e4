//! What is compared: one [`Stack`] each, and the interface that all of them implement.

use std::net::SocketAddr;

use anyhow::Result;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub(crate) type Doing<'a, T> = BoxFuture<'a, Result<T>>;

/// The stack that all others are compared with.
pub(crate) const REFERENCE: &str = "quinn";

/// The transport protocol of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Udp,
    Tcp,
}

/// Which metrics of a stack are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything.
    All,
    /// All but bulk transfers, which the stack is not made for.
    NoBulk,
    /// Dials and requests; the rest is the same as for another stack.
    Talk,
    /// Dials alone.
    Dials,
}

/// The address and the identity of a listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) socket: SocketAddr,
    /// Its identity, in the stack's own form; empty if it has none or all know it.
    pub(crate) key: String,
}

/// A way to connect and to talk.
pub(crate) trait Stack: Send + Sync {
    fn name(&self) -> &'static str;

    fn carrier(&self) -> Carrier;

    /// What must be known to compare its figures.
    fn note(&self) -> Option<&'static str> {
        None
    }

    /// The metrics to measure.
    fn scope(&self) -> Scope {
        Scope::All
    }

    /// Runs work on the stack's runtime.
    fn run(&'static self, work: BoxFuture<'static, Result<()>>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        // As a task: the thread that blocks on it is not a worker.
        runtime.block_on(async { tokio::spawn(work).await? })
    }

    /// Accepts connections and answers requests for the life of the process.
    fn serve(&'static self) -> Doing<'static, Target>;

    /// Prepares a dialer. Each number is used once.
    fn dialer(&'static self, number: u64, target: Target) -> Doing<'static, Box<dyn Dialer>>;
}

/// A dialer that is ready, with sockets, keys and tasks of its own.
pub(crate) trait Dialer: Send {
    /// Connects, sends a first message of [`FIRST`] bytes, and returns once its answer of one byte
    /// has arrived.
    fn first(self: Box<Self>) -> Doing<'static, Box<dyn Link>>;
}

pub(crate) const FIRST: u64 = 64;

/// A connection that is open.
pub(crate) trait Link: Send {
    /// Sends a request of one size, and returns once an answer of the other size has arrived.
    fn ask(&mut self, body: u64, answer: u32) -> Doing<'_, ()>;

    /// Ends the connection.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}
