//! Channels that are not read.

use super::Kind;
use super::harness::{Net, frame, most_unread, numbered};

/// R4.1.5
pub async fn nothing_is_read_before_open<K: Kind>() {
    let (mut net, a, b) = Net::<K>::pair().await;
    let channels = [1, 16, 17];
    for channel in channels {
        net.send(a, channel, numbered(channel, 0, 500).into());
    }
    // A frame of an unopened channel would fail any of these steps.
    for _ in 0..20 {
        net.round_trip(a, b).await;
    }
    net.open(b, 16);
    net.until("what waited", |net| net.link(b).count(16) == 1).await;
    net.send_when_writable(a, 16, numbered(16, 1, 500).into()).await;
    net.until("what comes now", |net| net.link(b).count(16) == 2).await;
    let received = net.link(b).bytes(16);
    assert!(received == [numbered(16, 0, 500), numbered(16, 1, 500)]);
    // The other channels still wait. Directions are independent: `b` may send on a channel that it
    // does not read.
    net.round_trip(a, b).await;
    net.open(a, 17);
    net.send(b, 17, frame(b"back"));
    net.until("the way back", |net| net.link(a).count(17) == 1).await;
    assert_eq!((net.link(b).count(1), net.link(b).count(17)), (0, 0));
    for channel in [1, 17] {
        net.open(b, channel);
        net.until("what waited", |net| net.link(b).count(channel) == 1).await;
        assert!(net.link(b).bytes(channel) == [numbered(channel, 0, 500)]);
    }
}

pub async fn frames_of_a_channel_opened_early_arrive<K: Kind>() {
    let (mut net, a, b) = Net::<K>::pair().await;
    net.open(b, 20);
    net.open(b, 20);
    net.round_trip(a, b).await;
    net.send(a, 20, frame(b"at last"));
    net.until("the frame", |net| net.link(b).count(20) == 1).await;
    // Opening it twice does not make two channels of it.
    net.open(b, 20);
    net.send_when_writable(a, 20, frame(b"again")).await;
    net.until("the frame", |net| net.link(b).count(20) == 2).await;
    net.round_trip(a, b).await;
    assert_eq!(net.link(b).count(20), 2);
}

/// A node that is busy does not make its transport hold what comes meanwhile, and loses nothing.
pub async fn a_node_that_takes_nothing_stops_its_peer<K: Kind>() {
    const SIZE: usize = 16 << 10;
    let (mut net, a, b) = Net::<K>::pair().await;
    net.open(b, 16);
    net.round_trip(a, b).await;
    let reader = net.peers[b.0].transport.take();
    let (mut given, most) = (0, 2 * most_unread() / SIZE);
    let quiet = std::time::Duration::from_millis(300);
    while given <= most {
        if net.link(a).writable(16) {
            net.send(a, 16, numbered(16, given as u32, SIZE).into());
            given += 1;
        } else if tokio::time::timeout(quiet, net.step()).await.is_err() {
            break;
        }
    }
    assert!(given <= most, "{given} frames were taken, and still more");
    net.peers[b.0].transport = reader;
    net.until("what waited", |net| net.link(b).count(16) == given).await;
    for (number, bytes) in net.link(b).bytes(16).iter().enumerate() {
        assert!(*bytes == numbered(16, number as u32, SIZE), "frame {number}");
    }
}

pub async fn a_stuck_channel_holds_up_no_other<K: Kind>() {
    const SIZE: usize = 16 << 10;
    let (mut net, a, b) = Net::<K>::pair().await;
    let (stuck, quick) = (30, 31);
    net.open(b, quick);
    // Without a bound that many would be taken for the stuck channel too.
    let count = if K::LOSSY { 60 } else { 200 };
    let mut given = 0;
    for number in 0..count {
        if net.link(a).writable(stuck) {
            net.send(a, stuck, numbered(stuck, given, SIZE).into());
            given += 1;
        }
        net.send_when_writable(a, quick, numbered(quick, number, SIZE).into()).await;
        let arrived = number as usize + 1;
        net.until("the quick channel", |net| net.link(b).count(quick) == arrived).await;
        net.round_trip(a, b).await;
    }
    assert!(!net.link(a).writable(stuck), "{given} frames, and still more is taken");
    let accepted = given as usize * SIZE;
    assert!(accepted <= most_unread(), "{accepted} bytes were taken");
    // Nothing is lost, and the channel goes on.
    net.open(b, stuck);
    net.until("what was stuck", |net| net.link(b).count(stuck) == given as usize).await;
    net.send_when_writable(a, stuck, numbered(stuck, given, SIZE).into()).await;
    net.until("what follows", |net| net.link(b).count(stuck) == given as usize + 1).await;
    for (number, bytes) in net.link(b).bytes(stuck).iter().enumerate() {
        assert!(*bytes == numbered(stuck, number as u32, SIZE), "frame {number}");
    }
}
