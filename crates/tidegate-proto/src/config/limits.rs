//! What bounds a node, each bound with its default and the least with which a node still works.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::worst_case::{HEADER, STRANGER_WINDOW};
use crate::wire::{Grant, MAX_HEADER};

/// The shortest time of any limit: what happens more often has no time to happen.
const SHORTEST: Duration = Duration::from_millis(1);

/// What a peer may have outstanding on a pool by default: 32 small bodies in a round trip and a
/// verdict, which is about 500 a second at 60 ms and from each peer; and a batch of announcements.
pub const POOL_GRANT: Grant = Grant {
    announcements: 96,
    bodies: 32,
    body_bytes: 64 << 10,
    requests: 64,
    fetch_bytes: 256 << 10,
};

/// What a peer may have outstanding on the channel of peers: one question.
pub const PEERS_GRANT: Grant =
    Grant { announcements: 0, bodies: 0, body_bytes: 0, requests: 1, fetch_bytes: 0 };

/// Every limit on what peers can make a node cost. [`Config::worst_case_bytes`](super::Config::worst_case_bytes) adds them up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// Connections that peers dialed. 80 of 100 in all: most nodes of a network cannot be dialed.
    pub max_inbound: u32,
    /// Connections that this node dialed.
    pub max_outbound: u32,
    /// Connections whose hello is not finished; the next is told to come back. 64 frames of
    /// 64 KiB are 4 MiB.
    pub handshakes: u32,
    /// How long a dial may take before it counts as failed: a lost packet or two at any distance.
    pub dial_timeout: Duration,
    /// The same for an address that it takes long to get to: Tor builds a circuit in up to a minute, and a
    /// search for a way between two routers (ICE) takes half of that.
    pub dial_timeout_slow: Duration,
    /// The time between a failed dial and the next; it doubles with each failure.
    pub redial_first: Duration,
    /// The longest such time: with a dial's time-out a peer that is back is found within ten
    /// seconds.
    pub redial_most: Duration,
    /// The time between two dials over the book while peers are missing.
    pub dial_interval: Duration,
    /// How often a peer of the book is dialed only to see whether it is there (a feeler). Bitcoin Core's
    /// two minutes: it is what makes filling a book with inventions slow.
    pub feeler_interval: Duration,
    /// Buckets of 16 peers that others told of.
    pub book_new_buckets: u32,
    /// Buckets of 8 peers that this node has met.
    pub book_tried_buckets: u32,
    /// How many times a peer that asks is told of others at once.
    pub records_burst: u32,
    /// How long it then waits for each further time.
    pub records_interval: Duration,
    /// Signals that a peer may have this node carry at a time. An offer and three candidates; 0 to carry none.
    pub signals_carried: u32,
    /// Signals that a peer may carry to this node and that it has not said it has taken.
    pub signals_taken: u32,
    /// How long a signal may wait at this node for its receiver. Of a dial's time it leaves the receiver enough for
    /// an answer. This node's own signals wait twice as long, so that the relay's answer comes first.
    pub signal_patience: Duration,
    /// How long a permit for a signal is held back when one peer has many of them.
    pub signal_interval: Duration,
    /// How long a hello may take.
    pub handshake_timeout: Duration,
    /// How long the older of two connections has to answer before the newer replaces it.
    pub duplicate_timeout: Duration,
    /// How long an idle connection waits before its dialer pings; the other side half as long
    /// again.
    pub ping_idle: Duration,
    /// How often a connection is pinged while an answer is awaited on it.
    pub ping_busy: Duration,
    /// How long a peer may be silent while an answer is awaited before the connection is taken for dead.
    pub silence: Duration,
    /// Peers that are refused for a violation; the one whose time is up first makes room.
    pub bans: u32,
    /// Log positions held back for one peer and pool, and announced and not given back: 512 are 44 KiB.
    pub held_back: u32,
    /// Bytes that may be asked for on one link until their verdicts. One item always fits.
    pub fetch_bytes_link: u32,
    /// Bytes that may be asked for on all links until their verdicts.
    pub fetch_bytes_node: u32,
    /// After so long without a verdict a permit goes back as *ignored*.
    pub verdict_timeout: Duration,
    /// The shortest time between two headers, or two held tips, of one peer: blocks are rarer.
    pub tip_interval: Duration,
    /// Ancestors of a header that are asked for; what is further behind is a matter of sync.
    pub ancestors: u32,
    /// Bytes of headers of one peer that wait for their parents, or for their verdicts after that.
    pub orphan_bytes: u32,
    /// Headers and compact blocks that one peer may be asked for in all: a new one displaces its own
    /// oldest. As many as its orphans, each of which has one parent.
    pub block_wants: u32,
    /// What a peer may have outstanding on the block channel: two compact blocks of the largest kind, 51
    /// KiB each.
    pub block_grant: Grant,
    /// Items of each pool that a re-org took out and that are kept aside.
    pub shelved: u32,
    /// Bytes of them in each pool; the best stay. Both are guesses at a few blocks.
    pub shelved_bytes: u32,
    /// How far a peer must be ahead before its blocks are asked for as requests, not one by one
    /// as they are announced.
    pub sync_gap: u32,
    /// Headers that are asked for at a time, and looked at ahead of the tip.
    pub sync_headers: u32,
    /// How long nothing may come of a request before somebody else is asked.
    pub rpc_patience: Duration,
    /// Blocks that are given to peers at a time, of all that they ask for.
    pub serving: u32,
    /// Bytes on their way to the store from which on blocks wait.
    pub store_backlog: u32,
    /// Blocks below the tip that are kept and served: as deep as a re-org may go.
    pub blocks_kept: u32,
    /// Bytes of headers whose verdict was *accept*, with 3 KiB for each: about 650 of 100 bytes.
    /// Only a producer that makes many for one slot needs more, and displaces its own.
    pub header_bytes: u32,
    /// Bytes of items of those blocks, with 288 for each: the oldest make room.
    pub block_bytes: u32,
    /// Bytes of the items of the largest block.
    pub block_size: u32,
    /// Blocks that are put together at a time.
    pub reconstructions: u32,
    /// How long a compact block is waited for before it is asked for.
    pub block_patience: Duration,
    /// How long a peer that has only the header may be asked for the block before it says that it is
    /// not here.
    pub not_here_after: Duration,
    /// Messages of peers, but for what was asked of them, that are worked on in a second before those
    /// that send more than their share have to wait for what they are owed. With its way through the
    /// transport a message costs about 25 µs, and a body that was of no use counts nine times, for its
    /// verdict; one that was of use does not count. So 8,000 are a quarter of a
    /// processor to all of it, as `--bench siege` shows.
    pub work_per_second: u32,
    /// Bytes a transport accepts of one connection before the core takes them.
    pub receive_window: u32,
    /// Bytes a transport keeps of one connection until they are acknowledged.
    pub send_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_inbound: 80,
            max_outbound: 20,
            handshakes: 64,
            dial_timeout: Duration::from_secs(3),
            dial_timeout_slow: Duration::from_secs(60),
            redial_first: Duration::from_millis(500),
            redial_most: Duration::from_secs(5),
            dial_interval: Duration::from_secs(2),
            feeler_interval: Duration::from_secs(120),
            book_new_buckets: 128,
            book_tried_buckets: 64,
            records_burst: 4,
            records_interval: Duration::from_secs(60),
            signals_carried: 4,
            signals_taken: 8,
            signal_patience: Duration::from_secs(5),
            signal_interval: Duration::from_millis(100),
            handshake_timeout: Duration::from_secs(5),
            duplicate_timeout: Duration::from_secs(2),
            ping_idle: Duration::from_secs(30),
            ping_busy: Duration::from_secs(2),
            silence: Duration::from_secs(8),
            bans: 4096,
            held_back: 512,
            fetch_bytes_link: 256 << 10,
            fetch_bytes_node: 8 << 20,
            verdict_timeout: Duration::from_secs(10),
            tip_interval: Duration::from_millis(20),
            ancestors: 64,
            orphan_bytes: 32 << 10,
            block_wants: 64,
            block_grant: Grant {
                announcements: 0,
                bodies: 2,
                body_bytes: 104 << 10,
                requests: 8,
                fetch_bytes: 256 << 10,
            },
            shelved: 256,
            shelved_bytes: 256 << 10,
            sync_gap: 16,
            sync_headers: 256,
            rpc_patience: Duration::from_secs(5),
            serving: 2,
            store_backlog: 4 << 20,
            blocks_kept: 64,
            header_bytes: 2 << 20,
            block_bytes: 9 << 20,
            block_size: 4 << 20,
            reconstructions: 2,
            block_patience: Duration::from_millis(50),
            not_here_after: Duration::from_secs(2),
            work_per_second: 8_000,
            receive_window: 96 << 10,
            send_window: 128 << 10,
        }
    }
}

