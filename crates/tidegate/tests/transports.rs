//! The contract of [`tidegate::Transport`], as tests of every transport.
//!
//! What only QUIC promises is in `transports/quic.rs`.

use tidegate::transport::Setup;
use tidegate::transport::conformance::Kind;
use tidegate::transport::memory::MemoryNetwork;
use tidegate::{Multiaddr, Transport};

#[cfg(feature = "quic")]
mod transports {
    mod quic;
    mod quic_limits;
    pub(crate) mod raw;
    pub(crate) mod relay;
}

tidegate::transport_conformance! {
    memory: super::InMemory;
}

#[cfg(feature = "quic")]
tidegate::transport_conformance! {
    quic: super::OverQuic;
    quic_with_losses: super::OverLossyQuic;
}

#[cfg(feature = "tcp")]
tidegate::transport_conformance! {
    tcp: super::OverTcp;
}

/// TLS on TCP on the loopback interface.
#[cfg(feature = "tcp")]
#[derive(Default)]
pub(crate) struct OverTcp;

#[cfg(feature = "tcp")]
impl Kind for OverTcp {
    fn transport(&self, setup: &Setup) -> Box<dyn Transport> {
        Box::new(tidegate::transport::tcp::Tcp::new(setup).expect("TLS"))
    }

    fn listen_address(&self) -> Multiaddr {
        address("/ip4/127.0.0.1/tcp/0/tls")
    }

    fn nobody(&self) -> Multiaddr {
        // The discard port: no test listens there.
        address("/ip4/127.0.0.1/tcp/9/tls")
    }

    fn silent(&self) -> Option<Multiaddr> {
        use std::net::TcpListener;
        // The system accepts connections, and nobody reads them.
        static SILENT: std::sync::OnceLock<TcpListener> = std::sync::OnceLock::new();
        let listener = SILENT.get_or_init(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        Some(address(&format!("/ip4/127.0.0.1/tcp/{port}/tls")))
    }

    fn foreign(&self) -> Multiaddr {
        address("/ip4/127.0.0.1/udp/1/quic-v1")
    }
}

#[cfg(feature = "webrtc")]
tidegate::transport_conformance! {
    webrtc: super::OverWebRtc;
}

/// WebRTC on the loopback interface; the suite carries offers and answers.
#[cfg(feature = "webrtc")]
#[derive(Default)]
pub(crate) struct OverWebRtc;

#[cfg(feature = "webrtc")]
impl Kind for OverWebRtc {
    const LAST_CHANNEL: u32 = 79;

    fn transport(&self, setup: &Setup) -> Box<dyn Transport> {
        Box::new(tidegate::transport::webrtc::WebRtc::new(setup))
    }

    fn listen_address(&self) -> Multiaddr {
        address("/ip4/127.0.0.1/udp/0/webrtc")
    }

    fn nobody(&self) -> Multiaddr {
        address("/ip4/127.0.0.1/udp/9/webrtc")
    }

    fn silent(&self) -> Option<Multiaddr> {
        // The suite drops the offer.
        Some(address("/ip4/127.0.0.1/udp/10/webrtc"))
    }

    fn foreign(&self) -> Multiaddr {
        address("/ip4/127.0.0.1/udp/1/quic-v1")
    }
}

/// Transports of one network in memory.
#[derive(Default)]
pub(crate) struct InMemory(MemoryNetwork);

impl Kind for InMemory {
    fn transport(&self, setup: &Setup) -> Box<dyn Transport> {
        Box::new(self.0.transport(setup))
    }

    fn listen_address(&self) -> Multiaddr {
        address("/memory/0")
    }

    fn nobody(&self) -> Multiaddr {
        address("/memory/4000000000")
    }

    fn foreign(&self) -> Multiaddr {
        address("/ip4/127.0.0.1/udp/1/quic-v1")
    }
}

/// QUIC on the loopback interface.
#[cfg(feature = "quic")]
#[derive(Default)]
pub(crate) struct OverQuic;

#[cfg(feature = "quic")]
impl Kind for OverQuic {
    fn transport(&self, setup: &Setup) -> Box<dyn Transport> {
        Box::new(transports::raw::quic(setup))
    }

    fn listen_address(&self) -> Multiaddr {
        address("/ip4/127.0.0.1/udp/0/quic-v1")
    }

    fn nobody(&self) -> Multiaddr {
        // The discard port: no test listens there.
        address("/ip4/127.0.0.1/udp/9/quic-v1")
    }

    fn silent(&self) -> Option<Multiaddr> {
        use std::net::UdpSocket;
        static SILENT: std::sync::OnceLock<UdpSocket> = std::sync::OnceLock::new();
        let socket = SILENT.get_or_init(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        let port = socket.local_addr().unwrap().port();
        Some(address(&format!("/ip4/127.0.0.1/udp/{port}/quic-v1")))
    }

    fn foreign(&self) -> Multiaddr {
        address("/memory/1")
    }
}

/// QUIC on a path where datagrams are lost, duplicated and reordered.
#[cfg(feature = "quic")]
#[derive(Default)]
pub(crate) struct OverLossyQuic;

#[cfg(feature = "quic")]
impl Kind for OverLossyQuic {
    const LOSSY: bool = true;

    fn transport(&self, setup: &Setup) -> Box<dyn Transport> {
        OverQuic.transport(setup)
    }

    fn listen_address(&self) -> Multiaddr {
        OverQuic.listen_address()
    }

    fn nobody(&self) -> Multiaddr {
        OverQuic.nobody()
    }

    fn foreign(&self) -> Multiaddr {
        OverQuic.foreign()
    }

    fn way_to(&self, address: &Multiaddr) -> Multiaddr {
        transports::relay::lossy_way_to(address)
    }
}

fn address(text: &str) -> Multiaddr {
    text.parse().expect("a multiaddr")
}
