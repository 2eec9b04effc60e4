//! The whole border of the core: what goes in, and what comes out.
//!
//! Everything that goes in is plain data and can be written to a file; [`Input`]s and
//! [`Command`]s in their order, with their times, are the whole run of a node.
//!
//! # Not guaranteed
//!
//! That an [`Event`] is read: nothing depends on it, and when too many wait the oldest are forgotten
//! and counted ([`Event::Lagged`]). That a published item stays in any pool: better ones may displace
//! it. That peers get it in the order of publication.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::channel::Kind;
use crate::id::{
    AccountId, Address, BlockId, ConnectionId, DialId, ItemId, ItemKey, PeerId, PoolIndex,
    SignalId, Signature, Ticket,
};
use crate::rules::Account;
use crate::violation::Violation;
use crate::wire::{Binding, Frame, Goodbye, Grant, Refusal};

mod failed;

pub use failed::{DialError, SignalError};

/// What the network did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Input {
    /// A connection is up, and the peer has proven its identity to the transport.
    Connected(Connected),
    /// The peer of a connection is seen at another address from now on, by the same connection.
    Moved {
        /// Which connection.
        connection: ConnectionId,
        /// Where the peer is seen at.
        address: Address,
    },
    /// A dial came to nothing.
    DialFailed {
        /// Which.
        dial: DialId,
        /// Why.
        error: DialError,
    },
    /// A frame arrived; those of one channel in the order they were sent.
    Frame {
        /// On which connection.
        connection: ConnectionId,
        /// On which channel instance.
        channel: u32,
        /// The frame.
        frame: Frame,
    },
    /// The frame given for this channel is on its way: the next may be given.
    Writable {
        /// On which connection.
        connection: ConnectionId,
        /// Which channel instance.
        channel: u32,
    },
    /// A connection has ended. Nothing more comes of it.
    Closed {
        /// Which.
        connection: ConnectionId,
    },
    /// A transport has something to say to one of its own kind that it has no connection to yet, an offer or an
    /// answer for instance. [`Output::Signaled`] tells what became of it.
    Signal {
        /// Its number, never used before.
        id: SignalId,
        /// The peer that is to carry it: one that this node and the receiver are both connected to, or the
        /// receiver.
        via: PeerId,
        /// Whom it is for.
        to: PeerId,
        /// What to say, at most [`MAX_SIGNAL`](crate::wire::MAX_SIGNAL) bytes. The peer that carries it can
        /// read and change it: it must be protected by what it says itself.
        payload: Bytes,
    },
}

/// A connection that is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Connected {
    /// The connection, never used before.
    pub connection: ConnectionId,
    /// The proven identity.
    pub peer: PeerId,
    /// Who dialed.
    pub direction: Direction,
    /// Where the peer is seen at.
    pub address: Address,
    /// For one that this node dialed from the socket of a listener: the listener, as it was given in
    /// [`Command::Listening`]. Where the peer sees this node says something about that one.
    pub listener: Option<Address>,
    /// What both ends derive from the session.
    pub binding: Binding,
    /// How directly it leads to the peer: both ends must say the same.
    pub path: Path,
}

impl Connected {
    /// A direct connection, dialed from no listener's socket.
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

    /// Dialed from the socket of a listener, if it was.
    #[must_use]
    pub fn from_listener(mut self, listener: Option<Address>) -> Self {
        self.listener = listener;
        self
    }

    /// With another path than a direct one.
    #[must_use]
    pub fn by(mut self, path: Path) -> Self {
        self.path = path;
        self
    }
}

/// How directly a connection leads to its peer. Of two connections between the same two processes the one with
/// the better path stays (specification section 5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Path {
    /// Through another peer, or a network of them: it takes of their bandwidth, and they can end it.
    Relayed,
    /// To the peer, by a carrier made for something else, as WebRTC's data channels are.
    Adapted,
    /// To the peer, by a carrier with a flow control of its own for each channel, as QUIC.
    #[default]
    Direct,
}

/// Why two nodes do not exchange a pool, or blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NotShared {
    /// The peer has none of that name, or no blocks.
    #[error("the peer has it not")]
    NotOffered,
    /// None of its versions is one of this node's.
    #[error("the peer has no version of it that this node has")]
    NoCommonVersion,
    /// The highest version that both know has other rules there: another
    /// [`Rules::id`](crate::rules::Rules::id), or another largest item; for blocks also another largest block,
    /// or other pools that they draw from.
    #[error(
        "the peer has other rules for it: another id of the rules, or another largest item or block"
    )]
    OtherRules,
}

