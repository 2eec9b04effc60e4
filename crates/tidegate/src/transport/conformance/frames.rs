//! Delivery of frames.

use std::ops::Range;

use crate::wire::{Frame, MAX_FRAME};
use bytes::Bytes;

use super::Kind;
use super::harness::{End, Net, frame, numbered, with_body};

/// Sizes around thresholds: nothing, a word, a packet, a largest frame.
const SIZES: [usize; 12] = [0, 1, 3, 4, 100, 1023, 1024, 1200, 1452, 5000, 20_000, MAX_FRAME];
/// The channels of a case.
const fn channels<K: Kind>() -> [u32; 5] {
    [0, 1, 2, 16, K::LAST_CHANNEL]
}

fn size(number: u32) -> usize {
    // Most are small, as in real traffic.
    match number % 16 {
        0 => SIZES[(number / 16) as usize % SIZES.len()],
        rest => rest as usize * 37,
    }
}

pub async fn arrive_in_order_and_whole<K: Kind>() {
    let (mut net, a, b) = Net::<K>::pair().await;
    let count = if K::LOSSY { 100 } else { 1000 };
    for channel in channels::<K>() {
        net.open(a, channel);
        net.open(b, channel);
    }
    // The directions differ, so that an echo cannot be taken for the other side's frame.
    let routes = [(a, b, 0), (b, a, 1 << 31)];
    let mut queues: Vec<_> = routes
        .into_iter()
        .flat_map(|(from, to, salt)| {
            channels::<K>().map(|channel| (from, to, salt, channel, 0..count))
        })
        .collect();
    let idle = |net: &Net<K>, from: End, channel: u32, left: &Range<u32>| {
        !left.is_empty() && net.link(from).writable(channel)
    };
    while queues.iter().any(|(.., left)| !left.is_empty()) {
        for (from, _, salt, channel, left) in &mut queues {
            if idle(&net, *from, *channel, left)
                && let Some(number) = left.next()
            {
                let bytes = numbered(*channel, number | *salt, size(number));
                net.send(*from, *channel, bytes.into());
            }
        }
        let next = |net: &Net<K>| {
            let mut queues = queues.iter();
            let done = queues.clone().all(|(.., left)| left.is_empty());
            done || queues.any(|(from, _, _, channel, left)| idle(net, *from, *channel, left))
        };
        net.until("a channel to be writable", next).await;
    }
    let arrived = |net: &Net<K>| {
        queues.iter().all(|(_, to, _, channel, _)| net.link(*to).count(*channel) >= count as usize)
    };
    net.until("all frames", arrived).await;
    // Exactly once: no more may follow.
    net.settle().await;
    for (_, to, salt) in routes {
        for channel in channels::<K>() {
            let received = net.link(to).bytes(channel);
            assert_eq!(received.len(), count as usize, "channel {channel}");
            for (number, bytes) in received.iter().enumerate() {
                let number = number as u32;
                let expected = numbered(channel, number | salt, size(number));
                assert!(*bytes == expected, "frame {number} of channel {channel}");
            }
        }
    }
}

pub async fn head_and_body_arrive_as_one<K: Kind>() {
    let (mut net, a, b) = Net::<K>::pair().await;
    let mut sent = Vec::new();
    // The pad after the body is part of the frame.
    for size in [1024, 1025, 1026, 1027, 4000, 50_001, MAX_FRAME - 12] {
        let body = numbered(1, size as u32, size);
        let frame = with_body(&[1, 2], &body);
        let [head, detached, _] = frame.parts();
        assert!(detached == body && !head.is_empty(), "the body is not copied");
        sent.push(frame.to_bytes());
        net.send_when_writable(a, 0, frame).await;
    }
    net.until("all frames", |net| net.link(b).count(0) == sent.len()).await;
    assert!(net.link(b).bytes(0) == sent);
}

pub async fn the_largest_arrives<K: Kind>() {
    let (mut net, a, b) = Net::<K>::pair().await;
    let largest = numbered(0, 0, MAX_FRAME);
    for (from, to) in [(a, b), (b, a)] {
        net.send(from, 0, largest.clone().into());
        net.until("the frame", |net| net.link(to).count(0) == 1).await;
        assert!(net.link(to).bytes(0) == [largest.clone()]);
    }
}

/// The core makes no such frame. If one is sent all the same, it must not be delivered.
pub async fn an_oversize_frame_ends_the_connection<K: Kind>() {
    for oversize in [MAX_FRAME + 1, 4 * MAX_FRAME] {
        let (mut net, a, b) = Net::<K>::pair().await;
        net.round_trip(a, b).await;
        net.send(a, 0, Frame::from(Bytes::from(vec![7; oversize])));
        net.until("both ends", |net| net.link(a).closed && net.link(b).closed).await;
        assert_eq!(net.link(b).count(0), 1, "the round trip's, and nothing else");
        net.settle().await;
    }
}

pub async fn traffic_is_counted<K: Kind>() {
    const SIZE: usize = 10_000;
    let (mut net, a, b) = Net::<K>::pair().await;
    let traffic = |net: &Net<K>, end: End| net.peers[end.0].transport.as_ref().unwrap().traffic();
    let before = (traffic(&net, a), traffic(&net, b));
    net.send(a, 0, numbered(0, 0, SIZE).into());
    net.until("the frame", |net| net.link(b).count(0) == 1).await;
    let after = (traffic(&net, a), traffic(&net, b));
    assert!(after.0.sent - before.0.sent >= SIZE as u64, "{before:?} {after:?}");
    assert!(after.1.received - before.1.received >= SIZE as u64, "{before:?} {after:?}");
    // The traffic of a closed connection still counts.
    net.close(a);
    net.until("both ends", |net| net.link(a).closed && net.link(b).closed).await;
    let (at_a, at_b) = (traffic(&net, a), traffic(&net, b));
    assert!(at_a.sent >= after.0.sent && at_b.received >= after.1.received);
}

pub async fn one_writable_for_each_frame<K: Kind>() {
    let (mut net, a, b) = Net::<K>::pair().await;
    net.open(b, 16);
    for number in 0..100 {
        // `send` checks that the previous frame has left.
        net.send_when_writable(a, 0, frame(&[1; 40])).await;
        net.send_when_writable(a, 16, frame(&[2; 400])).await;
        net.until("its frames", |net| net.link(b).count(16) == number + 1).await;
    }
    net.settle().await;
    // None came without a frame, which every step checks, and none is missing.
    let left = &net.link(a).left;
    assert_eq!((left[&0], left[&16]), (100, 100));
    assert!(net.link(b).left.is_empty());
}