/// The most that a number may be: sums and doubles of some must fit.
pub(super) const MOST: u32 = 1 << 30;
/// The most connections of a kind: more than one machine serves.
pub(super) const CONNECTIONS: u32 = 1 << 16;
/// Signals of one peer: each is kept for seconds, and a few dozen are more than any transport has to say at once.
const SIGNALS: u32 = 64;
/// The most buckets of the address book: their numbers have 16 bits.
const BUCKETS: u32 = 1 << 15;
/// The longest time: nothing is waited for beyond a year.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

impl Limits {
    /// Whether a node works with these.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let too_much =
            |name, is, most| Err(ConfigError::too_much(format!("limit {name}"), is, most));
        for (name, is, most) in self.most() {
            if is > most {
                return too_much(name, is.to_string(), most.to_string());
            }
        }
        for (name, is, _) in self.shortest() {
            if is > LONGEST {
                return too_much(name, format!("{is:?}"), format!("{LONGEST:?}"));
            }
        }
        let wrong = |name, is: String, least: String, otherwise| {
            Err(ConfigError::Limit { name, is, least, otherwise })
        };
        for (name, is, least, otherwise) in self.least() {
            if is < least {
                return wrong(name, is.to_string(), least.to_string(), otherwise);
            }
        }
        for (name, is, least) in self.shortest() {
            if is < least {
                let (is, least) = (format!("{is:?}"), format!("{least:?}"));
                return wrong(name, is, least, "it would be over before anything can happen");
            }
        }
        Ok(())
    }

    /// All numbers with the most that they may be.
    pub(crate) fn most(&self) -> Vec<(&'static str, u32, u32)> {
        let grant = &self.block_grant;
        vec![
            ("max_inbound", self.max_inbound, CONNECTIONS),
            ("max_outbound", self.max_outbound, CONNECTIONS),
            ("handshakes", self.handshakes, CONNECTIONS),
            ("book_new_buckets", self.book_new_buckets, BUCKETS),
            ("book_tried_buckets", self.book_tried_buckets, BUCKETS),
            ("records_burst", self.records_burst, MOST),
            ("signals_carried", self.signals_carried, SIGNALS),
            ("signals_taken", self.signals_taken, SIGNALS),
            ("bans", self.bans, MOST),
            ("held_back", self.held_back, MOST),
            ("fetch_bytes_link", self.fetch_bytes_link, MOST),
            ("fetch_bytes_node", self.fetch_bytes_node, MOST),
            ("ancestors", self.ancestors, MOST),
            ("orphan_bytes", self.orphan_bytes, MOST),
            ("block_wants", self.block_wants, MOST),
            ("shelved", self.shelved, MOST),
            ("shelved_bytes", self.shelved_bytes, MOST),
            ("sync_gap", self.sync_gap, MOST),
            ("sync_headers", self.sync_headers, MOST),
            ("serving", self.serving, MOST),
            ("store_backlog", self.store_backlog, MOST),
            ("blocks_kept", self.blocks_kept, MOST),
            ("header_bytes", self.header_bytes, MOST),
            ("block_bytes", self.block_bytes, MOST),
            ("block_size", self.block_size, MOST),
            ("reconstructions", self.reconstructions, MOST),
            ("work_per_second", self.work_per_second, MOST),
            ("receive_window", self.receive_window, MOST),
            ("send_window", self.send_window, MOST),
            ("block_grant.announcements", grant.announcements, MOST),
            ("block_grant.bodies", grant.bodies, MOST),
            ("block_grant.body_bytes", grant.body_bytes, MOST),
            ("block_grant.requests", grant.requests, MOST),
            ("block_grant.fetch_bytes", grant.fetch_bytes, MOST),
        ]
    }

    /// Numbers with the least with which a node works, and what happens below.
    fn least(&self) -> [(&'static str, u32, u32, &'static str); 20] {
        // Of four: the tip's, those of the two below it, and its child's.
        let headers = 4 * (HEADER as u32 + MAX_HEADER as u32);
        let near = self.sync_gap.max(1);
        [
            ("handshakes", self.handshakes, 1, "nobody could say hello"),
            ("book_new_buckets", self.book_new_buckets, 1, "nobody who is told of has a place"),
            ("book_tried_buckets", self.book_tried_buckets, 1, "nobody who was met has a place"),
            ("records_burst", self.records_burst, 1, "nobody would be told of others"),
            ("held_back", self.held_back, 1, "nothing that comes too early could wait"),
            ("sync_gap", self.sync_gap, 1, "each block would be a matter of catching up"),
            ("ancestors", self.ancestors, near, "what is nearer than sync_gap is not found"),
            ("block_wants", self.block_wants, 1, "no block could be asked for"),
            ("sync_headers", self.sync_headers, 1, "nobody could catch up"),
            ("serving", self.serving, 1, "nobody would be given a block"),
            ("store_backlog", self.store_backlog, 1, "blocks would wait for ever for the store"),
            ("blocks_kept", self.blocks_kept, 1, "no block could be replaced by a better one"),
            ("header_bytes", self.header_bytes, headers, "a tip with those beside it may not fit"),
            ("block_bytes", self.block_bytes, 2, "no block could be fetched"),
            ("block_grant.requests", self.block_grant.requests, 1, "no block could be asked for"),
            ("reconstructions", self.reconstructions, 1, "no block could be put together"),
            ("shelved", self.shelved, 1, "what a re-org takes out would be lost"),
            ("work_per_second", self.work_per_second, 10, "peers would rest most of the time"),
            ("receive_window", self.receive_window, STRANGER_WINDOW, "a hello may not fit"),
            ("send_window", self.send_window, STRANGER_WINDOW, "a hello may not fit"),
        ]
    }

    /// All times with the shortest of each.
    pub(super) fn shortest(&self) -> [(&'static str, Duration, Duration); 19] {
        [
            // Headers may follow each other at once.
            ("tip_interval", self.tip_interval, Duration::ZERO),
            ("dial_timeout", self.dial_timeout, SHORTEST),
            ("dial_timeout_slow", self.dial_timeout_slow, SHORTEST),
            ("redial_first", self.redial_first, SHORTEST),
            ("redial_most", self.redial_most, SHORTEST.max(self.redial_first)),
            ("dial_interval", self.dial_interval, SHORTEST),
            ("feeler_interval", self.feeler_interval, SHORTEST),
            ("records_interval", self.records_interval, SHORTEST),
            ("signal_patience", self.signal_patience, SHORTEST),
            ("signal_interval", self.signal_interval, SHORTEST),
            ("handshake_timeout", self.handshake_timeout, SHORTEST),
            ("duplicate_timeout", self.duplicate_timeout, SHORTEST),
            ("ping_idle", self.ping_idle, SHORTEST),
            ("ping_busy", self.ping_busy, SHORTEST),
            ("silence", self.silence, SHORTEST.max(self.ping_busy)),
            ("verdict_timeout", self.verdict_timeout, SHORTEST),
            ("rpc_patience", self.rpc_patience, SHORTEST),
            ("block_patience", self.block_patience, SHORTEST),
            ("not_here_after", self.not_here_after, SHORTEST),
        ]
    }
}
