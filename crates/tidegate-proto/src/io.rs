//! The border of the core: everything that goes in, and everything that comes out.
//!
//! All of it is plain data and can be written to a file; the [`Input`]s and [`Command`]s in their
//! order, with their times, are the whole run of a node.
//!
//! # Not guaranteed
//!
//! That an [`Event`] is read: nothing depends on it, and if too many are unread the newer ones are
//! dropped and counted ([`Event::Lagged`]). That a published item stays in any pool: better ones
//! may evict it. That peers get items in the order of publication.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::channel::Kind;
use crate::id::{
    AccountId, Address, BlockId, ConnectionId, DialId, ItemId, ItemKey, OfferId, PeerId, PoolIndex,
    SealingKey, Signature, Ticket,
};
use crate::rules::Account;
use crate::violation::Violation;
use crate::wire::{Binding, Description, Frame, Goodbye, Grant, Refusal};

mod failed;

pub use failed::DialError;
pub(crate) use failed::SignalError;

/// What happened on the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Input {
    /// A connection is up, and the peer has proven its identity to the transport.
    Connected(Connected),
    /// The peer's address has changed; the connection is the same.
    Moved {
        /// Which connection.
        connection: ConnectionId,
        /// The peer's new address.
        address: Address,
    },
    /// A dial failed.
    DialFailed {
        /// Which dial.
        dial: DialId,
        /// Why.
        error: DialError,
    },
    /// A frame arrived. Frames of one channel arrive in the order in which they were sent.
    Frame {
        /// On which connection.
        connection: ConnectionId,
        /// On which channel instance.
        channel: u32,
        /// The frame.
        frame: Frame,
    },
    /// The frame given for this channel has been taken by the transport: the next may be given.
    Writable {
        /// On which connection.
        connection: ConnectionId,
        /// Which channel instance.
        channel: u32,
    },
    /// A connection has ended. No more inputs follow for it.
    Closed {
        /// Which.
        connection: ConnectionId,
    },
    /// A transport tells what the other end of an exchange must know: the offer of a dial, or the
    /// answer to an offer of [`Output::Describe`].
    Described {
        /// Which exchange.
        exchange: Exchange,
        /// How this node can be reached.
        description: Description,
    },
    /// A transport has no place for an offer, or can do nothing with it.
    Declined {
        /// Which offer.
        offer: OfferId,
    },
}

/// An offer and its answer, by which two nodes get to know how they can reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Exchange {
    /// This node dials: it makes the offer.
    Dialed(DialId),
    /// Another node dials.
    Offered(OfferId),
}

/// A new connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Connected {
    /// The connection; its number has never been used before.
    pub connection: ConnectionId,
    /// The proven identity.
    pub peer: PeerId,
    /// Which side dialed.
    pub direction: Direction,
    /// The peer's address.
    pub address: Address,
    /// If this node dialed from a listener's socket: the listener, as given in
    /// [`Command::Listening`]. Where the peer sees this node then says something about that
    /// listener.
    pub listener: Option<Address>,
    /// Derived by both ends from the session.
    pub binding: Binding,
    /// How directly the connection leads to the peer: both ends must give the same value.
    pub path: Path,
}

impl Connected {
    /// A direct connection that was not dialed from a listener's socket.
    pub fn new(
        connection: ConnectionId,
        peer: PeerId,
        direction: Direction,
        address: Address,
        binding: Binding,
    ) -> Self {
        let path = Path::Direct;
        Self { connection, peer, direction, address, listener: None, binding, path }
    }

    /// Sets the listener from whose socket it was dialed, if any.
    #[must_use]
    pub fn from_listener(mut self, listener: Option<Address>) -> Self {
        self.listener = listener;
        self
    }

    /// Sets a path other than a direct one.
    #[must_use]
    pub fn by(mut self, path: Path) -> Self {
        self.path = path;
        self
    }
}

/// How directly a connection leads to its peer. Of two connections between the same two processes,
/// the one with the better path stays (specification section 5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Path {
    /// Through another peer, or a network of them: uses their bandwidth, and they can end it.
    Relayed,
    /// Direct, but by a carrier without flow control for each channel, such as WebRTC's data channels or one stream
    /// of TCP.
    Adapted,
    /// Direct, by a carrier with flow control for each channel, such as QUIC.
    #[default]
    Direct,
}

