//! The bounds on peers that have not proven their identity (specification section 4.2): at most 64
//! handshakes at once, 5 s each, started 5 ms apart; from 32 on only with peers that receive at
//! their address, and 16 of one network group. And the bound on all connections, whatever becomes
//! of them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use quinn::ConnectionError as Ended;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use tidegate::io::Input;
use tidegate::transport::{Transport as _, quic::Quic};
use tidegate::wire::MAX_FRAME;
use tidegate::{Identity, Limits};

use super::raw::{Tickets, endpoint, first_datagrams, good_client, resuming_client};
use super::relay::socket_of;
use super::relay::{Fate, Relay, Way};
use crate::OverQuic;
use tidegate::transport::conformance::harness::Net;
use tidegate::transport::{Happening, Setup};

const HANDSHAKES: usize = 64;
const RETRY_FROM: usize = 32;
const OF_ONE_GROUP: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Retry,
    Handshake,
}

/// The first packets of a QUIC server (RFC 9000 section 17.2).
fn answer(datagram: &[u8]) -> Option<Answer> {
    // The form and the type. The bit between them is any (RFC 9287), and the rest is encrypted.
    match datagram.first()? & 0xb0 {
        0xb0 => Some(Answer::Retry),
        0x80 => Some(Answer::Handshake),
        _ => None,
    }
}

/// A handshake that stops after the server's first packet, which the client never receives.
struct Stuck {
    _endpoint: quinn::Endpoint,
    _dialing: tokio::task::JoinHandle<()>,
    answers: UnboundedReceiver<Answer>,
    begun: Instant,
}

impl Stuck {
    /// From an address of this machine in one of several network groups.
    fn begin(to: std::net::SocketAddr, group: u8) -> Self {
        let (told, answers) = unbounded_channel();
        let seen_at = Ipv4Addr::new(127, group, 0, 1);
        let relay =
            Relay::start_at(seen_at, to, move |way, datagram| match (way, answer(datagram)) {
                (Way::ToServer, _) => Fate::Passes,
                (Way::ToClient, Some(answer)) => {
                    let _ = told.send(answer);
                    // A retry request is answered.
                    match answer {
                        Answer::Retry => Fate::Passes,
                        Answer::Handshake => Fate::IsLost,
                    }
                }
                (Way::ToClient, None) => Fate::IsLost,
            });
        let mut config = good_client();
        let mut transport = quinn::TransportConfig::default();
        // It retries soon, and does not give up.
        transport.initial_rtt(Duration::from_millis(100));
        config.transport_config(transport.into());
        let endpoint = endpoint();
        let connecting = endpoint.connect_with(config, relay.address, "x").expect("a dial");
        let dialing = tokio::spawn(async move {
            let _ = connecting.await;
        });
        Self { _endpoint: endpoint, _dialing: dialing, answers, begun: Instant::now() }
    }

    /// The server's next packet.
    async fn next(&mut self, net: &mut Net<OverQuic>) -> Answer {
        let next = net.alongside("the server's answer", self.answers.recv()).await;
        next.expect("the relay is there")
    }

    /// The server has started the handshake, with or without asking the client to prove its
    /// address.
    async fn begins(&mut self, net: &mut Net<OverQuic>, retried: bool) {
        let mut answers = Vec::new();
        while answers.last() != Some(&Answer::Handshake) {
            answers.push(self.next(net).await);
        }
        // A repeated first packet is answered twice.
        answers.dedup();
        let retry = retried.then_some(Answer::Retry);
        let expected: Vec<_> = retry.into_iter().chain([Answer::Handshake]).collect();
        assert_eq!(answers, expected);
    }
}

