//! What only QUIC promises: peers that violate the protocol do no harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use quinn::{ConnectionError, VarInt};
use tidegate::Limits;
use tidegate::config::STRANGER_WINDOW;
use tidegate::io::DialError;
use tidegate::transport::Transport as _;
use tidegate::wire::{Binding, MAX_FRAME};

use super::raw::{Shows, client, endpoint, good_client, late_client, quic, thief};
use super::relay::{Dice, Fate, Relay, socket};
use super::relay::{address_of, socket_of};
use crate::OverQuic;
use tidegate::transport::conformance::harness::{End, Net, frame, numbered};
use tidegate::transport::{Dial, Happening, Setup};

type QuicNet = Net<OverQuic>;

/// The close code for violations of the framing.
const FRAMING: VarInt = VarInt::from_u32(1);

/// A bare client, and the listener's end of its connection.
async fn accepted(net: &mut QuicNet) -> (quinn::Connection, End) {
    accepted_from(net, &endpoint()).await
}

async fn accepted_from(net: &mut QuicNet, from: &quinn::Endpoint) -> (quinn::Connection, End) {
    let to = socket_of(net.peers[0].address.as_ref().expect("a listener"));
    let connecting = from.connect_with(good_client(), to, "x").expect("a dial");
    let dialing = tokio::spawn(connecting);
    let before = net.peers[0].links.len();
    net.until("a bare client", |net| net.peers[0].links.len() > before).await;
    let connection = dialing.await.expect("no panic").expect("a connection");
    let (id, _) = net.peers[0].links.last_key_value().expect("its end");
    (connection, End(0, *id))
}

/// A stream of a channel, with bytes after its number.
async fn stream(quic: &quinn::Connection, channel: u32, bytes: &[u8]) -> quinn::SendStream {
    let mut stream = quic.open_uni().await.expect("a stream");
    stream.write_all(&channel.to_be_bytes()).await.expect("its channel");
    stream.write_all(bytes).await.expect("its bytes");
    stream
}

/// Another implementation derives the same binding from the specification (section 4.2).
#[tokio::test]
async fn the_binding_is_the_exporter_of_the_specification() {
    let mut net = QuicNet::new(1).await;
    let (quic, end) = accepted(&mut net).await;
    let mut exporter = [0; 32];
    quic.export_keying_material(&mut exporter, b"tidegate binding 1", b"").expect("32 bytes");
    assert_eq!(net.link(end).binding, Binding::Exporter(exporter));
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

async fn ends_for_framing(net: &mut QuicNet, quic: &quinn::Connection, end: End) {
    net.until("Closed", |net| net.link(end).closed).await;
    match quic.closed().await {
        ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, FRAMING),
        error => panic!("{error}"),
    }
}

/// R4.2.1, R4.2.2
#[tokio::test]
async fn only_peers_with_an_ed25519_key_are_accepted() {
    let mut net = QuicNet::new(1).await;
    let to = socket_of(net.peers[0].address.as_ref().unwrap());
    let tidegate: &[&[u8]] = &[b"tidegate/1"];
    let strangers: [(&str, Shows, &[&[u8]]); 7] = [
        // R4.2.5
        ("a large certificate", Shows::Large, tidegate),
        ("no certificate", Shows::Nothing, tidegate),
        ("another kind of key", Shows::P256, tidegate),
        ("two certificates", Shows::TwoCertificates, tidegate),
        ("a stolen certificate", Shows::Stolen, tidegate),
        ("another protocol", Shows::Ed25519, &[b"tidegate/2", b"h3"]),
        ("no protocol", Shows::Ed25519, &[]),
    ];
    for (what, shows, alpn) in strangers {
        let connecting = endpoint().connect_with(client(shows, alpn), to, "x").expect("a dial");
        // A client completes the handshake before the server has checked its certificate.
        let refused = async {
            match connecting.await {
                Ok(connection) => connection.closed().await,
                Err(error) => error,
            }
        };
        let error = net.alongside("a refusal", refused).await;
        // The error comes from TLS, not from a timeout.
        let by_tls = matches!(error, ConnectionError::ConnectionClosed(_));
        assert!(by_tls || matches!(error, ConnectionError::TransportError(_)), "{what}: {error}");
        assert!(net.peers[0].links.is_empty(), "{what}: it came in");
    }
    let (_connection, end) = accepted(&mut net).await;
    assert!(!net.link(end).closed);
}