/// Why two nodes do not share a pool, or blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NotShared {
    /// The peer has no pool of that name, or no blocks.
    #[error("the peer has it not")]
    NotOffered,
    /// They have no version in common.
    #[error("the peer has no version of it that this node has")]
    NoCommonVersion,
    /// Their rules for the highest common version differ: another
    /// [`Rules::id`](crate::rules::Rules::id), or another largest item; for blocks also another
    /// largest block, or other pools whose items blocks may contain.
    #[error(
        "the peer has other rules for it: another id of the rules, or another largest item or block"
    )]
    OtherRules,
}

/// Which side dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// This node.
    Outbound(DialId),
}

impl Direction {
    /// Whether the peer dialed.
    pub fn is_inbound(self) -> bool {
        self == Self::Inbound
    }
}

/// What the application wants, and its answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Command {
    /// Dial a peer.
    Dial {
        /// Where.
        address: Address,
        /// The expected identity; any if `None`.
        peer: Option<PeerId>,
    },
    /// End the connection to a peer.
    Disconnect {
        /// Which peer.
        peer: PeerId,
    },
    /// The node's listeners, or the addresses where they can be reached, have changed.
    Listening {
        /// The bound addresses. "Any interface" stands for the addresses of all interfaces.
        listeners: Vec<Address>,
        /// The addresses of the machine's interfaces; only the IP component counts. Empty if they
        /// are unknown.
        interfaces: Vec<Address>,
        /// Further addresses that the operator names, for instance of a router that forwards a
        /// port.
        external: Vec<Address>,
    },
    /// The answer to [`Output::Sign`].
    Signature {
        /// Its number.
        request: u64,
        /// The signature.
        signature: Signature,
    },
    /// The answer to [`Output::Seal`].
    Sealed {
        /// Its number.
        request: u64,
        /// What is sealed; `None` if the receiver's key is none.
        sealed: Option<Bytes>,
    },
    /// The answer to [`Output::Unseal`].
    Unsealed {
        /// Its number.
        request: u64,
        /// What was sealed; `None` if it was not sealed to this node, or was changed.
        statement: Option<Bytes>,
    },
    /// The answer to [`Output::Verify`].
    Verdict {
        /// Its ticket.
        ticket: Ticket,
        /// The answer.
        verdict: Verdict,
    },
    /// Publishes an item in a pool. [`Output::Published`] tells its fate.
    Publish {
        /// A number that the application chooses, for the answer.
        request: u64,
        /// The pool.
        pool: PoolIndex,
        /// The item.
        body: Bytes,
        /// The verdict, which must be *accept*.
        admission: Admission,
    },
    /// Publishes a block. It counts as accepted. [`Output::Published`] tells its fate.
    PublishBlock {
        /// A number that the application chooses, for the answer; blocks and items share one
        /// series.
        request: u64,
        /// The block.
        block: Block,
    },
    /// Changes the tip, and the pools with it.
    SetTip(TipChange),
    /// Raises a peer's grant on one pool.
    Raise {
        /// Which peer.
        peer: PeerId,
        /// The pool.
        pool: PoolIndex,
        /// The new grant; none of its limits may be lower than before.
        grant: Grant,
    },
    /// An item published before a restart is not executable at present: it is in a block, or stale.
    /// It is kept in the store while a re-org could bring it back.
    Retain {
        /// Its pool.
        pool: PoolIndex,
        /// Its id.
        id: ItemId,
    },
    /// The answer to [`Output::Load`].
    Loaded {
        /// Its number.
        request: u64,
        /// What was found.
        found: Found,
    },
    /// The answer to [`Output::Store`]: this write and all before it are durable.
    Stored {
        /// Its number.
        request: u64,
    },
    /// Says goodbye to all peers and refuses all from now on.
    Shutdown,
}

/// The application's answer about an item, a header or a block.
///
/// It must be a function of that thing and the tip, never of what else has arrived: that is what
/// makes the pools of all nodes converge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Verdict {
    /// It is good.
    Accept(Admission),
    /// It proves that whoever made or relayed it misbehaved, whatever the state of the chain.
    Reject,
    /// It is of no use now: stale, too early, or failing for a reason that depends on state.
    Ignore,
}

