//! The forms of addresses that the transports on IP have.

use std::net::{IpAddr, SocketAddr};

use multiaddr::{Multiaddr, Protocol};

/// A form of addresses: what follows the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `/udp/…/quic-v1`
    #[cfg(feature = "quic")]
    Quic,
    /// `/tcp/…/tls`
    #[cfg(feature = "tcp")]
    Tls,
    /// `/udp/…/webrtc`
    #[cfg(feature = "webrtc")]
    WebRtc,
}

impl Form {
    pub(super) fn port<'a>(self, mut parts: impl Iterator<Item = Protocol<'a>>) -> Option<u16> {
        match (self, parts.next()?, parts.next()?, parts.next()) {
            #[cfg(feature = "quic")]
            (Self::Quic, Protocol::Udp(port), Protocol::QuicV1, None) => Some(port),
            #[cfg(feature = "tcp")]
            (Self::Tls, Protocol::Tcp(port), Protocol::Tls, None) => Some(port),
            #[cfg(feature = "webrtc")]
            (Self::WebRtc, Protocol::Udp(port), Protocol::WebRTC, None) => Some(port),
            _ => None,
        }
    }

    /// The socket address of an address with an IP address.
    pub(super) fn socket(self, address: &Multiaddr) -> Option<SocketAddr> {
        let mut parts = address.iter();
        let ip = match parts.next()? {
            Protocol::Ip4(ip) => IpAddr::from(ip),
            Protocol::Ip6(ip) => ip.into(),
            _ => return None,
        };
        // An IPv4 address in the form of IPv6 is an IPv4 address.
        Some(SocketAddr::new(ip.to_canonical(), self.port(parts)?))
    }

    /// The address of a socket.
    pub(super) fn address(self, socket: SocketAddr) -> Multiaddr {
        let mut address = Multiaddr::from(socket.ip());
        let (carrier, last) = match self {
            #[cfg(feature = "quic")]
            Self::Quic => (Protocol::Udp(socket.port()), Protocol::QuicV1),
            #[cfg(feature = "tcp")]
            Self::Tls => (Protocol::Tcp(socket.port()), Protocol::Tls),
            #[cfg(feature = "webrtc")]
            Self::WebRtc => (Protocol::Udp(socket.port()), Protocol::WebRTC),
        };
        address.push(carrier);
        address.push(last);
        address
    }
}
