//! UDP sockets that hold a burst.

use std::net::{SocketAddr, UdpSocket};

use quinn_udp::UdpSocketState;
use socket2::{Domain, Protocol, Type};

/// The receive buffer requested from the kernel. All peers share a listener's socket, and datagrams
/// that find it full are lost, which connected peers only notice later. Linux's default holds 90
/// large datagrams, which the answers of a few handshakes fill. This is some 900: 20 ms of a flood,
/// at the 50,000 a second that are read.
const BUFFER: usize = 1 << 20;

/// Binds a socket that can buffer a burst.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Otherwise `::` takes IPv4 too on some systems, and 0.0.0.0 could not be bound on the same
        // port.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    let state = UdpSocketState::new((&socket).into())?;
    // The system may allow less, which is no reason not to listen.
    if let Err(error) = state.set_recv_buffer_size((&socket).into(), BUFFER) {
        tracing::debug!("the receive buffer of {address} stays as it is: {error}");
    }
    Ok(socket)
}
