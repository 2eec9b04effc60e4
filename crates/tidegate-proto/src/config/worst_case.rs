//! What all peers together can make a node hold (specification section 4, *Memory*).

use super::{Config, PoolSpec};
use crate::peers::book::{NEW_SLOTS, TRIED_SLOTS};
use crate::signal;
use crate::wire::{MAX_BLOCK_ITEMS, MAX_FRAME, MAX_HEADER, MAX_SIGNAL, MAX_WHOLE};

impl Config {
    /// What all peers together can make this node hold at most, in bytes.
    ///
    /// Counts every bound of [`Limits`](super::Limits), of the pools and of their permits, with what the transports
    /// hold. The application's own memory is not in it.
    pub fn worst_case_bytes(&self) -> u64 {
        let limits = &self.limits;
        let peers = u64::from(limits.max_inbound) + u64::from(limits.max_outbound);
        // Those whose hello is not finished, who are in TLS, and who are gone: nothing of what came on
        // their streams is kept of the last two.
        let unread = quic_unread(STRANGER_WINDOW, 1, STRANGER_WINDOW);
        let strangers = u64::from(limits.handshakes) * (unread + QUIC_STATE + QUIC_MOST);
        let handshakes = u64::from(TLS_HANDSHAKES) * (QUIC_STATE + QUIC_HANDSHAKE);
        let gone = u64::from(FORGOTTEN) * (QUIC_STATE + QUIC_MOST);
        (peers + u64::from(ENDING))
            .saturating_mul(self.transport_bytes())
            .saturating_add(strangers + handshakes + gone + QUIC_ALL)
            // What has left its pool and is in an event that nobody reads.
            .saturating_add(crate::EventQueue::BYTES as u64 + u64::from(self.largest_item()))
            .saturating_add(self.worst_case_core_bytes())
    }

    /// The share of the core in [`Config::worst_case_bytes`], for those with a transport of their own: bytes that
    /// a [`Node`](crate::Node) holds at most.
    pub fn worst_case_core_bytes(&self) -> u64 {
        let limits = &self.limits;
        let peers = u64::from(limits.max_inbound) + u64::from(limits.max_outbound);
        let pools = self.pools.iter().map(|pool| self.pool_bytes(pool, peers)).sum::<u64>();
        let of_links = self.pools.iter().map(|pool| self.pool_link_bytes(pool)).sum::<u64>();
        let per_peer = of_links + self.block_link_bytes() + self.signal_link_bytes() + LINK;
        peers
            .saturating_mul(per_peer)
            .saturating_add(pools)
            .saturating_add(self.blocks_bytes())
            .saturating_add(u64::from(limits.fetch_bytes_node))
            // What a stranger may say is one frame.
            .saturating_add(u64::from(limits.handshakes) * MAX_FRAME as u64)
            .saturating_add((u64::from(limits.bans) + crate::peers::UNPAID as u64) * BAN)
            .saturating_add(crate::peers::dial_back::RESTING as u64 * BAN)
            .saturating_add(SEEN_AT)
            .saturating_add(u64::from(limits.book_new_buckets) * NEW_SLOTS * BOOK_ENTRY)
            .saturating_add(u64::from(limits.book_tried_buckets) * TRIED_SLOTS * BOOK_ENTRY)
    }

    fn largest_item(&self) -> u32 {
        self.pools.iter().map(|pool| pool.max_item).max().unwrap_or(0)
    }

    /// What a transport holds for one peer: its windows, frames that are half read, and those that wait
    /// to be written, one of each channel; items of pools among them are the pools' own.
    fn transport_bytes(&self) -> u64 {
        let limits = &self.limits;
        let channels = CHANNELS + self.pools.len() as u32;
        let window = limits.receive_window;
        let unread = quic_unread(window, channels, window / 3 * 2);
        let half_read = HALF_READ + u64::from(channels) * SMALL_FRAME;
        let quic = unread + QUIC_STATE + QUIC_MOST;
        quic + u64::from(limits.send_window) + half_read + UNSENT
    }

    /// What one peer makes a pool hold besides its items.
    fn pool_link_bytes(&self, pool: &PoolSpec) -> u64 {
        let grant = &pool.grant;
        let permits = u64::from(grant.announcements) + u64::from(grant.bodies);
        u64::from(grant.body_bytes)
            + permits * ANNOUNCED
            + u64::from(self.limits.held_back) * HELD_BACK
            + under_way(pool.max_item)
            + POOL_LINK
    }