/// Who dialed.
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

/// What the application wants, or answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Command {
    /// Connect to a peer.
    Dial {
        /// Where.
        address: Address,
        /// Who is expected there; anyone if `None`.
        peer: Option<PeerId>,
    },
    /// End the connection to a peer.
    Disconnect {
        /// Whom.
        peer: PeerId,
    },
    /// Where this node listens, or where that can be reached, has changed.
    Listening {
        /// What is bound. An address of any interface stands for those of all interfaces.
        listeners: Vec<Address>,
        /// The addresses of the machine's interfaces, of which only the IP component counts. Empty where
        /// they are not known.
        interfaces: Vec<Address>,
        /// What the operator names besides, for instance a router that forwards a port.
        external: Vec<Address>,
    },
    /// The answer to [`Output::Sign`].
    Signature {
        /// Its number.
        request: u64,
        /// The signature.
        signature: Signature,
    },
    /// The answer to [`Output::Verify`].
    Verdict {
        /// Its ticket.
        ticket: Ticket,
        /// The answer.
        verdict: Verdict,
    },
    /// Puts an item of this node's own into a pool. [`Output::Published`] tells its fate.
    Publish {
        /// A number of the application's choice, for the answer.
        request: u64,
        /// Into which pool.
        pool: PoolIndex,
        /// The item.
        body: Bytes,
        /// The verdict, which must be *accept*.
        admission: Admission,
    },
    /// Sends a block of this node's own. Its verdict is taken to be *accept*.
    /// [`Output::Published`] tells its fate.
    PublishBlock {
        /// A number of the application's choice, for the answer; one series with those of items.
        request: u64,
        /// The block.
        block: Block,
    },
    /// Moves the tip, and the pools with it.
    SetTip(TipChange),
    /// Allows a peer more on one pool.
    Raise {
        /// Whom.
        peer: PeerId,
        /// On which pool.
        pool: PoolIndex,
        /// The new limits, none below the old.
        grant: Grant,
    },
    /// An item that was published before a restart does not hold at present: it is in a block, or
    /// stale. It is kept for as long as a re-org may bring it back.
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
    /// The answer to [`Output::Store`]: this and all before it is durable.
    Stored {
        /// Its number.
        request: u64,
    },
    /// Says goodbye to all and refuses everyone from now on.
    Shutdown,
}

/// The application's answer about an item, a header or a block.
///
/// It is a function of that thing and the tip, never of what else has arrived: this is what makes
/// the pools of all nodes converge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Verdict {
    /// It is good.
    Accept(Admission),
    /// It proves that whoever made or relayed it misbehaved, whatever the state.
    Reject,
    /// It is of no use now: stale, too early, or it fails for a reason that depends on state.
    Ignore,
}

/// What goes with *accept*. For headers and blocks the default will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The lowest height of a tip at which the item holds.
    pub from: u64,
    /// For an item in an account's chain: the account at the tip.
    pub account: Option<Account>,
}

/// A better tip, and what it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TipChange {
    /// The executed block that is best now.
    pub block: BlockId,
    /// Keys of items that have no place in the pools any more: they are in a block, or stale.
    pub remove: Vec<(PoolIndex, ItemKey)>,
    /// Keys of items that do not hold at this tip, and may at another: blocks that they depend on
    /// were undone. They are kept aside for as many blocks as a re-org may undo.
    pub shelve: Vec<(PoolIndex, ItemKey)>,
    /// Keys of items that hold again, if they were kept aside. What accounts admit again is found
    /// without that.
    pub restore: Vec<(PoolIndex, ItemKey)>,
    /// Items of blocks that are no longer on the best chain and hold again.
    pub add: Vec<(PoolIndex, Bytes, Admission)>,
    /// Accounts that are others at the new tip. Their items that do not hold any more are dropped.
    pub accounts: Vec<(AccountId, Account)>,
    /// What the application keeps of its own, together with the tip: keys and values, `None` to
    /// remove one. Without a store it is of no use.
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
    /// Whether it came from this node's pool, where it had a verdict: it need not be checked
    /// again.
    pub known: bool,
}

