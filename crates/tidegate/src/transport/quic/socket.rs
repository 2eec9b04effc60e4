//! The socket that a listener receives on.

use std::net::{SocketAddr, UdpSocket};

use quinn::udp::UdpSocketState;

/// Bytes that the kernel is asked to keep until they are read. All peers share a listener's socket,
/// and a datagram that finds it full is lost whoever sent it: those who are connected wait until
/// they notice. Linux's default holds 90 large datagrams, which the answers of a few handshakes
/// fill. This is some 900: 20 ms of a flood, at the 50,000 a second that are read.
const BUFFER: usize = 1 << 20;

/// A socket that holds what comes in a burst.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    let state = UdpSocketState::new((&socket).into())?;
    // The system may allow less, and it is no reason not to listen.
    if let Err(error) = state.set_recv_buffer_size((&socket).into(), BUFFER) {
        tracing::debug!("the receive buffer of {address} stays as it is: {error}");
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Large datagrams that a socket holds while nobody reads it.
    fn held(socket: &UdpSocket) -> usize {
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..5000 {
            sender.send_to(&[0; 1200], socket.local_addr().unwrap()).unwrap();
        }
        socket.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| socket.recv(&mut [0; 2048]).ok()).count()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_listener_holds_a_burst() {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let plain = held(&UdpSocket::bind(any).unwrap());
        let listener = held(&bind(any).unwrap());
        // Twice as much is what Linux allows everybody.
        assert!(listener >= plain * 3 / 2, "{listener} where any socket holds {plain}");
    }
}
