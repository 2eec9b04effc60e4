//! Watches what a peer can make quinn keep for a connection beyond the data that flow control
//! bounds, and ends the connection if it is too much.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::{FrameStats, RttEstimator};

use tidegate_proto::config::UNACKNOWLEDGED;

use super::session::MAX_ACK_DELAY;
use crate::rt::Instant;

/// How often connections are checked.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// Connection ids that a peer may retire or announce, and one more a minute. quinn answers each
/// with a new one, or retires an old one, and keeps those until they can be sent. A peer that moves
/// to another network retires a few.
const IDS: u64 = 64;
const IDS_EVERY: Duration = Duration::from_secs(60);
/// How long a peer may leave more than [`UNACKNOWLEDGED`] packets unacknowledged: quinn keeps state
/// for each.
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(1);
/// The timeout of an acknowledgment, or [`Limits::silence`](tidegate_proto::Limits::silence) if
/// that is longer. Later acknowledgments would make the measured path as long, and a closed
/// connection is kept in proportion to that.
const SILENCE: Duration = Duration::from_secs(8);
/// The longest plausible round trip, even on a congested line.
const ROUND_TRIP: Duration = Duration::from_secs(4);
/// A round trip from this on counts as long: at most distances it is shorter.
const FAR: Duration = Duration::from_secs(1);

/// The state for checking one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    began: Instant,
    silence: Duration,
    /// The last packets sent and acknowledged, at the last check. quinn restarts its counts when
    /// the peer's address changes.
    sent: Option<u64>,
    acknowledged: Option<u64>,
    /// Ack-eliciting frames sent, at the last check.
    frames: u64,
    /// The round trip, at the last check.
    round_trip: Duration,
    /// Such a frame was sent after this packet, at about that time, and is not acknowledged yet.
    awaits: Option<(Option<u64>, Instant)>,
    /// The peer's address when it connected.
    at: SocketAddr,
    /// The address was another at the last check.
    is_elsewhere: bool,
}

/// What a check looks at.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The peer's address.
    at: SocketAddr,
    /// The last packets sent and acknowledged.
    sent: Option<u64>,
    acknowledged: Option<u64>,
    /// Ack-eliciting frames sent.
    frames: u64,
    /// Connection ids that the peer has retired or announced.
    ids: u64,
    round_trip: Duration,
}

impl Watch {
    pub(super) fn new(at: SocketAddr, silence: Duration, now: Instant) -> Self {
        Self {
            at,
            is_elsewhere: false,
            began: now,
            silence: silence.max(SILENCE),
            sent: None,
            acknowledged: None,
            frames: 0,
            round_trip: Duration::ZERO,
            awaits: None,
        }
    }

    /// Whether it is so far away that quinn would keep it for long after its end.
    pub(super) fn is_far(&self) -> bool {
        self.round_trip > FAR
    }

