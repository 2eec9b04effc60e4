//! The contract of transports, and nodes with two of them.

use tidegate::Multiaddr;
use tidegate::transport::conformance::Kind;
use tidegate::transport::{Setup, Transport};
use tidegate_pipe::Pipe;

/// Sockets in a folder.
struct InFolder(tempfile::TempDir);

impl Default for InFolder {
    fn default() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }
}

impl Kind for InFolder {
    fn transport(&self, setup: &Setup) -> Box<dyn Transport> {
        Box::new(Pipe::new(setup, self.0.path()))
    }

    fn listen_address(&self) -> Multiaddr {
        "/unix/0".parse().expect("an address")
    }

    fn nobody(&self) -> Multiaddr {
        "/unix/nobody".parse().expect("an address")
    }

    fn foreign(&self) -> Multiaddr {
        "/ip4/127.0.0.1/udp/1/quic-v1".parse().expect("an address")
    }
}

tidegate::transport_conformance! {
    pipe: super::InFolder;
}