/// Details of *accept*. For headers and blocks the default will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The lowest height of a tip at which the item is executable.
    pub from: u64,
    /// For an item in an account's chain: the account at the tip.
    pub account: Option<Account>,
}

/// A better tip, and what changes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TipChange {
    /// The executed block that is the best now.
    pub block: BlockId,
    /// Keys of items that leave the pools: they are in a block, or stale.
    pub remove: Vec<(PoolIndex, ItemKey)>,
    /// Keys of items that are not executable at this tip but may be at another, since blocks that
    /// they depend on were undone. They are shelved for as many blocks as a re-org may undo.
    pub shelve: Vec<(PoolIndex, ItemKey)>,
    /// Keys of shelved items that are executable again. Those that an account admits again are
    /// found without this.
    pub restore: Vec<(PoolIndex, ItemKey)>,
    /// Items of blocks that are no longer on the best chain, and that are executable again.
    pub add: Vec<(PoolIndex, Bytes, Admission)>,
    /// Accounts that have changed with the tip. Their items that are not admissible any more are
    /// dropped.
    pub accounts: Vec<(AccountId, Account)>,
    /// The application's own state, stored together with the tip: keys and values, `None` to remove
    /// one. Ignored without a store.
    pub state: Vec<(Bytes, Option<Bytes>)>,
}

impl TipChange {
    /// A tip that changes nothing in the pools.
    pub fn new(block: BlockId) -> Self {
        Self {
            block,
            remove: Vec::new(),
            shelve: Vec::new(),
            restore: Vec::new(),
            add: Vec::new(),
            accounts: Vec::new(),
            state: Vec::new(),
        }
    }
}

/// A block: its header and its items, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its id.
    pub block: BlockId,
    /// Its header.
    pub header: Bytes,
    /// Its items.
    pub items: Vec<BlockItem>,
}

/// An item of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockItem {
    /// The pool it belongs to.
    pub pool: PoolIndex,
    /// Its id.
    pub id: ItemId,
    /// Its bytes.
    pub body: Bytes,
    /// Whether it came from this node's pool, where it was accepted: it need not be checked again.
    pub known: bool,
}

/// What the driver must do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Output {
    /// Dial an address.
    Dial {
        /// The number for the answer.
        dial: DialId,
        /// The address.
        address: Address,
        /// The expected identity, if known.
        peer: Option<PeerId>,
        /// The timeout of the dial; [`Output::Cancel`] follows when it is over.
        patience: Duration,
        /// From a fresh socket, if the transport has such: to test whether strangers can dial the
        /// peer there, no earlier packet must have left from the same port.
        fresh: bool,
    },
    /// Cancel a dial: it must not lead to a connection any more, and needs no answer.
    Cancel {
        /// Which dial.
        dial: DialId,
    },
    /// Send a frame, then give [`Input::Writable`] for its channel.
    Frame {
        /// On which connection.
        connection: ConnectionId,
        /// On which channel instance.
        channel: u32,
        /// The frame.
        frame: Frame,
    },
    /// Start reading this channel instance, which was to be left unread until now.
    Open {
        /// On which connection.
        connection: ConnectionId,
        /// Which channel instance.
        channel: u32,
    },
    /// Close a connection once everything given for channel 0 has been sent. [`Input::Closed`]
    /// follows.
    Close {
        /// Which.
        connection: ConnectionId,
    },
    /// Sign with the node's key and answer with [`Command::Signature`].
    Sign {
        /// The number for the answer.
        request: u64,
        /// What to sign.
        payload: Bytes,
    },
    /// Ask the application, and answer with [`Command::Verdict`], however late.
    Verify {
        /// The number for the answer.
        ticket: Ticket,
        /// The item, header or block.
        subject: Subject,
        /// The worker for it.
        lane: Lane,
    },
    /// Load something from the store that a peer requests, and answer with [`Command::Loaded`].
    /// Only with [`Config::store`](crate::Config::store).
    Load {
        /// The number for the answer.
        request: u64,
        /// What to load.
        what: Load,
    },
    /// Store something, and give [`Command::Stored`] once it and all earlier writes are durable.
    /// Only with [`Config::store`](crate::Config::store).
    Store {
        /// The number for the answer, one more than the last.
        request: u64,
        /// What to store.
        write: Write,
    },
    /// Sign a statement with the node's key, append the signature as in
    /// [`SignedStatement`](crate::wire::SignedStatement), seal both to a key (specification section
    /// 18.2), and answer with [`Command::Sealed`].
    Seal {
        /// The number for the answer.
        request: u64,
        /// Whose eyes it is for.
        receiver: SealingKey,
        /// The encoding of a [`Statement`](crate::wire::Statement).
        statement: Bytes,
    },
    /// Open what was sealed to the node's key, [`Config::sealing`](crate::Config::sealing), and
    /// answer with [`Command::Unsealed`].
    Unseal {
        /// The number for the answer.
        request: u64,
        /// The peer that carried it.
        via: PeerId,
        /// The sender, as that peer claims.
        from: PeerId,
        /// What was sealed.
        sealed: Bytes,
    },
    /// Give the transport of an exchange the description of the other end, whose identity is
    /// proven: an offer, which is answered with [`Input::Described`] or [`Input::Declined`], or the
    /// answer to that of a dial.
    Describe {
        /// Which exchange.
        exchange: Exchange,
        /// Who made it.
        peer: PeerId,
        /// How it can be reached.
        description: Description,
    },
    /// The fate of a published item or block.
    Published {
        /// The application's number.
        request: u64,
        /// Its fate.
        fate: Fate,
    },
    /// Something the application may want to know.
    Event(Event),
}