    /// What is too much, if anything.
    pub(super) fn excess(
        &mut self,
        quic: &quinn::Connection,
        now: Instant,
    ) -> Option<&'static [u8]> {
        // In this order: frames that are only counted at the next check come after this packet.
        let watched = quic.congestion_state().into_any().downcast::<Watched>().ok()?;
        let stats = quic.stats();
        let seen = Seen {
            at: quic.remote_address(),
            sent: watched.sent,
            acknowledged: watched.acknowledged,
            frames: acknowledged_frames(&stats.frame_tx),
            ids: stats.frame_rx.retire_connection_id.max(stats.frame_rx.new_connection_id),
            round_trip: stats.path.rtt,
        };
        self.look(seen, now)
    }

    fn look(&mut self, seen: Seen, now: Instant) -> Option<&'static [u8]> {
        // Limits by network, site and address, and the address told to others, would stay those of
        // the old place: end the connection. A single packet from elsewhere proves nothing, since
        // it may be a copy sent by anybody.
        let was_elsewhere = std::mem::replace(&mut self.is_elsewhere, seen.at != self.at);
        if was_elsewhere && self.is_elsewhere {
            return Some(b"another address");
        }
        let before = self.sent;
        self.sent = before.max(seen.sent);
        self.acknowledged = self.acknowledged.max(seen.acknowledged);
        // An acknowledgment of some other packet proves nothing about the awaited one: only one of
        // a later packet makes quinn forget the rest.
        self.awaits.take_if(|(behind, _)| self.acknowledged > *behind);
        if seen.frames > self.frames {
            self.awaits.get_or_insert((before, now));
        }
        (self.frames, self.round_trip) = (seen.frames, seen.round_trip);
        let since = self.awaits.map(|(_, since)| now.saturating_duration_since(since));
        let awaits = since.unwrap_or_default();
        let open = self.sent.unwrap_or(0).saturating_sub(self.acknowledged.unwrap_or(0));
        let age = now.saturating_duration_since(self.began);
        if seen.ids > IDS + age.as_secs() / IDS_EVERY.as_secs() {
            Some(b"too many connection ids")
        } else if awaits > self.silence || open > UNACKNOWLEDGED && awaits > UNACKNOWLEDGED_FOR {
            Some(b"nothing is acknowledged")
        } else if seen.round_trip > ROUND_TRIP {
            Some(b"too far away")
        } else {
            None
        }
    }
}

/// Ack-eliciting frames (RFC 9000 section 13.2), of the kinds that are sent here.
fn acknowledged_frames(sent: &FrameStats) -> u64 {
    let ids = sent.new_connection_id + sent.retire_connection_id;
    let paths = sent.path_challenge + sent.path_response;
    let credit = sent.max_data + sent.max_stream_data + sent.max_streams_uni;
    let streams = sent.stream + sent.reset_stream + sent.stop_sending;
    let handshake = sent.crypto + u64::from(sent.handshake_done);
    // Probes, which quinn sends when it has waited for too long.
    let probes = sent.ping + sent.immediate_ack + sent.ack_frequency;
    ids + paths + credit + streams + handshake + probes
}

/// How long quinn keeps a closed connection: three times its probe timeout, which is the round
/// trip, four times its variation, and the peer's delay (RFC 9002 section 6.2.1). quinn does not
/// expose the variation; a sample adds at most twice as much to it as to the round trip.
pub(super) fn kept_for(round_trip: Duration) -> Duration {
    (round_trip * 9 + MAX_ACK_DELAY) * 3
}

/// Makes quinn's Cubic, wrapped to be watched.
#[derive(Debug, Default)]
pub(super) struct Watching(Arc<CubicConfig>);

impl ControllerFactory for Watching {
    fn build(self: Arc<Self>, now: std::time::Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = self.0.clone().build(now, mtu);
        Box::new(Watched { inner, sent: None, acknowledged: None })
    }
}

/// Congestion control that remembers the last packets sent and acknowledged.
struct Watched {
    inner: Box<dyn Controller>,
    sent: Option<u64>,
    acknowledged: Option<u64>,
}