/// A listener whose places for handshakes are all taken by handshakes that lead nowhere.
async fn filled() -> (Net<OverQuic>, Vec<Stuck>) {
    loop {
        let mut net = Net::<OverQuic>::new(1).await;
        let to = socket_of(net.peers[0].address.as_ref().unwrap());
        let mut stuck = Vec::new();
        for number in 0..HANDSHAKES {
            // The first group takes as many as it can, and two others the rest.
            let group = number.saturating_sub(RETRY_FROM - OF_ONE_GROUP) / OF_ONE_GROUP;
            let mut next = Stuck::begin(to, group as u8);
            // When these count as slow, the first group's have timed out.
            let first = stuck.first().unwrap_or(&next);
            if first.begun.elapsed() >= TIMEOUT / 2 {
                break;
            }
            next.begins(&mut net, number >= RETRY_FROM).await;
            stuck.push(next);
        }
        if stuck.len() == HANDSHAKES && stuck[0].begun.elapsed() < TIMEOUT {
            return (net, stuck);
        }
    }
}

#[tokio::test]
async fn handshakes_are_few_short_and_soon_from_known_addresses_only() {
    let (mut net, stuck) = filled().await;
    let to = socket_of(net.peers[0].address.as_ref().unwrap());
    // There is no place for another of a group until its first has timed out.
    let first = stuck[RETRY_FROM].begun;
    let mut late: Vec<Stuck> = Vec::new();
    let begins = |stuck: &mut Stuck| {
        std::iter::from_fn(|| stuck.answers.try_recv().ok()).any(|said| said == Answer::Handshake)
    };
    while !late.iter_mut().any(begins) {
        assert!(late.len() < 100, "nobody is answered any more");
        late.push(Stuck::begin(to, 1));
        // The listener goes on; how often others try does not matter.
        let _ = tokio::time::timeout(Duration::from_millis(200), async {
            loop {
                net.step().await;
            }
        })
        .await;
    }
    assert!(first.elapsed() >= TIMEOUT, "it was answered after {:?}", first.elapsed());
    assert!(net.peers[0].links.is_empty());
    // Then the listener is as before.
    let dialer = net.add();
    for tried in 1.. {
        let dial = net.dial(dialer, 0, None);
        net.until("a dial", |net| net.peers[dialer].dials.contains_key(&dial)).await;
        if net.peers[dialer].dials[&dial].is_ok() {
            break;
        }
        assert!(tried < 10, "nobody gets in any more");
    }
}

/// A slow handshake makes room for one of a group with fewer.
#[tokio::test]
async fn two_groups_leave_places_to_a_third() {
    let (mut net, stuck) = filled().await;
    let to = socket_of(net.peers[0].address.as_ref().unwrap());
    let mut third = Stuck::begin(to, 9);
    // It retries until the others count as slow.
    third.begins(&mut net, true).await;
    let since = stuck[0].begun.elapsed();
    assert!(since >= Duration::from_secs(1), "after {since:?}");
}

/// Regression: a peer with one address held all places with thirteen handshakes a second.
#[tokio::test]
async fn one_group_leaves_places_to_others() {
    let mut net = Net::<OverQuic>::new(1).await;
    let to = socket_of(net.peers[0].address.as_ref().unwrap());
    let mut stuck = Vec::new();
    for _ in 0..RETRY_FROM {
        let mut next = Stuck::begin(to, 0);
        next.begins(&mut net, false).await;
        stuck.push(next);
    }
    // Those packets may be forged; proven addresses have a share of their own.
    for _ in 0..OF_ONE_GROUP {
        let mut next = Stuck::begin(to, 0);
        next.begins(&mut net, true).await;
        stuck.push(next);
    }
    let mut same = Stuck::begin(to, 0);
    let mut other = Stuck::begin(to, 1);
    other.begins(&mut net, true).await;
    // If it had been let in, that would have been before the other.
    let answers = std::iter::from_fn(|| same.answers.try_recv().ok()).collect::<Vec<_>>();
    assert!(stuck[0].begun.elapsed() >= TIMEOUT || !answers.contains(&Answer::Handshake));
}

/// A listener that accepts as many as it may, and closes none.
fn listener(limits: &Limits) -> std::net::SocketAddr {
    let setup = Setup::new(Identity::from_seed(&[1; 32]), limits.clone());
    let mut quic = Quic::new(&setup).expect("TLS");
    let anywhere = "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address");
    quic.listen(&anywhere).expect("a socket");
    let address = quic.addresses().remove(0);
    tokio::spawn(async move {
        loop {
            std::future::poll_fn(|cx| quic.poll(cx)).await;
        }
    });
    socket_of(&address)
}

