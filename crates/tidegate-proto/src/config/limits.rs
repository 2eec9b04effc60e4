//! The limits of a node, each with its default and the lowest value that works.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::worst_case::{HEADER, STRANGER_WINDOW};
use crate::wire::{Grant, MAX_HEADER};

/// The lowest value of any duration.
const SHORTEST: Duration = Duration::from_millis(1);

/// A peer's default grant on a pool: 32 small bodies in a round trip and a verdict, which is about
/// 500 a second at 60 ms from each peer; and a batch of announcements.
pub const POOL_GRANT: Grant = Grant {
    announcements: 96,
    bodies: 32,
    body_bytes: 64 << 10,
    requests: 64,
    fetch_bytes: 256 << 10,
};

/// A peer's grant on the peers channel: one question.
pub const PEERS_GRANT: Grant =
    Grant { announcements: 0, bodies: 0, body_bytes: 0, requests: 1, fetch_bytes: 0 };

/// Every limit on what peers can make a node cost.
/// [`Config::worst_case_bytes`](super::Config::worst_case_bytes) adds them up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// Inbound connections. 80 of 100 in all, since most nodes of a network cannot be dialed.
    pub max_inbound: u32,
    /// Outbound connections.
    pub max_outbound: u32,
    /// Connections in the hello; further ones are refused as busy. 64 frames of 64 KiB are 4 MiB.
    pub handshakes: u32,
    /// Timeout of a dial: allows for a lost packet or two at any distance.
    pub dial_timeout: Duration,
    /// Timeout of a dial by way of a common peer: an offer and an answer, then up to 5 s in which ICE
    /// looks for a path, and a handshake in which packets may be lost.
    pub dial_timeout_ice: Duration,
    /// Timeout of a dial to an address that is slow to reach: Tor builds a circuit in up to a
    /// minute.
    pub dial_timeout_slow: Duration,
    /// The wait before a failed dial is tried again; it doubles with each failure.
    pub redial_first: Duration,
    /// The longest such wait: with the dial's timeout, a peer that is back is found within ten
    /// seconds.
    pub redial_most: Duration,
    /// The interval between dials to peers of the book while connections are missing.
    pub dial_interval: Duration,
    /// The interval between feelers. Bitcoin Core's two minutes: testing peers before they count is
    /// what makes it slow to fill a book with invented ones.
    pub feeler_interval: Duration,
    /// Buckets of 16 peers known by hearsay.
    pub book_new_buckets: u32,
    /// Buckets of 8 peers that this node has met.
    pub book_tried_buckets: u32,
    /// How many questions for peers one peer may ask in a burst.
    pub records_burst: u32,
    /// The interval between its questions after that.
    pub records_interval: Duration,
    /// Signals of a peer that this node carries at a time. An offer and three candidates; 0 to
    /// carry none.
    pub signals_carried: u32,
    /// Signals carried to this node by a peer that it has not yet acknowledged.
    pub signals_taken: u32,
    /// How long a relay keeps a signal for its receiver. It leaves the receiver enough of a dial's
    /// timeout for an answer. This node's own signals wait twice as long, so that the relay's
    /// answer comes first.
    pub signal_patience: Duration,
    /// How long a signal permit is held back when one peer has many of them.
    pub signal_interval: Duration,
    /// Timeout of the hello.
    pub handshake_timeout: Duration,
    /// How long the older of two connections has to answer a ping before the newer replaces it.
    pub duplicate_timeout: Duration,
    /// How long a connection is idle before its dialer pings; the other side waits half as long
    /// again.
    pub ping_idle: Duration,
    /// The interval of pings while an answer is awaited on a connection.
    pub ping_busy: Duration,
    /// How long a peer may be silent while it owes an answer; then the connection counts as dead.
    pub silence: Duration,
    /// Peers banned for a violation; if there are more, the ban that expires first is dropped.
    pub bans: u32,
    /// Log positions of one pool that are held back for or outstanding at one peer: 512 are 44 KiB.
    pub held_back: u32,
    /// Bytes requested on one link that have no verdict yet. A single item always fits.
    pub fetch_bytes_link: u32,
    /// Bytes requested on all links that have no verdict yet.
    pub fetch_bytes_node: u32,
    /// Timeout of a verdict: the permit then goes back as *ignored*.
    pub verdict_timeout: Duration,
    /// The shortest interval between two headers, or two held tips, of one peer: blocks are rarer.
    pub tip_interval: Duration,
    /// How many ancestors of a header are requested; beyond that the node catches up.
    pub ancestors: u32,
    /// Bytes of one peer's orphan headers, and of those waiting for their verdicts after that.
    pub orphan_bytes: u32,
    /// Headers and compact blocks that may be requested from one peer; a new one evicts the oldest
    /// of the same peer. As many as its orphans, each of which has one parent.
    pub block_wants: u32,
    /// A peer's grant on the block channel: two compact blocks of the largest kind, 51 KiB each.
    pub block_grant: Grant,
    /// Shelved items of each pool: those that a re-org removed.
    pub shelved: u32,
    /// Bytes of shelved items of each pool; the worst are evicted. Both are guesses at a few
    /// blocks.
    pub shelved_bytes: u32,
    /// How far a peer must be ahead before this node catches up by rpc, instead of fetching blocks
    /// one by one as they are announced.
    pub sync_gap: u32,
    /// Headers per request, and headers validated ahead of the tip.
    pub sync_headers: u32,
    /// Timeout of a request without progress; another peer is asked then.
    pub rpc_patience: Duration,
    /// Blocks loaded for peers at a time, of all that they requested.
    pub serving: u32,
    /// Bytes waiting for the store, from which on further blocks wait.
    pub store_backlog: u32,
    /// Blocks below the tip that are kept and served: the deepest possible re-org.
    pub blocks_kept: u32,
    /// Bytes of accepted headers, with 3 KiB for each: about 650 of 100 bytes. Only a producer that
    /// makes many for one slot needs more, and evicts its own.
    pub header_bytes: u32,
    /// Bytes of items of those blocks, with 288 for each; the oldest are evicted.
    pub block_bytes: u32,
    /// Bytes of the items of the largest block.
    pub block_size: u32,
    /// Blocks that are being reconstructed at a time.
    pub reconstructions: u32,
    /// How long to wait for an announced block's push before requesting it.
    pub block_patience: Duration,
    /// How long a request for a compact block waits at this node, if it only has the header, before
    /// the answer is that the block is not here.
    pub not_here_after: Duration,
    /// Unrequested messages handled per second before peers that send more than their share have to
    /// rest, which delays what they are owed. With its way through the transport a message costs
    /// about 25 µs. A body that was useless counts nine times, for its verdict; a useful one is
    /// free. So 8,000 take a quarter of a processor in all, as `--bench siege` shows.
    pub work_per_second: u32,
    /// Bytes a transport buffers from one connection before the core takes them.
    pub receive_window: u32,
    /// Bytes a transport buffers for one connection until they are acknowledged.
    pub send_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_inbound: 80,
            max_outbound: 20,
            handshakes: 64,
            dial_timeout: Duration::from_secs(3),
            dial_timeout_ice: Duration::from_secs(15),
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

/// The highest value of a number: sums of some, and their doubles, must not overflow.
pub(super) const MOST: u32 = 1 << 30;
/// The highest number of connections of one direction: more than one machine serves.
pub(super) const CONNECTIONS: u32 = 1 << 16;
/// The highest number of signals of one peer: each is kept for seconds, and a few dozen are more
/// than any transport sends at once.
const SIGNALS: u32 = 64;
/// The highest number of buckets in the address book: bucket numbers have 16 bits.
const BUCKETS: u32 = 1 << 15;
/// The highest value of a duration.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

impl Limits {
    /// Checks that a node can run with these limits.
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

    /// All numbers with their upper bounds.
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

    /// Numbers with their lower bounds, and what happens below.
    fn least(&self) -> [(&'static str, u32, u32, &'static str); 20] {
        // Four headers: those of the tip, of the two blocks below it, and of its child.
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

    /// All durations with their lower bounds.
    pub(super) fn shortest(&self) -> [(&'static str, Duration, Duration); 20] {
        [
            // Headers may follow each other without a pause.
            ("tip_interval", self.tip_interval, Duration::ZERO),
            ("dial_timeout", self.dial_timeout, SHORTEST),
            ("dial_timeout_ice", self.dial_timeout_ice, SHORTEST),
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
