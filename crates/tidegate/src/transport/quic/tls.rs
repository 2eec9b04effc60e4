//! TLS for QUIC: what [`secure`] sets up, with a bound on what a session keeps.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::CertificateDer;
use tidegate_proto::id::PeerId;
use tidegate_proto::io::DialError;

use super::session::Bounded;
use crate::identity::Identity;
use crate::transport::secure::{self, TlsError, failed};

pub(super) fn server(identity: &Identity) -> Result<quinn::ServerConfig, TlsError> {
    let tls = QuicServerConfig::try_from(secure::server(identity)?).map_err(failed)?;
    Ok(quinn::ServerConfig::with_crypto(Bounded::new(tls)))
}

/// Makes configurations for dialing.
pub(super) struct Dialer {
    any: Arc<Bounded<QuicClientConfig>>,
    tls: rustls::ClientConfig,
}

impl Dialer {
    pub(super) fn new(identity: &Identity) -> Result<Self, TlsError> {
        let tls = secure::client(identity, None)?;
        let any = Bounded::new(QuicClientConfig::try_from(tls.clone()).map_err(failed)?);
        Ok(Self { any, tls })
    }

    /// The configuration to dial `peer` with, or anyone.
    pub(super) fn config(
        &self,
        peer: Option<PeerId>,
        transport: Arc<quinn::TransportConfig>,
    ) -> quinn::ClientConfig {
        let crypto = match peer {
            None => self.any.clone(),
            Some(peer) => {
                // It differs from `any` only in the verifier, and that one could be converted.
                QuicClientConfig::try_from(secure::expect(&self.tls, peer))
                    .map_or_else(|_| self.any.clone(), Bounded::new)
            }
        };
        let mut config = quinn::ClientConfig::new(crypto);
        config.transport_config(transport);
        config
    }
}

/// The dial error for an error of quinn.
pub(super) fn dial_error(error: quinn::ConnectionError) -> DialError {
    use quinn::ConnectionError;
    match error {
        ConnectionError::TimedOut => DialError::TimedOut,
        // Crypto errors carry the TLS alert (RFC 9001 section 4.8).
        ConnectionError::TransportError(error) if u64::from(error.code) & !0xff == 0x100 => {
            DialError::WrongPeer
        }
        _ => DialError::Unreachable,
    }
}

/// The identity of the other end.
pub(super) fn peer(quic: &quinn::Connection) -> Option<PeerId> {
    let identity = quic.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    secure::peer(&identity)
}
