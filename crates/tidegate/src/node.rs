//! The application's handle to a node.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use multiaddr::Multiaddr;
use tidegate_proto::id::{BlockId, ItemId, PeerId, PoolIndex};
use tidegate_proto::io::{Admission, Block, Command, Event, Fate, TipChange};
use tidegate_proto::stats::Stats;
use tidegate_proto::wire::Grant;
use tidegate_proto::{BannedPeer, MaybeSend, Status};
use tokio::sync::oneshot;

use crate::driver::{Mailbox, Message, Sender};
use crate::transport::{Traffic, split_peer, to_core, with_peer};

/// Items being published at a time: as many as a pool holds.
const PUBLISHING: usize = 4096;

/// A running node. Clones refer to the same node; it shuts down when all have been dropped.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) driver: Sender,
    pub(crate) peer: PeerId,
    pub(crate) addresses: Addresses,
    pub(crate) publishing: Arc<AtomicUsize>,
    pub(crate) failure: Arc<OnceLock<Failure>>,
}

/// The addresses of a node: written by its driver, read by its handles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses(Arc<Mutex<Vec<Multiaddr>>>);

impl Addresses {
    pub(crate) fn set(&self, addresses: Vec<Multiaddr>, peer: PeerId) {
        let named = addresses.into_iter().map(|address| with_peer(address, peer)).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = named;
    }

    fn get(&self) -> Vec<Multiaddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why a node has stopped without being shut down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Its store failed.
    #[cfg(feature = "store")]
    #[error(transparent)]
    Store(#[from] crate::StoreError),
    /// Its core panicked, or the application's [`Rules`](tidegate_proto::rules::Rules) did.
    #[error(
        "the node's core panicked, which is a bug: please report the message on standard error"
    )]
    Panicked,
}

/// Why a node refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// It has been shut down.
    #[error("the node has been shut down")]
    Closed,
    /// Too many items are being published.
    #[error("{PUBLISHING} items are being published: wait for their fates before the next")]
    Busy,
}

/// Which block to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockAt {
    /// The one with this id.
    Id(BlockId),
    /// The one at this height of the best chain.
    Height(u64),
}

impl Node {
    /// The node's identity.
    pub fn peer_id(&self) -> PeerId {
        self.shared.peer
    }