/// A closed connection is kept for three times the delay that its peer announces. R4.2.6
#[tokio::test]
async fn peers_with_a_long_ack_delay_are_refused() {
    for (delay, is_let_in) in [(250, true), (251, false)] {
        let mut net = QuicNet::new(1).await;
        let to = socket_of(net.peers[0].address.as_ref().expect("an address"));
        let connecting = endpoint().connect_with(late_client(delay), to, "x").expect("a dial");
        let connected = net.alongside("an answer", connecting).await;
        assert_eq!(connected.is_ok(), is_let_in, "{delay} ms: {connected:?}");
    }
}

/// A certificate alone proves nothing: a peer that was dialed has shown it to many.
#[tokio::test]
async fn a_server_with_a_stolen_certificate_is_no_peer() {
    let mut net = QuicNet::new(0).await;
    let dialer = net.add();
    let thief = thief();
    let address = address_of(thief.local_addr().expect("its address"));
    let dial = net.peers[dialer].dial(&address, None);
    let serving = tokio::spawn(async move {
        if let Some(incoming) = thief.accept().await {
            let _ = incoming.await;
        }
        thief
    });
    net.until("a dial", |net| net.peers[dialer].dials.contains_key(&dial)).await;
    assert_eq!(net.peers[dialer].dials[&dial], Err(DialError::WrongPeer));
    assert!(serving.await.is_ok());
}

/// R4.1.3
#[tokio::test]
async fn an_announced_length_above_the_bound_ends_the_connection() {
    for length in [MAX_FRAME as u32 + 1, u32::MAX] {
        let mut net = QuicNet::new(1).await;
        let (quic, end) = accepted(&mut net).await;
        // The length is enough: nothing of the frame is awaited.
        let control = [framed(b"good"), length.to_be_bytes().to_vec()].concat();
        let _stream = stream(&quic, 0, &control).await;
        ends_for_framing(&mut net, &quic, end).await;
        assert_eq!(net.link(end).bytes(0), [&b"good"[..]]);
    }
}

/// How many bytes a stream takes at once.
fn takes(stream: &mut quinn::SendStream) -> usize {
    let mut taken = 0;
    while let Some(written) = stream.write(&[7; 1000]).now_or_never() {
        taken += written.expect("a stream");
    }
    taken
}

#[tokio::test]
async fn a_stranger_is_listened_to_for_as_long_as_a_hello() {
    let mut net = QuicNet::new(1).await;
    let (quic, end) = accepted(&mut net).await;
    // Most of all on a channel that is not read.
    let mut unread = quic.open_uni().await.expect("a stream");
    assert_eq!(takes(&mut unread), STRANGER_WINDOW as usize);
    net.open(end, 16);
    let window = Limits::default().receive_window as usize;
    let mut more = 0;
    let growing = async {
        while STRANGER_WINDOW as usize + more < window / 3 * 2 {
            more += takes(&mut unread);
            tokio::task::yield_now().await;
        }
    };
    net.alongside("a window", growing).await;
}

/// R4.1.7
#[tokio::test]
async fn streams_are_as_many_as_channels() {
    let mut net = QuicNet::new(1).await;
    let (quic, end) = accepted(&mut net).await;
    let mut streams = Vec::new();
    let mut most = async |net: &mut QuicNet, more: usize| {
        for _ in 0..more {
            let stream = net.alongside("a stream", quic.open_uni()).await;
            streams.push(stream.expect("a connection"));
        }
        // It would arrive at once; together with what is in transit it takes a round trip.
        let beyond = tokio::time::timeout(Duration::from_millis(200), quic.open_uni());
        assert!(net.alongside("no stream", beyond).await.is_err(), "{}", streams.len());
    };
    // A stranger's: control, and two for channels that are not open yet.
    most(&mut net, 3).await;
    for channel in [16, 17, 16] {
        net.open(end, channel);
    }
    most(&mut net, 2).await;
}

