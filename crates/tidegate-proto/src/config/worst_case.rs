//! What all peers together can make a node hold (specification section 4, *Memory*).

use super::{Config, PoolSpec};
use crate::channel::Kind;
use crate::peers::book::{NEW_SLOTS, TRIED_SLOTS};
use crate::wire::{MAX_BLOCK_ITEMS, MAX_FRAME, MAX_HEADER, MAX_SIGNAL, MAX_WHOLE};
use crate::{offer, signal};

impl Config {
    /// The largest number of bytes that all peers together can make this node hold.
    ///
    /// Counts every bound of [`Limits`](super::Limits), of the pools and of their permits, with
    /// what the transports hold. The application's own memory is not included.
    pub fn worst_case_bytes(&self) -> u64 {
        let limits = &self.limits;
        let peers = u64::from(limits.max_inbound) + u64::from(limits.max_outbound);
        // Connections in the hello, in the TLS handshake, and closed: for the last two, no stream
        // data is kept.
        let unread = quic_unread(STRANGER_WINDOW, 1, STRANGER_WINDOW);
        let strangers = u64::from(limits.handshakes) * (unread + QUIC_STATE + QUIC_MOST);
        let handshakes = u64::from(TLS_HANDSHAKES) * (QUIC_STATE + QUIC_HANDSHAKE);
        let gone = u64::from(FORGOTTEN) * (QUIC_STATE + QUIC_MOST);
        (peers + u64::from(ENDING))
            .saturating_mul(self.transport_bytes())
            .saturating_add(strangers + handshakes + gone + QUIC_ALL + TCP_ALL)
            // An item that has left its pool, in an event that the application has not read.
            .saturating_add(crate::EventQueue::BYTES as u64 + u64::from(self.largest_item()))
            .saturating_add(self.worst_case_core_bytes())
    }

    /// The share of the core in [`Config::worst_case_bytes`], for applications with a transport of
    /// their own: the largest number of bytes that a [`Node`](crate::Node) holds.
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
            // A peer in the hello can have one frame in flight.
            .saturating_add(u64::from(limits.handshakes) * MAX_FRAME as u64)
            .saturating_add((u64::from(limits.bans) + crate::peers::UNPAID as u64) * BAN)
            .saturating_add(crate::peers::dial_back::RESTING as u64 * BAN)
            .saturating_add(SEEN_AT + OFFERS)
            // Dials by offer keep what was sealed.
            .saturating_add((u64::from(limits.max_outbound) + 4) * 2 * OWN_SIGNAL)
            .saturating_add(u64::from(limits.book_new_buckets) * NEW_SLOTS * BOOK_ENTRY)
            .saturating_add(u64::from(limits.book_tried_buckets) * TRIED_SLOTS * BOOK_ENTRY)
    }

    fn largest_item(&self) -> u32 {
        self.pools.iter().map(|pool| pool.max_item).max().unwrap_or(0)
    }

    /// What a transport holds for one peer: its windows, frames that are half read, and one frame
    /// of each channel waiting to be written (a pool's items among them are counted there).
    fn transport_bytes(&self) -> u64 {
        let limits = &self.limits;
        let channels = CHANNELS + self.pools.len() as u32;
        let window = limits.receive_window;
        let unread = quic_unread(window, channels, window / 3 * 2);
        let half_read = HALF_READ + u64::from(channels) * SMALL_FRAME;
        let quic = unread + QUIC_STATE + QUIC_MOST + half_read;
        // On one stream two frames of each channel have credits; a third leaves.
        let tcp = u64::from(channels) * 2 * MAX_FRAME as u64 + MAX_FRAME as u64 + TCP_STATE;
        quic.max(tcp) + u64::from(limits.send_window) + UNSENT
    }

    /// What a pool holds for one peer besides its items.
    fn pool_link_bytes(&self, pool: &PoolSpec) -> u64 {
        let grant = &pool.grant;
        let permits = u64::from(grant.announcements) + u64::from(grant.bodies);
        u64::from(grant.body_bytes)
            + permits * ANNOUNCED
            + u64::from(self.limits.held_back) * HELD_BACK
            + under_way(pool.max_item)
            + POOL_LINK
    }

    /// What a node holds for one peer's block channel.
    fn block_link_bytes(&self) -> u64 {
        let limits = &self.limits;
        // Two compact blocks; two headers being checked, one announced and one requested.
        let pushed = u64::from(limits.block_grant.body_bytes) + 2 * MAX_HEADER as u64;
        let orphans = u64::from(limits.orphan_bytes) + u64::from(limits.ancestors) * ORPHAN;
        pushed + orphans + u64::from(limits.block_wants) * WANT + under_way(self.largest_item())
    }

    /// What a node holds for one peer's signals: those the peer has carried, the numbers of those
    /// carried to and from it, and a question on its way.
    fn signal_link_bytes(&self) -> u64 {
        let limits = &self.limits;
        let carried = u64::from(limits.signals_carried);
        let numbers = carried + u64::from(limits.signals_taken) + u64::from(signal::MOST_OUT);
        // With the peer's record.
        let choice = signal::CHOICE as u64 + signal::WANTED as u64 * BAN + OWN_SIGNAL;
        carried * MAX_SIGNAL as u64 + numbers * SIGNAL + choice
    }

    fn pool_bytes(&self, pool: &PoolSpec, peers: u64) -> u64 {
        let limits = &self.limits;
        // One item may cross the budget; and there may be copies of all of them on their way out.
        pool.capacity_bytes
            .saturating_add(u64::from(pool.max_item))
            .saturating_add(pool.capacity.saturating_mul(ENTRY + peers.div_ceil(64) * 8))
            .saturating_add(u64::from(limits.shelved_bytes) + u64::from(limits.shelved) * ENTRY)
            // Bodies whose verdict timed out: their permits have gone back.
            .saturating_add(u64::from(self.workers) * 2 * u64::from(pool.max_item))
    }

    /// Blocks that are kept, being reconstructed, arriving as answers, and being served.
    fn blocks_bytes(&self) -> u64 {
        let limits = &self.limits;
        let largest = u64::from(limits.block_size);
        let building = largest + MAX_BLOCK_ITEMS as u64 * BLOCK_ITEM;
        u64::from(limits.header_bytes)
            + u64::from(limits.block_bytes)
            + u64::from(limits.reconstructions) * building
            // The next block to execute always fits, beside half of the budget.
            + u64::from(limits.block_bytes) / 2
            + largest
            + u64::from(limits.serving) * crate::block::body::largest(self) as u64
    }
}