/// Something that a peer requests and that is not in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Load {
    /// Headers of the best chain.
    Headers {
        /// They follow the first of these blocks that is on the best chain.
        locator: Vec<BlockId>,
        /// How many at most.
        most: u32,
    },
    /// The items of a block.
    Block(BlockId),
}

/// What was found in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Headers, each the child of the one before.
    Headers(Vec<Bytes>),
    /// The items of a block, as they were given in [`Write::Block`].
    Block(Bytes),
}

/// Something to store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Write {
    /// A published item. It is published again after a restart.
    Item {
        /// Its pool.
        pool: PoolIndex,
        /// Its id.
        id: ItemId,
        /// Its bytes.
        body: Bytes,
    },
    /// A published item can be deleted: its block is so deep that no re-org can bring it
    /// back, or it was evicted.
    Forget {
        /// Its pool.
        pool: PoolIndex,
        /// Its id.
        id: ItemId,
    },
    /// An accepted block.
    Block {
        /// Its id.
        block: BlockId,
        /// Its parent.
        parent: BlockId,
        /// Its height.
        height: u64,
        /// Its header.
        header: Bytes,
        /// Its items: the encoding of a [`BlockBody`](crate::wire::BlockBody).
        body: Bytes,
    },
    /// The tip moves to a block written earlier.
    Tip {
        /// The block.
        block: BlockId,
        /// Its height.
        height: u64,
        /// The application's own state, to be written atomically with the tip: keys and values,
        /// `None` to remove one.
        state: Vec<(Bytes, Option<Bytes>)>,
    },
}

/// The subject of a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Subject {
    /// An item of a pool.
    Item {
        /// Which pool.
        pool: PoolIndex,
        /// Its id.
        id: ItemId,
        /// Its bytes.
        body: Bytes,
    },
    /// A header whose parent has been accepted.
    Header {
        /// The block's id.
        block: BlockId,
        /// The header.
        header: Bytes,
    },
    /// A complete block. Its header and its parent have been accepted. The application executes it;
    /// if it becomes the best block, [`Command::SetTip`] follows.
    Block(Block),
}

/// The worker for a ticket (section 12): slow verdicts only delay those of their own kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Lane {
    /// One of the [`Config::workers`](crate::Config::workers) less one that take tickets of every
    /// kind, in the order in which they were issued.
    Shared,
    /// The worker for items of this pool.
    Pool(PoolIndex),
    /// The worker for headers and blocks.
    Chain,
}

/// The fate of a published item or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Fate {
    /// It is in the pool, or among the blocks, and is being sent to peers.
    Accepted,
    /// It was known already.
    Known,
    /// The pool is full of better items.
    Full {
        /// Items need a higher priority than this.
        floor: u64,
    },
    /// An item with the same key is in the pool and ranks higher: by its priority, or of equal ones
    /// by its id.
    Outranked {
        /// Its priority.
        priority: u64,
    },
    /// Its account does not admit it: its nonce is taken, used, or too far ahead.
    NotAdmitted,
    /// It is invalid.
    Invalid(Invalid),
}