#[tokio::test]
async fn connections_that_nobody_ends_are_bounded() {
    let mut limits = Limits::default();
    (limits.max_inbound, limits.max_outbound, limits.handshakes) = (2, 1, 3);
    let to = listener(&limits);
    let endpoint = endpoint();
    let connect = || endpoint.connect_with(good_client(), to, "x").expect("a dial");
    let mut held = Vec::new();
    for number in 0..6 {
        let connected = connect().await;
        held.push(connected.unwrap_or_else(|error| panic!("connection {number}: {error}")));
    }
    let error = match connect().await {
        Err(error) => error,
        // The listener had not noticed the previous one yet: one of the two is closed.
        Ok(beyond) => {
            held.push(beyond);
            let ends = held.iter().map(|held| Box::pin(held.closed()));
            futures_util::future::select_all(ends).await.0
        }
    };
    assert!(matches!(error, Ended::ConnectionClosed(_) | Ended::ApplicationClosed(_)), "{error}");
    held.retain(|held| held.close_reason().is_none());
    assert_eq!(held.len(), 6);
    // There is a place again once one is gone and the listener has noticed.
    held.pop().expect("there are some").close(0u32.into(), b"");
    let begun = Instant::now();
    while connect().await.is_err() {
        assert!(begun.elapsed() < 6 * TIMEOUT, "nobody is let in any more");
    }
}

/// A stored session would hold the certificate of its peer. R4.2.4
#[tokio::test]
async fn sessions_cannot_be_resumed() {
    let to = listener(&Limits::default());
    let endpoint = endpoint();
    let tickets = Arc::new(Tickets::default());
    let config = resuming_client(tickets.clone());
    let connection = endpoint.connect_with(config, to, "x").expect("a dial").await.expect("in");
    // A ticket would come right after the handshake, before the answer to this.
    let mut stream = connection.open_uni().await.expect("a stream");
    stream.write_all(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).await.expect("a window");
    connection.closed().await;
    assert_eq!(tickets.0.load(Relaxed), 0);
}

/// The counts of a listener that has opened some channels.
async fn reader(channels: std::ops::Range<u32>) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let setup = Setup::new(Identity::from_seed(&[1; 32]), Limits::default());
    let mut quic = Quic::new(&setup).expect("TLS");
    let anywhere = "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address");
    quic.listen(&anywhere).expect("a socket");
    let address = quic.addresses().remove(0);
    let whole = Arc::new(AtomicUsize::new(0));
    let counted = whole.clone();
    tokio::spawn(async move {
        loop {
            match std::future::poll_fn(|cx| quic.poll(cx)).await {
                Happening::Input(Input::Connected(up)) => {
                    channels.clone().for_each(|channel| quic.open(up.connection, channel));
                }
                Happening::Input(Input::Frame { .. }) => drop(counted.fetch_add(1, Relaxed)),
                _ => {}
            }
        }
    });
    (socket_of(&address), whole)
}

/// A peer stops in the middle of a frame on each channel: a node reads two of them and no more, and
/// the rest waits in the window. R4.1.6
#[tokio::test]
async fn few_frames_are_half_read() {
    const CHANNELS: u32 = 8;
    let (to, whole) = reader(16..16 + CHANNELS).await;
    let endpoint = endpoint();
    let connection = endpoint.connect_with(good_client(), to, "x").expect("a dial");
    let connection = connection.await.expect("in");
    let begun = Arc::new(AtomicUsize::new(0));
    for channel in 16..16 + CHANNELS {
        let mut stream = connection.open_uni().await.expect("a stream");
        let begun = begun.clone();
        tokio::spawn(async move {
            let length = (MAX_FRAME as u32).to_be_bytes();
            let head = [&channel.to_be_bytes()[..], &length].concat();
            stream.write_all(&head).await.expect("a window");
            for _ in 0..MAX_FRAME / 1000 {
                if stream.write_all(&[7; 1000]).await.is_err() {
                    break;
                }
                begun.fetch_add(1000, Relaxed);
            }
            // The end of a stream is a violation by itself.
            std::future::pending::<()>().await;
        });
    }
    // What quinn takes of all streams before the peer is known, the window, and two frames.
    let window = Limits::default().receive_window as usize;
    let least = window / 10 * 9;
    let enough = async {
        while begun.load(Relaxed) < least {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), enough).await.expect("the window is used");
    let connection_stats = || connection.stats().udp_tx.bytes as usize;
    let _ = tokio::time::timeout(Duration::from_millis(500), std::future::pending::<()>()).await;
    let sent = connection_stats();
    // All eight would be 512 KiB; with the overhead of datagrams and a handshake.
    assert!(sent < (window + 2 * MAX_FRAME) * 3 / 2, "{sent} bytes are taken");
    assert_eq!(whole.load(Relaxed), 0);
}

