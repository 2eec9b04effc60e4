//! How connections end.

use super::Kind;
use super::harness::{End, Net, frame, numbered};

fn both_closed<K: Kind>(net: &Net<K>, a: End, b: End) -> bool {
    net.link(a).closed && net.link(b).closed
}

pub async fn a_lost_transport_is_noticed<K: Kind>() {
    for lost in [0, 1] {
        let (mut net, a, b) = Net::<K>::pair().await;
        net.round_trip(a, b).await;
        let (gone, left) = if lost == 0 { (a, b) } else { (b, a) };
        net.drop_transport(gone.0);
        net.until("Closed", |net| net.link(left).closed).await;
        // Calls after the close must have no effect.
        net.open(left, 16);
        net.close(left);
        net.settle().await;
    }
}

/// Another node finds its port as soon as the shutdown is complete.
pub async fn an_address_is_free_after_the_shutdown<K: Kind>() {
    let (mut net, a, b) = Net::<K>::pair().await;
    net.round_trip(a, b).await;
    let mut gone = net.peers[b.0].transport.take().expect("a transport");
    let ended = gone.shut_down();
    net.alongside("the shutdown", ended).await;
    drop(gone);
    net.until("Closed", |net| net.link(a).closed).await;
    let next = net.add();
    let address = net.peers[b.0].address.clone().expect("a listener");
    net.peers[next].transport.as_mut().expect("a transport").listen(&address).expect("it is free");
    net.until("its address", |net| net.peers[next].address.as_ref() == Some(&address)).await;
    net.connect(a.0, next).await;
}

/// R4.3.3
pub async fn last_words_on_control_arrive<K: Kind>() {
    // The first frame of a channel is special: it opens the channel.
    for before in [0, 3] {
        let (mut net, a, b) = Net::<K>::pair().await;
        for _ in 0..before {
            net.round_trip(a, b).await;
        }
        for (number, size) in [(0, 300), (1, 60_000)] {
            let (from, to) = if number == 0 { (a, b) } else { (b, a) };
            let bytes = numbered(0, number, size);
            let heard = net.link(to).count(0);
            net.send_when_writable(from, 0, bytes.clone().into()).await;
            if number == 0 {
                net.until("the first", |net| net.link(to).count(0) > heard).await;
                continue;
            }
            net.close(from);
            net.until("both ends", |net| both_closed(net, a, b)).await;
            assert_eq!(net.link(to).count(0), heard + 1);
            assert!(net.link(to).bytes(0).last() == Some(&bytes));
        }
        net.settle().await;
    }
}

/// The other side is busy while the frames and the end arrive: it must still see both, in order.
pub async fn last_words_arrive_at_a_late_reader<K: Kind>() {
    for _ in 0..3 {
        let (mut net, a, b) = Net::<K>::pair().await;
        net.open(b, 16);
        // The reader's transport is not polled until the sender has reported the end.
        let reader = net.peers[b.0].transport.take();
        for number in 0..8 {
            if !net.link(a).writable(0) {
                break;
            }
            net.send(a, 0, numbered(0, number, 2000).into());
            // A transport may wait for its reader before it takes the second frame.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(20), net.step()).await;
        }
        let sent = net.link(a).left.get(&0).copied().unwrap_or(0).max(1);
        net.close(a);
        net.until("the sender's end", |net| net.link(a).closed).await;
        // Until the reader's socket has received it too.
        net.settle().await;
        net.peers[b.0].transport = reader;
        net.until("the reader's end", |net| net.link(b).closed).await;
        let received = net.link(b).bytes(0);
        assert!(received.len() >= sent, "{} of {sent} frames", received.len());
        for (number, bytes) in received.iter().enumerate() {
            assert!(*bytes == numbered(0, number as u32, 2000), "frame {number}");
        }
    }
}

pub async fn both_may_close_at_once<K: Kind>() {
    let (mut net, a, b) = Net::<K>::pair().await;
    net.round_trip(a, b).await;
    for end in [a, b] {
        net.send_when_writable(end, 0, frame(b"goodbye")).await;
    }
    net.close(a);
    net.close(b);
    // Closing twice must do no harm.
    net.close(a);
    net.until("both ends", |net| both_closed(net, a, b)).await;
    net.settle().await;
}

pub async fn one_connection_closes_and_another_stays<K: Kind>() {
    let (mut net, a, b) = Net::<K>::pair().await;
    let (c, d) = net.connect(1, 0).await;
    net.round_trip(c, d).await;
    net.close(a);
    net.until("both ends", |net| both_closed(net, a, b)).await;
    net.round_trip(c, d).await;
    assert!(!net.link(c).closed && !net.link(d).closed);
}

pub async fn what_is_closed_takes_nothing_more<K: Kind>() {
    let (mut net, a, b) = Net::<K>::pair().await;
    net.round_trip(a, b).await;
    net.close(a);
    net.send(a, 0, frame(b"too late"));
    net.send(a, 16, frame(b"too late"));
    net.open(a, 16);
    net.until("both ends", |net| both_closed(net, a, b)).await;
    assert_eq!(net.link(b).count(0), 1, "the round trip's, and nothing else");
    let transport = net.peers[a.0].transport.as_mut().unwrap();
    transport.send(a.1, 0, frame(b"too late"));
    transport.open(a.1, 17);
    transport.close(a.1);
    net.settle().await;
}