/// Why an item or a block cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// There is no such pool.
    #[error("there is no such pool: pools are numbered in the order of the configuration")]
    NoSuchPool,
    /// It is larger than the pool allows.
    #[error("the item is larger than `max_item` of its pool")]
    TooLarge,
    /// The rules cannot parse the bytes.
    #[error("the bytes are no item of this pool")]
    Malformed,
    /// The rules cannot parse the block's header, or it has more than
    /// [`MAX_HEADER`](crate::wire::MAX_HEADER) bytes.
    #[error("the header is none by the application's rules, or is larger than 16 KiB")]
    MalformedHeader,
    /// The block's id is not that of its header.
    #[error("the block's id is not that of its header by the application's rules")]
    OtherBlock,
    /// The block's parent is unknown, or the node has no genesis.
    #[error("the block's parent is not known: publish it first")]
    UnknownParent,
    /// The block's items do not match its header.
    #[error("the items are not as many as the header says, or not those under its item root")]
    OtherItems,
    /// The block's items are too large together.
    #[error("the block's items have more bytes than `Limits::block_size`")]
    BlockTooLarge,
    /// An item of the block is from a pool whose items blocks may not contain.
    #[error("an item of the block is of a pool whose `PoolSpec::in_blocks` is false")]
    NotInBlocks,
    /// The block's items change too often between pools.
    #[error("the items change between pools more than 8 times: sort them by pool")]
    TooManyGroups,
}

/// Something that the application may want to know. Nothing depends on its being read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// The first connection to a peer is up.
    PeerConnected {
        /// The peer.
        peer: PeerId,
        /// Its client name.
        client: String,
        /// Whether the peer dialed.
        inbound: bool,
    },
    /// The last connection to a peer is down.
    PeerDisconnected {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: Disconnect,
    },
    /// A connected peer does not share a pool, or blocks, with this node: what is published there
    /// does not reach it on this connection.
    NotShared {
        /// The peer.
        peer: PeerId,
        /// The kind of channel.
        kind: Kind,
        /// The name of the instance: for pools, that of the pool.
        name: String,
        /// Why.
        reason: NotShared,
    },
    /// This node refused a peer, or was refused by one.
    Refused {
        /// The peer.
        peer: PeerId,
        /// Whether this node refused.
        by_us: bool,
        /// Why.
        refusal: Refusal,
    },
    /// A dial failed.
    DialFailed {
        /// The address.
        address: Address,
        /// Why.
        error: DialError,
    },
    /// An item was added to a pool.
    ItemAdded {
        /// Which pool.
        pool: PoolIndex,
        /// Its id.
        id: ItemId,
        /// Its body, which shares memory with the pool.
        body: Bytes,
    },
    /// An item has left a pool.
    ItemRemoved {
        /// Which pool.
        pool: PoolIndex,
        /// Its id.
        id: ItemId,
    },
    /// The tip has changed.
    TipChanged {
        /// The best executed block.
        block: BlockId,
        /// Its height.
        height: u64,
    },
    /// The application set a tip that is not an accepted block of this node. The tip stays, and the
    /// [state](TipChange::state) that came with it is not stored, but the pools are changed as
    /// requested.
    UnknownTip {
        /// The block.
        block: BlockId,
    },
    /// Peers have tips too far ahead to fetch the blocks one by one: the node is catching up.
    SyncStarted {
        /// The height of this node's tip.
        from: u64,
        /// The height of the best tip of a peer, as it claims.
        to: u64,
    },
    /// The node has caught up, or the peers that were ahead are gone.
    SyncEnded {
        /// The height at which it began.
        from: u64,
        /// The height reached.
        at: u64,
    },
    /// This number of events was dropped, since they were not read in time.
    Lagged(u64),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Disconnect {
    /// The transport lost it.
    Lost,
    /// The peer said goodbye.
    Remote(Goodbye),
    /// This node said goodbye.
    Local(Goodbye),
    /// The peer violated the protocol.
    Violation(Violation),
}