/// Bytes a transport accepts on a new connection before the core has opened a channel on it: a
/// hello has some 200. From then on it is
/// [`Limits::receive_window`](super::Limits::receive_window).
pub const STRANGER_WINDOW: u32 = 4 << 10;
/// Streams that a peer may open on a transport when the core has opened `channels` channels: two
/// more than that, and as many again as quinn may leave unannounced, which is one in eight of all.
pub const fn streams_for(channels: u32) -> u32 {
    channels + 2 + channels / 12
}

/// TLS handshakes of a transport at a time.
pub const TLS_HANDSHAKES: u32 = 64;
/// Accepted connections that are being closed while others have taken their places.
pub const ENDING: u32 = 4;
/// Closed connections that a transport has not forgotten yet, at most: as many as fail in half a
/// second when as many come as are let in.
pub const FORGOTTEN: u32 = 96;
/// Packets that a peer may leave unacknowledged for more than a second: three times as many large
/// ones as fit into the send window.
pub const UNACKNOWLEDGED: u64 = 320;
/// Bytes a transport buffers of the first packets of all handshakes: 8 KiB for each of 64, which
/// need two packets.
pub const FIRST_PACKETS: u32 = 512 << 10;

// The overhead of things beside their bytes. A B-tree's leaf has eleven places and is six to eight
// tenths full; the test of the worst case drives a node there.

/// An item in a pool: its entries by id, by rank, by key, in the log and in its account's chain.
const ENTRY: u64 = 1100;
/// An announcement or a body whose permit is outstanding: its candidates, or its pending entry, its
/// place in the queue, and the report owed.
const ANNOUNCED: u64 = 560;
/// A log position that is held back, or outstanding at a peer.
const HELD_BACK: u64 = 88;
/// A pool's state for one link.
const POOL_LINK: u64 = 1200;
/// One connection: its requests in both directions, slots it pushed blocks for, its timers.
const LINK: u64 = 58 << 10;
/// A header with an unknown parent.
const ORPHAN: u64 = 680;
/// A header or a block that may be requested from a peer.
const WANT: u64 = 512;
/// An accepted header, and the connections that announced it.
pub(crate) const HEADER: u64 = 3 << 10;
/// An item of a block, with its hashes.
pub(crate) const BLOCK_ITEM: u64 = 288;
const BAN: u64 = 96;
/// A signal, beside its payload: its sender and receiver, and its numbers on both links.
const SIGNAL: u64 = 512;
/// One of this node's own, with its statement.
const OWN_SIGNAL: u64 = MAX_SIGNAL as u64 + 256;
/// Offers that count no second time, this node's own, and what is being sealed and opened.
const OFFERS: u64 =
    offer::SEEN as u64 * 2 * BAN + (signal::OWN + offer::UNDER_WAY) as u64 * OWN_SIGNAL;