/// R4.1.2
#[tokio::test]
async fn a_channel_has_one_stream() {
    for channel in [0, 16] {
        let mut net = QuicNet::new(1).await;
        let (quic, end) = accepted(&mut net).await;
        let _first = stream(&quic, channel, &framed(b"first")).await;
        let _second = stream(&quic, channel, &framed(b"second")).await;
        ends_for_framing(&mut net, &quic, end).await;
        assert!(!net.link(end).bytes(channel).contains(&b"second"[..].into()));
    }
}

/// R4.1.4
#[tokio::test]
async fn half_a_frame_is_none() {
    let mut net = QuicNet::new(1).await;
    let (quic, end) = accepted(&mut net).await;
    net.open(end, 16);
    let mut half = stream(&quic, 16, &[0, 0, 0, 9, 1, 2, 3]).await;
    half.finish().expect("it is open");
    ends_for_framing(&mut net, &quic, end).await;
    assert_eq!(net.link(end).count(16), 0);
}

/// R4.1.4
#[tokio::test]
async fn a_channel_that_is_taken_back_ends_the_connection() {
    let mut net = QuicNet::new(1).await;
    let (quic, end) = accepted(&mut net).await;
    let mut control = stream(&quic, 0, &framed(b"first")).await;
    net.until("a frame", |net| net.link(end).count(0) == 1).await;
    control.reset(VarInt::from_u32(7)).expect("it is open");
    ends_for_framing(&mut net, &quic, end).await;
}