/// What the driver must do now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Output {
    /// Connect.
    Dial {
        /// The number to answer with.
        dial: DialId,
        /// Where to.
        address: Address,
        /// Who must answer, if that is known.
        peer: Option<PeerId>,
        /// How long it may take: after that it is given up, and [`Output::Cancel`] says so.
        patience: Duration,
        /// From a socket that nothing else leaves by, if the transport has such: to see whether strangers can
        /// dial the peer there.
        fresh: bool,
    },
    /// Give a dial up: no connection is to come of it any more, and no answer is awaited.
    Cancel {
        /// Which.
        dial: DialId,
    },
    /// Send a frame, then say [`Input::Writable`] for its channel.
    Frame {
        /// On which connection.
        connection: ConnectionId,
        /// On which channel instance.
        channel: u32,
        /// The frame.
        frame: Frame,
    },
    /// Read what comes on this channel instance: until now it was to be left unread.
    Open {
        /// On which connection.
        connection: ConnectionId,
        /// Which channel instance.
        channel: u32,
    },
    /// End a connection, after what was given for channel 0 has gone. [`Input::Closed`] follows.
    Close {
        /// Which.
        connection: ConnectionId,
    },
    /// Sign with the node's key and answer with [`Command::Signature`].
    Sign {
        /// The number to answer with.
        request: u64,
        /// What to sign.
        payload: Bytes,
    },
    /// Ask the application, and answer with [`Command::Verdict`], however late.
    Verify {
        /// The number to answer with.
        ticket: Ticket,
        /// What about.
        subject: Subject,
        /// Which worker is to look at it.
        lane: Lane,
    },
    /// Look for what a peer asks for in the store, and answer with [`Command::Loaded`]. Only with
    /// [`Config::store`](crate::Config::store).
    Load {
        /// The number to answer with.
        request: u64,
        /// What to look for.
        what: Load,
    },
    /// Keep something, and say [`Command::Stored`] when it is durable. What was given before must
    /// be durable then too. Only with [`Config::store`](crate::Config::store).
    Store {
        /// The number to answer with, one more than the last.
        request: u64,
        /// What to keep.
        write: Write,
    },
    /// A peer has carried something here from a transport of the same kind: see [`Input::Signal`].
    Signal {
        /// The peer that carried it, and that an answer may go by.
        via: PeerId,
        /// Who gave it to that peer, as that peer says.
        from: PeerId,
        /// What was said.
        payload: Bytes,
    },
    /// What became of a signal: the receiver's node has it, or why not.
    Signaled {
        /// Its number.
        id: SignalId,
        /// What became of it.
        result: Result<(), SignalError>,
    },
    /// The fate of what was published.
    Published {
        /// The application's number.
        request: u64,
        /// What became of it.
        fate: Fate,
    },
    /// Something the application may want to know.
    Event(Event),
}

/// What a peer asks for that is not in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Load {
    /// Headers of the best chain.
    Headers {
        /// They follow the first of these blocks that is on it.
        locator: Vec<BlockId>,
        /// How many at most.
        most: u32,
    },
    /// The items of a block.
    Block(BlockId),
}

/// What the store has of it.
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

/// What is to be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Write {
    /// An item that was published here. It is offered again after a restart.
    Item {
        /// Its pool.
        pool: PoolIndex,
        /// Its id.
        id: ItemId,
        /// Its bytes.
        body: Bytes,
    },
    /// An item that was published here is of no use any more: it has been in a block for so long
    /// that no re-org can bring it back, or it was displaced.
    Forget {
        /// Its pool.
        pool: PoolIndex,
        /// Its id.
        id: ItemId,
    },
    /// A block whose verdict is *accept*.
    Block {
        /// Its id.
        block: BlockId,
        /// The block it builds on.
        parent: BlockId,
        /// Its height.
        height: u64,
        /// Its header.
        header: Bytes,
        /// Its items: the encoding of a [`BlockBody`](crate::wire::BlockBody).
        body: Bytes,
    },
    /// The tip is another: a block that was kept before.
    Tip {
        /// The block.
        block: BlockId,
        /// Its height.
        height: u64,
        /// What the application keeps with it, at once or not at all: keys and values, `None` to
        /// remove one.
        state: Vec<(Bytes, Option<Bytes>)>,
    },
}

/// What a verdict is wanted about.
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
    /// A header. Its parent's verdict was *accept*.
    Header {
        /// The block's id.
        block: BlockId,
        /// The header.
        header: Bytes,
    },
    /// A whole block whose header's and parent's verdicts were *accept*. The application executes
    /// it; if it becomes the best one, [`Command::SetTip`] follows.
    Block(Block),
}