/// A peer that writes one frame after the other is not delayed, on however many channels.
#[tokio::test]
async fn frames_in_order_all_come() {
    const CHANNELS: u32 = 8;
    let (to, whole) = reader(16..16 + CHANNELS).await;
    let endpoint = endpoint();
    let connection = endpoint.connect_with(good_client(), to, "x").expect("a dial");
    let connection = connection.await.expect("in");
    let writing = Arc::new(tokio::sync::Mutex::new(()));
    for channel in 16..16 + CHANNELS {
        let mut stream = connection.open_uni().await.expect("a stream");
        let writing = writing.clone();
        tokio::spawn(async move {
            stream.write_all(&channel.to_be_bytes()).await.expect("a window");
            for _ in 0..4 {
                let length = (MAX_FRAME as u32).to_be_bytes();
                let frame = [&length[..], &vec![7; MAX_FRAME]].concat();
                let _turn = writing.lock().await;
                stream.write_all(&frame).await.expect("it is taken at last");
            }
            std::future::pending::<()>().await;
        });
    }
    let all = async {
        while whole.load(Relaxed) < 4 * CHANNELS as usize {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("nothing is stuck");
}

#[tokio::test]
async fn handshakes_do_not_begin_all_at_once() {
    const MANY: u32 = 60;
    let to = listener(&Limits::default());
    let endpoint = endpoint();
    let begun = Instant::now();
    let connect = |_| endpoint.connect_with(good_client(), to, "x").expect("a dial");
    let all = futures_util::future::try_join_all((0..MANY).map(connect)).await;
    assert!(all.is_ok(), "{all:?}");
    let least = Duration::from_millis(5) * (MANY - 1);
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
}

/// Each first packet that is handled costs keys and an answer: of a flood at most 40 are handled at
/// once, and then one each 200 µs. Section 4.2
#[tokio::test]
async fn first_packets_are_looked_at_at_a_pace() {
    const AT_ONCE: usize = 40;
    const PACE: Duration = Duration::from_micros(200);
    let to = listener(&Limits::default());
    let datagrams = first_datagrams(400).await;
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let begun = Instant::now();
    let (mut retries, mut last) = (0, begun);
    let mut buffer = [0; 2048];
    let mut unsent = datagrams.iter();
    loop {
        for datagram in unsent.by_ref().take(10) {
            socket.send_to(datagram, to).await.expect("it is sent");
        }
        let wait = if unsent.len() > 0 { 1 } else { 500 };
        let wait = Duration::from_millis(wait);
        match tokio::time::timeout(wait, socket.recv(&mut buffer)).await {
            Ok(length) => {
                let length = length.expect("a datagram");
                if answer(&buffer[..length]) == Some(Answer::Retry) {
                    (retries, last) = (retries + 1, Instant::now());
                }
            }
            Err(_) if unsent.len() == 0 => break,
            Err(_) => {}
        }
    }
    let elapsed = last.duration_since(begun);
    let most = AT_ONCE - RETRY_FROM + (elapsed.as_micros() / PACE.as_micros()) as usize + 1;
    assert!(retries <= most, "{retries} answers in {elapsed:?}, {most} at most");
    assert!(retries >= AT_ONCE - RETRY_FROM, "{retries} answers");
}
