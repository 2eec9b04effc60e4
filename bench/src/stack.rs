//! What is compared: one [`Stack`] each, and what is asked of all of them.

use std::net::SocketAddr;

use anyhow::Result;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub(crate) type Doing<'a, T> = BoxFuture<'a, Result<T>>;

/// The stack that all others are compared with.
pub(crate) const REFERENCE: &str = "quinn";

/// What a stack's packets travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Udp,
    Tcp,
}

/// What of a stack is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything.
    All,
    /// Everything but bulk: it has nothing that is meant for it.
    NoBulk,
    /// Dials and requests: all else is as in another row.
    Talk,
    /// Dials alone.
    Dials,
}

/// Where a listener is, and who.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) socket: SocketAddr,
    /// Its identity, as the stack writes it; empty if it has none or all know it.
    pub(crate) key: String,
}

/// A way to connect and to talk.
pub(crate) trait Stack: Send + Sync {
    fn name(&self) -> &'static str;

    fn carrier(&self) -> Carrier;

    /// What of its figures means something else than those of the others.
    fn note(&self) -> Option<&'static str> {
        None
    }

    /// What of it is measured.
    fn scope(&self) -> Scope {
        Scope::All
    }

    /// Runs the process's work on the stack's runtime.
    fn run(&'static self, work: BoxFuture<'static, Result<()>>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        // As a task: the thread that waits for it is not a worker.
        runtime.block_on(async { tokio::spawn(work).await? })
    }

    /// Accepts connections and answers on them for as long as the process lives.
    fn serve(&'static self) -> Doing<'static, Target>;

    /// Gets ready to dial. Each number is given once.
    fn dialer(&'static self, number: u64, target: Target) -> Doing<'static, Box<dyn Dialer>>;
}

/// A dialer that is ready, with sockets, keys and tasks of its own.
pub(crate) trait Dialer: Send {
    /// Connects, sends a first message of [`FIRST`] bytes, and returns when its answer of one byte
    /// is there.
    fn first(self: Box<Self>) -> Doing<'static, Box<dyn Link>>;
}

pub(crate) const FIRST: u64 = 64;

/// A connection that is open.
pub(crate) trait Link: Send {
    /// Sends a request of one size and returns when an answer of the other size is there.
    fn ask(&mut self, body: u64, answer: u32) -> Doing<'_, ()>;

    /// Ends the connection.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}