/// R4.1.1
#[tokio::test]
async fn a_frame_arrives_byte_by_byte() {
    let mut net = QuicNet::new(1).await;
    let (quic, end) = accepted(&mut net).await;
    let dribble = tokio::spawn(async move {
        let mut stream = quic.open_uni().await.expect("a stream");
        for byte in [vec![0; 4], framed(b"slowly"), framed(b"but whole")].concat() {
            stream.write_all(&[byte]).await.expect("a byte");
            // Each in a packet of its own.
            while stream.id().index() == 0 && quic.stats().frame_tx.stream == 0 {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
        }
        (quic, stream)
    });
    net.until("both frames", |net| net.link(end).count(0) == 2).await;
    assert_eq!(net.link(end).bytes(0), [&b"slowly"[..], b"but whole"]);
    assert!(dribble.await.is_ok());
}

/// Regression: a peer that refused to read a channel was waited for in vain, also by the core.
#[tokio::test]
async fn a_channel_that_the_peer_stops_ends_the_connection() {
    let mut net = QuicNet::new(1).await;
    let (quic, end) = accepted(&mut net).await;
    net.send(end, 0, frame(b"hello"));
    let reading = tokio::spawn(async move {
        let mut stream = quic.accept_uni().await.expect("a stream");
        stream.stop(VarInt::from_u32(7)).expect("it is open");
        (quic.closed().await, quic)
    });
    for _ in 0..1000 {
        if net.link(end).closed {
            break;
        }
        if net.link(end).writable(0) {
            net.send(end, 0, frame(&[0; 1000]));
        }
        net.until("Writable or Closed", |net| net.link(end).closed || net.link(end).writable(0))
            .await;
    }
    assert!(net.link(end).closed);
    assert!(reading.await.is_ok());
}

/// An item that is kept must not keep the datagrams that it arrived in.
#[tokio::test]
async fn a_frame_holds_its_own_bytes_only() {
    let mut net = QuicNet::new(1).await;
    let (quic, end) = accepted(&mut net).await;
    let sizes = [1, 300, 900, 3000, 40_000, MAX_FRAME];
    let frames = sizes.repeat(20).into_iter().map(|size| framed(&vec![5; size]));
    let bytes = frames.collect::<Vec<_>>().concat();
    let sending = tokio::spawn(async move { (stream(&quic, 0, &bytes).await, quic) });
    net.until("all frames", |net| net.link(end).count(0) == 120).await;
    let link = net.peers[0].links.get_mut(&end.1).unwrap();
    for frame in link.received.remove(&0).unwrap() {
        let length = frame.len();
        let [head, ..] = frame.parts();
        drop(frame);
        let held = head.try_into_mut().expect("nobody else holds it").capacity();
        assert_eq!(held, length, "bytes held");
    }
    assert!(sending.await.is_ok());
}

#[tokio::test]
async fn garbage_does_not_disturb_a_listener() {
    let mut net = QuicNet::new(1).await;
    let to = socket_of(net.peers[0].address.as_ref().unwrap());
    let (quic, end) = accepted(&mut net).await;
    let (noise, mut dice) = (socket(), Dice(2));
    for round in 0..3000_u64 {
        let size = [1, 20, 21, 100, 1199, 1200, 1400][round as usize % 7];
        let mut datagram: Vec<u8> = (0..size).map(|_| dice.roll() as u8).collect();
        // Long headers of this version and of an unknown one, and a short one as of an established
        // connection.
        let headers: [&[u8]; 4] =
            [&[0xc3, 0, 0, 0, 1, 8], &[0xc3, 0xfa, 0xce, 0xb0, 0], &[0x40], &[]];
        let header = headers[round as usize % 4];
        datagram.iter_mut().zip(header).for_each(|(byte, head)| *byte = *head);
        // The listener's buffer may be full: then it is lost.
        let _ = noise.send_to(&datagram, to).await;
        tokio::task::yield_now().await;
    }
    let _stream = stream(&quic, 0, &framed(b"still here")).await;
    net.until("a frame", |net| net.link(end).count(0) == 1).await;
    assert_eq!(net.peers[0].links.len(), 1, "garbage has connected");
    let (_other, end) = accepted(&mut net).await;
    assert!(!net.link(end).closed);
}

/// Two ends, and a way to interrupt the path between them.
async fn on_a_way_that_may_die() -> (QuicNet, End, End, Arc<AtomicBool>) {
    let mut net = QuicNet::new(1).await;
    let dialer = net.add();
    let dead = Arc::new(AtomicBool::new(false));
    let to = socket_of(net.peers[0].address.as_ref().unwrap());
    let relay = Relay::start(to, {
        let dead = dead.clone();
        move |_, _| if dead.load(Ordering::Relaxed) { Fate::IsLost } else { Fate::Passes }
    });
    let dial = net.peers[dialer].dial(&address_of(relay.address), None);
    net.until("a dial", |net| net.peers[dialer].dials.contains_key(&dial)).await;
    let end = End(dialer, net.peers[dialer].dials[&dial].clone().expect("a connection"));
    net.until("the other end", |net| net.peers[0].links.len() == 1).await;
    let other = End(0, *net.peers[0].links.keys().next().expect("the other end"));
    (net, end, other, dead)
}

/// Timeouts determine how long quinn keeps a closed connection, and how much memory that takes.
#[tokio::test]
async fn peers_that_acknowledge_nothing_time_out() {
    let (mut net, end, other, dead) = on_a_way_that_may_die().await;
    net.round_trip(end, other).await;
    dead.store(true, Ordering::Relaxed);
    let since = std::time::Instant::now();
    net.send(end, 0, numbered(0, 0, 100).into());
    net.until("Closed", |net| net.link(end).closed).await;
    assert!(since.elapsed() >= Duration::from_secs(8), "{:?}", since.elapsed());
}

/// On a dead path a transport takes little more than what is in flight, and a connection without
/// answers can be closed.
#[tokio::test]
async fn a_dead_way_takes_little_and_can_be_closed() {
    for busy in [false, true] {
        let (mut net, end, other, dead) = on_a_way_that_may_die().await;
        // Not limited by the listener's window.
        net.open(other, 16);
        net.round_trip(end, other).await;
        let before = net.link(end).left[&0];
        dead.store(true, Ordering::Relaxed);
        if busy {
            while net.link(end).writable(0) {
                net.send(end, 0, numbered(0, 0, 4096).into());
                net.settle().await;
            }
            let taken = (net.link(end).left[&0] - before) * 4096;
            // An initial window, and one frame.
            assert!(taken <= (16 << 10) + MAX_FRAME, "{taken} bytes");
        }
        net.close(end);
        net.until("Closed", |net| net.link(end).closed).await;
        net.settle().await;
    }
}

/// The peer's process dies, and with it its sockets: there is no goodbye.
#[tokio::test]
async fn a_peer_that_vanished_can_be_closed() {
    let mut net = QuicNet::new(1).await;
    let address = net.peers[0].address.clone().unwrap();
    let gone = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let identity = tidegate::Identity::generate().unwrap();
        runtime.block_on(async {
            let mut transport = quic(&Setup::new(identity, Limits::default()));
            transport.dial(Dial::new(tidegate::id::DialId(1), address));
            let happening = std::future::poll_fn(|cx| transport.poll(cx)).await;
            assert!(is_connected(&happening), "{happening:?}");
            // Without its runtime nothing of it runs any more, not even its end.
            transport
        })
    });
    net.until("the peer", |net| net.peers[0].links.len() == 1).await;
    let transport = gone.join().expect("no panic");
    let end = End(0, *net.peers[0].links.keys().next().unwrap());
    assert!(!net.link(end).closed);
    net.send(end, 0, frame(b"are you there?"));
    net.close(end);
    net.until("Closed", |net| net.link(end).closed).await;
    drop(transport);
}