/// Which worker answers a question (section 12): so that slow verdicts delay their own kind only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Lane {
    /// One of [`Config::workers`](crate::Config::workers) less one that take questions of every kind, in
    /// the order in which they are asked.
    Shared,
    /// The one for items of this pool.
    Pool(PoolIndex),
    /// The one for headers and blocks.
    Chain,
}

/// What became of a published item or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Fate {
    /// It is in the pool, or among the blocks, and on its way.
    Accepted,
    /// It was there already.
    Known,
    /// There are better ones, and the pool is full of them.
    Full {
        /// Items must have more than this priority.
        floor: u64,
    },
    /// An item with the same key is in the pool, and ranks higher: by its priority, or of equal ones by its id.
    Outranked {
        /// Its priority.
        priority: u64,
    },
    /// Its account does not admit it: its place in the account's chain is taken or past, or too far ahead.
    NotAdmitted,
    /// It cannot be published.
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
    /// The rules do not know such bytes.
    #[error("the bytes are no item of this pool")]
    Malformed,
    /// The block's header is not one by the rules, or has more than
    /// [`MAX_HEADER`](crate::wire::MAX_HEADER) bytes.
    #[error("the header is none by the application's rules, or is larger than 16 KiB")]
    MalformedHeader,
    /// The block's id is not its header's.
    #[error("the block's id is not that of its header by the application's rules")]
    OtherBlock,
    /// The block's parent is not known here, or no genesis was given.
    #[error("the block's parent is not known: publish it first")]
    UnknownParent,
    /// The block's items are not those that its header is about.
    #[error("the items are not as many as the header says, or not those under its item root")]
    OtherItems,
    /// The block's items are too large together.
    #[error("the block's items have more bytes than `Limits::block_size`")]
    BlockTooLarge,
    /// An item of a block is of a pool that blocks do not draw from.
    #[error("an item of the block is of a pool whose `PoolSpec::in_blocks` is false")]
    NotInBlocks,
    /// The block's items change too often between pools.
    #[error("the items change between pools more than 8 times: sort them by pool")]
    TooManyGroups,
}

/// Something the application may want to know. Nothing depends on its being read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// The first connection to a peer is up.
    PeerConnected {
        /// Who.
        peer: PeerId,
        /// What it calls itself.
        client: String,
        /// Whether the peer dialed.
        inbound: bool,
    },
    /// The last connection to a peer is down.
    PeerDisconnected {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: Disconnect,
    },
    /// A peer that is connected does not exchange a pool, or blocks, with this node: what is published there
    /// does not come to it by this connection.
    NotShared {
        /// Who.
        peer: PeerId,
        /// By which kind of channel it would be exchanged.
        kind: Kind,
        /// The name of its instance: that of the pool, for pools.
        name: String,
        /// Why.
        reason: NotShared,
    },
    /// This node refused a peer, or a peer refused this node.
    Refused {
        /// Who.
        peer: PeerId,
        /// Whether this node refused.
        by_us: bool,
        /// Why.
        refusal: Refusal,
    },
    /// A dial came to nothing.
    DialFailed {
        /// Where to.
        address: Address,
        /// Why.
        error: DialError,
    },
    /// An item is in a pool now.
    ItemAdded {
        /// Which pool.
        pool: PoolIndex,
        /// Its id.
        id: ItemId,
        /// Its bytes, which it shares with the pool.
        body: Bytes,
    },
    /// An item is no longer in a pool.
    ItemRemoved {
        /// Which pool.
        pool: PoolIndex,
        /// Its id.
        id: ItemId,
    },
    /// The tip is another.
    TipChanged {
        /// The best executed block.
        block: BlockId,
        /// Its height.
        height: u64,
    },
    /// The application set a tip that is no accepted block of this node: the tip stays, and the
    /// [state](TipChange::state) that came with it is not kept. The pools are changed as it says.
    UnknownTip {
        /// The block.
        block: BlockId,
    },
    /// Peers hold tips that are too far ahead to be reached block by block: the node catches up.
    SyncStarted {
        /// The height of this node's tip.
        from: u64,
        /// The height of the best of theirs, as they say.
        to: u64,
    },
    /// The node has caught up, or those who were ahead are gone.
    SyncEnded {
        /// The height at which it began.
        from: u64,
        /// The height at which it is.
        at: u64,
    },
    /// This number of events was not read in time and is forgotten.
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
    /// The peer broke the rules.
    Violation(Violation),
}