    /// Where the node accepts connections now, each with `/p2p/…` at its end. Addresses can come
    /// and go while the node runs, such as those of relays.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.shared.addresses.get()
    }

    /// Dials a peer. With `/p2p/…` at the end of the address, only that identity is accepted.
    ///
    /// [`Event::PeerConnected`], [`Event::Refused`] or [`Event::DialFailed`] tells the result.
    pub fn dial(&self, address: &Multiaddr) -> Result<(), NodeError> {
        let (address, peer) = split_peer(address.clone());
        self.command(Command::Dial { address: to_core(&address), peer })
    }

    /// Ends the connection to a peer.
    pub fn disconnect(&self, peer: PeerId) -> Result<(), NodeError> {
        self.command(Command::Disconnect { peer })
    }

    /// Publishes an item in a pool, from where it spreads. The application must have accepted it,
    /// as it would accept one from a peer.
    ///
    /// It is on its way when this returns; the future tells its fate.
    pub fn publish(
        &self,
        pool: PoolIndex,
        body: impl Into<Bytes>,
        admission: Admission,
    ) -> Result<Publishing, NodeError> {
        let slot = Slot::take(&self.shared.publishing)?;
        let (fate, receiver) = oneshot::channel();
        self.tell(Message::Publish { pool, body: body.into(), admission, fate })?;
        Ok(Publishing { receiver, _slot: slot })
    }

    /// Publishes a block; [`Node::set_tip`] makes it the tip, and may follow at once. The future
    /// tells the block's fate.
    pub fn publish_block(&self, block: Block) -> Result<Publishing, NodeError> {
        let slot = Slot::take(&self.shared.publishing)?;
        let (fate, receiver) = oneshot::channel();
        self.tell(Message::PublishBlock { block, fate })?;
        Ok(Publishing { receiver, _slot: slot })
    }

    /// Changes the tip, and the pools with it.
    pub fn set_tip(&self, change: TipChange) -> Result<(), NodeError> {
        self.command(Command::SetTip(change))
    }

    /// Raises a peer's grant on a pool, for instance for a node of the same operator.
    pub fn raise(&self, peer: PeerId, pool: PoolIndex, grant: Grant) -> Result<(), NodeError> {
        self.command(Command::Raise { peer, pool, grant })
    }

    /// Why the node has stopped, if it was not shut down: its events have ended then.
    pub fn failure(&self) -> Option<&Failure> {
        self.shared.failure.get()
    }

    /// The node's status: peers, pools and tip.
    pub async fn status(&self) -> Result<Status, NodeError> {
        self.query(|core, _| core.status()).await
    }

    /// Counters since the start.
    pub async fn stats(&self) -> Result<Stats, NodeError> {
        self.query(|core, _| core.stats().clone()).await
    }

    /// Bytes on the wire since the start.
    pub async fn traffic(&self) -> Result<Traffic, NodeError> {
        self.query(|_, traffic| traffic).await
    }

    /// Up to `most` items of a pool, the best first, and whether each is executable.
    pub async fn pool(&self, pool: PoolIndex, most: usize) -> Result<Vec<PoolItem>, NodeError> {
        self.query(move |core, _| {
            let item = |(id, body, executable): (ItemId, &Bytes, bool)| PoolItem {
                id,
                body: body.clone(),
                executable,
            };
            core.pool(pool).take(most).map(item).collect()
        })
        .await
    }

    /// An item of a pool; `None` if the pool does not have it.
    pub async fn item(&self, pool: PoolIndex, id: ItemId) -> Result<Option<PoolItem>, NodeError> {
        self.query(move |core, _| {
            let (body, executable) = core.item(pool, &id)?;
            Some(PoolItem { id, body: body.clone(), executable })
        })
        .await
    }

    /// A block that was executed, with its items: by its id, or by its height on the best chain. It
    /// comes from memory (the last ones) or from the store; `None` if it is in neither. The items
    /// of the genesis, and without a store those of old blocks, are nowhere.
    pub async fn block(&self, at: BlockAt) -> Result<Option<Block>, NodeError> {
        let (answer, receiver) = oneshot::channel();
        self.tell(Message::Block { at, answer })?;
        receiver.await.map_err(|_| NodeError::Closed)
    }

    /// Peers that are banned for a violation.
    pub async fn banned_peers(&self) -> Result<Vec<BannedPeer>, NodeError> {
        self.query(|core, _| core.banned_peers()).await
    }

    /// Ids of all items of a pool, ascending.
    pub async fn pool_ids(&self, pool: PoolIndex) -> Result<Vec<ItemId>, NodeError> {
        self.query(move |core, _| core.pool_ids(pool).copied().collect()).await
    }

    /// Connected peers that are known to have an item of a pool: they took it from this node, or
    /// offered it. `None` if it is not in the pool.
    pub async fn holders(
        &self,
        pool: PoolIndex,
        id: ItemId,
    ) -> Result<Option<Vec<PeerId>>, NodeError> {
        self.query(move |core, _| core.holders(pool, &id)).await
    }

    /// Waits until `peers` connected peers have taken each item that was published here and that its pool
    /// still holds, but no longer than `patience`; returns how many items fewer have. If fewer peers share
    /// a pool, all of them must, and at least one.
    ///
    /// [`Fate::Accepted`](crate::io::Fate::Accepted) says that an item is in the pool of this node. When a
    /// node without a store stops, items that no peer has are lost: call this first.
    ///
    /// ```
    /// # async fn stop(node: tidegate::Node) -> Result<(), tidegate::NodeError> {
    /// let left = node.flush(2, std::time::Duration::from_secs(5)).await?;
    /// if left > 0 {
    ///     eprintln!("{left} items are known to fewer than two peers");
    /// }
    /// node.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn flush(&self, peers: usize, patience: Duration) -> Result<usize, NodeError> {
        let (left, receiver) = oneshot::channel();
        self.tell(Message::Flush { peers, patience, left })?;
        receiver.await.map_err(|_| NodeError::Closed)
    }

    /// Says goodbye to all peers and stops at once: items that no peer has yet are not sent any
    /// more ([`flush`](Self::flush)). Afterwards the store can be opened again.
    pub async fn shutdown(&self) {
        let (told, done) = oneshot::channel();
        if self.tell(Message::Shutdown(told)).is_ok() {
            // An error means that the node has already stopped.
            let _ = done.await;
        }
    }

    fn command(&self, command: Command) -> Result<(), NodeError> {
        self.tell(Message::Command(command))
    }

    fn tell(&self, message: Message) -> Result<(), NodeError> {
        self.shared.driver.send(message).map_err(|_| NodeError::Closed)
    }

    async fn query<T: MaybeSend + 'static>(
        &self,
        look: impl FnOnce(&tidegate_proto::Node, Traffic) -> T + MaybeSend + 'static,
    ) -> Result<T, NodeError> {
        let (answer, receiver) = oneshot::channel();
        let query = move |core: &tidegate_proto::Node, traffic| {
            // The caller may have stopped waiting.
            let _ = answer.send(look(core, traffic));
        };
        self.tell(Message::Query(Box::new(query)))?;
        receiver.await.map_err(|_| NodeError::Closed)
    }
}

/// An item of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolItem {
    /// Its id.
    pub id: ItemId,
    /// Its bytes.
    pub body: Bytes,
    /// Whether it can be executed: no predecessor is missing.
    pub executable: bool,
}

/// A future of the fate of an item or a block.
#[derive(Debug)]
pub struct Publishing {
    receiver: oneshot::Receiver<Fate>,
    _slot: Slot,
}

impl Future for Publishing {
    type Output = Result<Fate, NodeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map_err(|_| NodeError::Closed)
    }
}

/// A permit to publish one item.
#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(places: &Arc<AtomicUsize>) -> Result<Self, NodeError> {
        let slot = Self(places.clone());
        match places.fetch_add(1, Ordering::Relaxed) {
            taken if taken < PUBLISHING => Ok(slot),
            // Dropping the new slot releases it again.
            _ => Err(NodeError::Busy),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The events of a node, for one reader.
///
/// The node never waits for the reader: after 1,024 unread events further ones are counted, and
/// [`Event::Lagged`] stands in their place.
#[derive(Debug)]
pub struct Events {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) node: tokio::sync::mpsc::WeakUnboundedSender<Message>,
}

impl Events {
    /// The next event; `None` when the node is gone.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            // In this order: a node's last events come before its end.
            let over = self.node.upgrade().is_none_or(|node| node.is_closed());
            if let Some(event) = self.mailbox.pop() {
                return Some(event);
            }
            if over {
                return None;
            }
            // Wakes up for events pushed since the check above, and for the end of the node.
            self.mailbox.filled.notified().await;
        }
    }

    /// The next event, if there is one.
    pub fn try_next(&mut self) -> Option<Event> {
        self.mailbox.pop()
    }
}