/// Observed addresses: eight by 64 peers each, each of which may have been asked to dial it back;
/// and 512 peers that are left alone.
const SEEN_AT: u64 = 8 * 64 * (128 + 48) + 512 * BAN;
/// Addresses are kept twice: in the record, and as candidates for dialing.
const BOOK_ENTRY: u64 = 3700;
/// Two frames of 64 KiB and one of control, whose buffers grow as they arrive.
const HALF_READ: u64 = 192 << 10;
/// The part of a frame that is read before it gets a place for large ones, on each channel.
const SMALL_FRAME: u64 = 4 << 10;
/// One compact block, chunk or message of headers, one of records, one tip: all unread by the peer.
const UNSENT: u64 = 132 << 10;
/// What quinn and TLS keep for a connection, measured by `cargo bench -p tidegate --bench siege`.
const QUIC_STATE: u64 = 44 << 10;
/// What a hostile peer can make them keep of TLS messages that arrive out of order, with the
/// overhead of their packets: 16 KiB for each of two kinds before the handshake is complete.
const QUIC_HANDSHAKE: u64 = 2 * (22 << 10);
/// The same after the handshake, with packets that the peer does not acknowledge, of 430 bytes
/// each.
const QUIC_MOST: u64 = QUIC_HANDSHAKE + (4 << 10) + QUIC_WASTE + UNACKNOWLEDGED * 430;
/// What TLS keeps for a connection over TCP: its state, and a record and what is written in each direction.
const TCP_STATE: u64 = 160 << 10;
/// Frames that a transport with tasks of its own has read, and the node has not: 64 KiB, and one more.
const TCP_ALL: u64 = 2 * MAX_FRAME as u64;
/// What arrives between two polls of all connections, at 50,000 packets a second, and first
/// packets: 512 KiB in pieces of 25 bytes.
const QUIC_ALL: u64 = (2 << 20) + 12 * FIRST_PACKETS as u64;
/// Channels besides those of pools: one of each other kind.
const CHANNELS: u32 = Kind::ALL.len() as u32 - 1;
/// Bytes of packets that quinn keeps for a stream although no part of them is useful: 32 KiB in
/// packets that count 256 bytes each, and cost 304; and a heap for them with twice as many places
/// of 56 bytes.
const QUIC_WASTE: u64 = 53 << 10;

/// What quinn holds for the streams that a peer has begun, for a number of open channels. It keeps
/// whole packets around the bytes that it still needs, with 104 bytes for each, and makes copies
/// when the useless rest is more than one and a half times as large, and over 32 KiB. A copy is
/// freed only when all of it is read.
fn quic_unread(window: u32, channels: u32, stream_window: u32) -> u64 {
    let copies = u64::from(channels) * u64::from(window.min(stream_window));
    u64::from(window) * 7 / 2 + u64::from(streams_for(channels)) * QUIC_WASTE + copies
}

/// What a pool's items in transit take on one link: one arriving in chunks, and one leaving that
/// has been evicted meanwhile.
fn under_way(max_item: u32) -> u64 {
    let ways = if max_item as usize > MAX_WHOLE { 2 } else { 1 };
    ways * u64::from(max_item)
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;

    /// With 100 peers the defaults cost at most 500 MiB. PROTOCOL §4 has 256, which does not count
    /// what peers can make quinn keep.
    #[test]
    fn defaults_with_three_pools_stay_below_500_mib() {
        let worst = config(3).worst_case_bytes();
        assert!(worst <= 500 << 20, "{} MiB", worst.div_ceil(1 << 20));
        assert!(worst >= 420 << 20, "{} MiB: the limits could be wider", worst >> 20);
    }
}
