//! The bounds on peers that have not proven who they are (specification section 4.2): at most 64
//! handshakes at once, 5 s each, begun 5 ms apart, and from 32 on only with those who receive at
//! their address. And the bound on all connections, whatever becomes of them.

use std::time::{Duration, Instant};

use quinn::ConnectionError as Ended;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use tidegate::transport::{Transport as _, quic::Quic};
use tidegate::{Identity, Limits};

use super::harness::Net;
use super::raw::{endpoint, good_client};
use super::relay::socket_of;
use super::relay::{Fate, Relay, Way};
use crate::OverQuic;

const HANDSHAKES: usize = 64;
const RETRY_FROM: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Retry,
    Handshake,
}

/// What a QUIC server says first (RFC 9000 section 17.2).
fn answer(datagram: &[u8]) -> Option<Answer> {
    // The form and the type. The bit between them is any (RFC 9287), and the rest is encrypted.
    match datagram.first()? & 0xb0 {
        0xb0 => Some(Answer::Retry),
        0x80 => Some(Answer::Handshake),
        _ => None,
    }
}

/// A handshake that goes no further than the server's first words: the client never hears them.
struct Stuck {
    _endpoint: quinn::Endpoint,
    _dialing: tokio::task::JoinHandle<()>,
    answers: UnboundedReceiver<Answer>,
    begun: Instant,
}

impl Stuck {
    fn begin(to: std::net::SocketAddr) -> Self {
        let (told, answers) = unbounded_channel();
        let relay = Relay::start(to, move |way, datagram| match (way, answer(datagram)) {
            (Way::ToServer, _) => Fate::Passes,
            (Way::ToClient, Some(answer)) => {
                let _ = told.send(answer);
                // Who asks to come back is obeyed.
                match answer {
                    Answer::Retry => Fate::Passes,
                    Answer::Handshake => Fate::IsLost,
                }
            }
            (Way::ToClient, None) => Fate::IsLost,
        });
        let mut config = good_client();
        let mut transport = quinn::TransportConfig::default();
        // It asks again soon, and does not give up.
        transport.initial_rtt(Duration::from_millis(100));
        config.transport_config(transport.into());
        let endpoint = endpoint();
        let connecting = endpoint.connect_with(config, relay.address, "x").expect("a dial");
        let dialing = tokio::spawn(async move {
            let _ = connecting.await;
        });
        Self { _endpoint: endpoint, _dialing: dialing, answers, begun: Instant::now() }
    }

    /// What the server says next.
    async fn next(&mut self, net: &mut Net<OverQuic>) -> Answer {
        let next = net.alongside("the server's answer", self.answers.recv()).await;
        next.expect("the relay is there")
    }

    /// The server has begun the handshake, after it wanted to see that the client receives at its
    /// address, or without.
    async fn begins(&mut self, net: &mut Net<OverQuic>, retried: bool) {
        let mut answers = Vec::new();
        while answers.last() != Some(&Answer::Handshake) {
            answers.push(self.next(net).await);
        }
        // Who says its first word twice is asked twice.
        answers.dedup();
        let retry = retried.then_some(Answer::Retry);
        let expected: Vec<_> = retry.into_iter().chain([Answer::Handshake]).collect();
        assert_eq!(answers, expected);
    }
}

/// A listener all of whose places for handshakes are taken, by handshakes that lead nowhere.
async fn filled() -> (Net<OverQuic>, Vec<Stuck>) {
    loop {
        let mut net = Net::<OverQuic>::new(1);
        let to = socket_of(net.peers[0].address.as_ref().unwrap());
        let mut stuck = Vec::new();
        for number in 0..HANDSHAKES {
            let mut next = Stuck::begin(to);
            // When they are so slow, the first has had its time.
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
    let first = stuck[0].begun;
    // There is no place for one more until the first has had its time.
    let mut late: Vec<Stuck> = Vec::new();
    while late.iter_mut().all(|stuck| stuck.answers.try_recv().is_err()) {
        assert!(late.len() < 100, "nobody is answered any more");
        late.push(Stuck::begin(to));
        // The listener goes on; how often somebody new comes does not matter.
        let _ = tokio::time::timeout(Duration::from_millis(200), async {
            loop {
                net.step().await;
            }
        })
        .await;
    }
    assert!(first.elapsed() >= TIMEOUT, "it was answered after {:?}", first.elapsed());
    assert!(net.peers[0].links.is_empty());
    // Then the listener is as it was.
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

/// A listener that lets in whom it may, and sends nobody away.
fn listener(limits: &Limits) -> std::net::SocketAddr {
    let mut quic = Quic::new(&Identity::from_seed(&[1; 32]), limits).expect("TLS");
    let anywhere = "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address");
    let address = quic.listen(&anywhere).expect("a socket");
    tokio::spawn(async move {
        loop {
            std::future::poll_fn(|cx| quic.poll_input(cx)).await;
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
        // The listener did not know of the one before yet: one of the two is closed.
        Ok(beyond) => {
            held.push(beyond);
            let ends = held.iter().map(|held| Box::pin(held.closed()));
            futures_util::future::select_all(ends).await.0
        }
    };
    assert!(matches!(error, Ended::ConnectionClosed(_) | Ended::ApplicationClosed(_)), "{error}");
    held.retain(|held| held.close_reason().is_none());
    assert_eq!(held.len(), 6);
    // There is a place again when one is gone, and the listener has noticed.
    held.pop().expect("there are some").close(0u32.into(), b"");
    let begun = Instant::now();
    while connect().await.is_err() {
        assert!(begun.elapsed() < 6 * TIMEOUT, "nobody is let in any more");
    }
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