    /// What one peer makes a node hold of blocks.
    fn block_link_bytes(&self) -> u64 {
        let limits = &self.limits;
        // Two compact blocks; headers that are checked: one that was announced, one that was asked for.
        let pushed = u64::from(limits.block_grant.body_bytes) + 2 * MAX_HEADER as u64;
        let orphans = u64::from(limits.orphan_bytes) + u64::from(limits.ancestors) * ORPHAN;
        pushed + orphans + u64::from(limits.block_wants) * WANT + under_way(self.largest_item())
    }

    /// What one peer makes a node hold of signals: those it has carried, and this node's own that it is to carry, by
    /// what they cost beside their payload too, and numbers of those that were carried to and from it.
    fn signal_link_bytes(&self) -> u64 {
        let limits = &self.limits;
        let own = u64::from(signal::OUT) + signal::WAITING as u64;
        let carried = u64::from(limits.signals_carried);
        let numbers = carried + u64::from(limits.signals_taken) + u64::from(signal::MOST_OUT);
        (carried + own) * MAX_SIGNAL as u64 + numbers * SIGNAL + own * OWN_SIGNAL
    }

    fn pool_bytes(&self, pool: &PoolSpec, peers: u64) -> u64 {
        let limits = &self.limits;
        // One item may cross the budget; all of them may have copies on their way out.
        pool.capacity_bytes
            .saturating_add(u64::from(pool.max_item))
            .saturating_add(pool.capacity.saturating_mul(ENTRY + peers.div_ceil(64) * 8))
            .saturating_add(u64::from(limits.shelved_bytes) + u64::from(limits.shelved) * ENTRY)
            // Bodies whose permit went back before their late verdict.
            .saturating_add(u64::from(self.workers) * 2 * u64::from(pool.max_item))
    }

    /// Blocks that are kept, put together, on their way in as answers, and given to peers.
    fn blocks_bytes(&self) -> u64 {
        let limits = &self.limits;
        let largest = u64::from(limits.block_size);
        let building = largest + MAX_BLOCK_ITEMS as u64 * BLOCK_ITEM;
        u64::from(limits.header_bytes)
            + u64::from(limits.block_bytes)
            + u64::from(limits.reconstructions) * building
            // What can be executed next always fits beside half of the room.
            + u64::from(limits.block_bytes) / 2
            + largest
            + u64::from(limits.serving) * crate::block::body::largest(self) as u64
    }
}

/// Bytes a transport accepts of a connection to it before the core has opened a channel on it: a hello
/// has some 200. From then on it is [`Limits::receive_window`](super::Limits::receive_window).
pub const STRANGER_WINDOW: u32 = 4 << 10;
/// Streams that a peer may have on a transport when the core has opened `channels` channels: two beside theirs,
/// and as many more as quinn may leave unannounced, which is one in eight of all.
pub const fn streams_for(channels: u32) -> u32 {
    channels + 2 + channels / 12
}

/// Handshakes of TLS that a transport has at a time.
pub const TLS_HANDSHAKES: u32 = 64;
/// Connections whose peers were let in, that are being closed, and whose places others have taken.
pub const ENDING: u32 = 4;
/// Connections that are closed and that a transport has not forgotten yet, at most: as many as come to
/// nothing in half a second when as many come as are let in.
pub const FORGOTTEN: u32 = 96;
/// Packets that a peer may leave unacknowledged for more than a second: three times as many as large ones
/// fit into the send window.
pub const UNACKNOWLEDGED: u64 = 320;
/// Bytes a transport keeps of what comes with the first packets of all handshakes: 8 KiB for each of
/// 64, of which two packets are needed.
pub const FIRST_PACKETS: u32 = 512 << 10;

// What things cost beside the bytes they hold. A B-tree's leaf has eleven places and is six to eight
// tenths full; the test of the worst case drives a node there.

