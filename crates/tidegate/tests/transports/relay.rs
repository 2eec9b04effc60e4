//! Paths between a client and a server that lose, duplicate and delay datagrams.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use multiaddr::Protocol;
use tidegate::Multiaddr;
use tokio::net::UdpSocket;

pub(crate) fn socket_of(address: &Multiaddr) -> SocketAddr {
    let port = address.iter().find_map(|part| match part {
        Protocol::Udp(port) => Some(port),
        _ => None,
    });
    (Ipv4Addr::LOCALHOST, port.expect("a port")).into()
}

pub(crate) fn address_of(socket: SocketAddr) -> Multiaddr {
    format!("/ip4/{}/udp/{}/quic-v1", socket.ip(), socket.port()).parse().expect("a multiaddr")
}

/// The direction of a datagram through a [`Relay`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// What to do with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Passes,
    IsLost,
    ComesTwice,
    /// The next one overtakes it.
    ComesLate,
}

/// Forwards datagrams between one client and a server, and decides about each.
pub(crate) struct Relay {
    /// What the client takes for the server.
    pub(crate) address: SocketAddr,
}

impl Relay {
    pub(crate) fn start(
        server: SocketAddr,
        decide: impl FnMut(Way, &[u8]) -> Fate + Send + 'static,
    ) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, server, decide)
    }

    /// The same, where the server sees the client at this address, which is one of this machine.
    pub(crate) fn start_at(
        seen_at: Ipv4Addr,
        server: SocketAddr,
        decide: impl FnMut(Way, &[u8]) -> Fate + Send + 'static,
    ) -> Self {
        let front = socket();
        let address = front.local_addr().expect("its address");
        let (front, back) = (Arc::new(front), Arc::new(socket_at(seen_at)));
        let decide = Arc::new(Mutex::new(decide));
        let client = Arc::new(Mutex::new(None));
        for way in [Way::ToServer, Way::ToClient] {
            let (front, back) = (front.clone(), back.clone());
            let (decide, client) = (decide.clone(), client.clone());
            tokio::spawn(async move {
                let mut late: Option<Vec<u8>> = None;
                let mut buffer = vec![0; 1 << 16];
                let (from, into) = match way {
                    Way::ToServer => (&front, &back),
                    Way::ToClient => (&back, &front),
                };
                loop {
                    // Loopback sockets report errors for datagrams that were not received.
                    let Ok((length, sender)) = from.recv_from(&mut buffer).await else { continue };
                    let to = match way {
                        Way::ToServer => {
                            *client.lock().unwrap() = Some(sender);
                            Some(server)
                        }
                        Way::ToClient => *client.lock().unwrap(),
                    };
                    let Some(to) = to else { continue };
                    let datagram = &buffer[..length];
                    let fate = (decide.lock().unwrap())(way, datagram);
                    let copies = match fate {
                        Fate::Passes => 1,
                        Fate::ComesTwice => 2,
                        Fate::IsLost | Fate::ComesLate => 0,
                    };
                    for _ in 0..copies {
                        let _ = into.send_to(datagram, to).await;
                    }
                    if let Some(datagram) = late.take() {
                        let _ = into.send_to(&datagram, to).await;
                    }
                    if fate == Fate::ComesLate {
                        late = Some(datagram.to_vec());
                    }
                }
            });
        }
        Self { address }
    }
}

pub(crate) fn socket() -> UdpSocket {
    socket_at(Ipv4Addr::LOCALHOST)
}

fn socket_at(address: Ipv4Addr) -> UdpSocket {
    let socket = std::net::UdpSocket::bind((address, 0)).expect("a socket");
    socket.set_nonblocking(true).expect("a socket that does not block");
    UdpSocket::from_std(socket).expect("within a runtime")
}

/// Pseudo-random numbers, the same in each run (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A path to a listener on which some datagrams are lost, duplicated or late.
pub(crate) fn lossy_way_to(address: &Multiaddr) -> Multiaddr {
    let mut dice = Dice(1);
    let relay = Relay::start(socket_of(address), move |_, _| match dice.roll() % 100 {
        0..2 => Fate::IsLost,
        2..4 => Fate::ComesTwice,
        4..8 => Fate::ComesLate,
        _ => Fate::Passes,
    });
    address_of(relay.address)
}