impl Controller for Watched {
    fn on_sent(&mut self, now: std::time::Instant, bytes: u64, last_packet_number: u64) {
        self.sent = Some(last_packet_number);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: std::time::Instant,
        sent: std::time::Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: std::time::Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.acknowledged = largest_packet_num_acked;
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: std::time::Instant,
        sent: std::time::Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let inner = self.inner.clone_box();
        Box::new(Self { inner, sent: self.sent, acknowledged: self.acknowledged })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

    const NOTHING: Seen = Seen {
        at: HERE,
        sent: None,
        acknowledged: None,
        frames: 0,
        ids: 0,
        round_trip: Duration::from_millis(50),
    };

    fn new(now: Instant) -> Watch {
        Watch::new(HERE, Duration::ZERO, now)
    }

    #[test]
    fn ids_are_exchanged_seldom() {
        let now = Instant::now();
        let mut watch = new(now);
        let mut look = |ids, now| watch.look(Seen { ids, ..NOTHING }, now);
        assert_eq!(look(64, now), None);
        assert!(look(65, now).is_some());
        assert_eq!(look(65, now + Duration::from_secs(60)), None);
        assert!(look(66, now + Duration::from_secs(60)).is_some());
    }

    #[test]
    fn round_trips_over_four_seconds_end_the_connection() {
        let now = Instant::now();
        let look = |round_trip| new(now).look(Seen { round_trip, ..NOTHING }, now);
        assert_eq!(look(ROUND_TRIP), None);
        assert!(look(ROUND_TRIP + Duration::from_millis(1)).is_some());
    }

    #[test]
    fn a_migrated_peer_must_reconnect() {
        let now = Instant::now();
        let mut watch = new(now);
        let there = Seen { at: SocketAddr::from(([127, 0, 0, 2], 1)), ..NOTHING };
        assert_eq!(watch.look(NOTHING, now), None);
        assert_eq!(watch.look(there, now), None);
        assert_eq!(watch.look(NOTHING, now), None, "it was one packet");
        assert_eq!(watch.look(there, now), None);
        assert!(watch.look(there, now).is_some());
    }

    fn seen(sent: u64, acknowledged: u64, frames: u64) -> Seen {
        Seen { sent: Some(sent), acknowledged: Some(acknowledged), frames, ..NOTHING }
    }

    #[test]
    fn unacknowledged_data_ends_the_connection() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut watch = new(began);
        assert_eq!(watch.look(seen(10, 10, 10), at(0)), None);
        // Acknowledgments are not acknowledged themselves, however many there are.
        assert_eq!(watch.look(seen(2_000, 10, 10), at(60_000)), None);
        assert_eq!(watch.look(seen(2_001, 10, 11), at(60_000)), None);
        assert_eq!(watch.look(seen(2_001, 10, 11), at(61_000)), None);
        assert!(watch.look(seen(2_001, 10, 11), at(61_001)).is_some());
        assert_eq!(watch.look(seen(2_001, 2_001, 11), at(61_001)), None);
        // A few may stay unacknowledged for longer.
        assert_eq!(watch.look(seen(2_321, 2_001, 12), at(70_000)), None);
        assert_eq!(watch.look(seen(2_321, 2_001, 12), at(78_000)), None);
        assert!(watch.look(seen(2_321, 2_001, 12), at(78_001)).is_some());
        // One more may not.
        assert_eq!(watch.look(seen(2_322, 2_321, 12), at(79_000)), None);
        assert_eq!(watch.look(seen(2_642, 2_321, 13), at(80_000)), None);
        assert!(watch.look(seen(2_642, 2_321, 13), at(81_001)).is_some());
    }

    /// Regression: a peer that acknowledged the oldest packet once a second kept all that followed
    /// it open.
    #[test]
    fn an_old_packet_is_not_what_is_awaited() {
        let began = Instant::now();
        let mut watch = new(began);
        let mut ended = None;
        for second in 1..60_u64 {
            let now = began + Duration::from_millis(900 * second);
            if watch.look(seen(5_000 * second, second, second), now).is_some() {
                ended = Some(second);
                break;
            }
        }
        assert_eq!(ended, Some(4));
        // An honest peer acknowledges all of it half a second later.
        let mut watch = new(began);
        for second in 1..600 {
            let now = began + Duration::from_millis(900 * second);
            let look = seen(5_000 * second, (5_000 * second).saturating_sub(2_500), 10 * second);
            assert_eq!(watch.look(look, now), None);
        }
    }

    /// quinn restarts its counters then.
    #[test]
    fn counters_restarted_by_a_migration_end_no_connection() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut watch = new(began);
        assert_eq!(watch.look(seen(9_000, 9_000, 9), at(0)), None);
        let moved = Seen { sent: Some(9_010), acknowledged: None, frames: 12, ..NOTHING };
        assert_eq!(watch.look(moved, at(100)), None);
        assert_eq!(watch.look(moved, at(3_000)), None);
        assert_eq!(watch.look(seen(9_012, 9_012, 13), at(4_000)), None);
    }
}