fn is_connected(happening: &Happening) -> bool {
    matches!(happening, Happening::Input(tidegate::io::Input::Connected(_)))
}

/// Regression: only the first four addresses of a name were tried.
#[tokio::test]
async fn the_last_address_of_a_name_is_tried_too() {
    let net = QuicNet::new(1).await;
    let live = socket_of(net.peers[0].address.as_ref().expect("a listener"));
    // No answer there.
    let dead = (0..4).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let dead = dead.collect::<Vec<_>>();
    let mut found = dead.iter().map(|dead| dead.local_addr().unwrap()).collect::<Vec<_>>();
    found.push(live);
    let resolver: tidegate::transport::quic::Resolver = Arc::new(move |_, _| {
        let found = found.clone();
        Box::pin(async move { found })
    });
    let identity = tidegate::Identity::generate().unwrap();
    let mut transport = quic(&Setup::new(identity, Limits::default())).resolver(resolver);
    let name = "/dns4/a.example/udp/1/quic-v1".parse().unwrap();
    let expected = Some(net.peers[0].id);
    transport.dial(Dial::new(tidegate::id::DialId(1), name).to(expected));
    let happening = std::future::poll_fn(|cx| transport.poll(cx));
    let served = async {
        let mut net = net;
        net.until("never", |_| false).await;
    };
    tokio::select! {
        happening = happening => assert!(is_connected(&happening), "{happening:?}"),
        () = served => unreachable!("it would panic"),
    }
}

/// Limits for a peer, and the address told to others, are those of the address that it connected
/// from: quinn would let it move to another silently.
#[tokio::test]
async fn moved_peers_must_reconnect() {
    let mut net = QuicNet::new(1).await;
    let from = endpoint();
    let (quic, end) = accepted_from(&mut net, &from).await;
    from.rebind(std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket")).expect("another");
    let _stream = stream(&quic, 0, &[]).await;
    net.until("Closed", |net| net.link(end).closed).await;
    accepted_from(&mut net, &from).await;
}

/// A router that has seen the usual socket lets it in, but no stranger.
#[tokio::test]
async fn a_fresh_dial_leaves_from_another_socket() {
    let mut net = QuicNet::new(2).await;
    let (_, usual) = net.connect(0, 1).await;
    let own = net.peers[0].address.clone().expect("a listener");
    assert_eq!(net.link(usual).address, own);
    let (to, dial) = (net.way_to(1), tidegate::id::DialId(77));
    let expected = Some(net.peers[1].id);
    let dial = Dial::new(dial, to).to(expected).from_fresh_socket();
    net.peers[0].transport.as_mut().unwrap().dial(dial);
    net.until("another connection", |net| net.peers[1].links.len() == 2).await;
    let fresh = net.peers[1].links.values().next_back().unwrap();
    assert!(fresh.address != own && fresh.peer == net.peers[0].id, "{}", fresh.address);
    net.until("its other end", |net| net.peers[0].links.len() == 2).await;
}