/// An item in a pool: its place by id, by rank, by key, in the log and in its account's chain.
const ENTRY: u64 = 1100;
/// An announcement or a body whose permit is out: what is wanted and of whom, or what waits for its
/// verdict, the turn it waits for, and what is owed.
const ANNOUNCED: u64 = 560;
/// A position that is held back, or one that was announced and is not given back.
const HELD_BACK: u64 = 88;
/// One link of a pool.
const POOL_LINK: u64 = 1200;
/// One connection: what it is asked and asks, slots that it pushed blocks for, its timers.
const LINK: u64 = 58 << 10;
/// A header whose parent is not known.
const ORPHAN: u64 = 680;
/// A header or a block that a peer may be asked for.
const WANT: u64 = 512;
/// A header whose verdict was *accept*, and who announced it.
pub(crate) const HEADER: u64 = 3 << 10;
/// An item of a block, with its hashes.
pub(crate) const BLOCK_ITEM: u64 = 288;
const BAN: u64 = 96;
/// A signal, beside its payload: where it comes from and goes to, and its numbers on both links.
const SIGNAL: u64 = 512;
/// One of this node's own, beside its payload.
const OWN_SIGNAL: u64 = 256;
/// Where peers see this node, eight addresses by 64 peers each, of whom each may have been asked, and 512 peers
/// that are left alone.
const SEEN_AT: u64 = 8 * 64 * (128 + 48) + 512 * BAN;
/// Addresses are there twice: in the record, and as what can be dialed.
const BOOK_ENTRY: u64 = 3700;
/// Two frames of 64 KiB and one of control, whose memory grows as they come.
const HALF_READ: u64 = 192 << 10;
/// What is read of a frame without a place for large ones, on each channel.
const SMALL_FRAME: u64 = 4 << 10;
/// A compact block, a chunk or headers, records, a tip: one of each, while nobody reads them.
const UNSENT: u64 = 132 << 10;
/// What quinn and TLS keep of a connection, measured by `cargo bench -p tidegate --bench siege`.
const QUIC_STATE: u64 = 44 << 10;
/// What they keep for a peer that wants it of packets of TLS messages that wait for others, with what each
/// costs: 16 KiB of each of two kinds before the handshake is over.
const QUIC_HANDSHAKE: u64 = 2 * (22 << 10);
/// The same with those after it, and with packets that it does not acknowledge, of 430 bytes each.
const QUIC_MOST: u64 = QUIC_HANDSHAKE + (4 << 10) + QUIC_WASTE + UNACKNOWLEDGED * 430;
/// What comes between two looks at all connections, at 50,000 packets a second, and first packets: 512 KiB
/// in pieces of 25 bytes.
const QUIC_ALL: u64 = (2 << 20) + 12 * FIRST_PACKETS as u64;
/// Channels with fixed numbers, of blocks, of peers and of signals.
const CHANNELS: u32 = 6;
/// Bytes of packets that quinn keeps of a stream although nothing of them is of use: 32 KiB in packets that
/// count 256 bytes each, and cost 304; and a heap of theirs with twice as many places of 56 bytes.
const QUIC_WASTE: u64 = 53 << 10;

/// What quinn holds of the streams that a peer has begun, for a number of open channels. It keeps packets
/// whole for what it waits for of them, with 104 bytes for each, and copies what is of use when the rest is
/// more than one and a half times that, and 32 KiB. Of a copy nothing is free before all of it is read.
fn quic_unread(window: u32, channels: u32, stream_window: u32) -> u64 {
    let copies = u64::from(channels) * u64::from(window.min(stream_window));
    u64::from(window) * 7 / 2 + u64::from(streams_for(channels)) * QUIC_WASTE + copies
}

/// What a link makes a node hold of a pool's items on their way: one that arrives in chunks, and one that
/// goes out although nothing else has it any longer.
fn under_way(max_item: u32) -> u64 {
    let ways = if max_item as usize > MAX_WHOLE { 2 } else { 1 };
    ways * u64::from(max_item)
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;

    /// With 100 peers the defaults cost at most 500 MiB. PROTOCOL §4 has 256, without what peers can
    /// make quinn keep.
    #[test]
    fn defaults_with_three_pools_stay_below_500_mib() {
        let worst = config(3).worst_case_bytes();
        assert!(worst <= 500 << 20, "{} MiB", worst.div_ceil(1 << 20));
        assert!(worst >= 420 << 20, "{} MiB: the limits could be wider", worst >> 20);
    }
}
