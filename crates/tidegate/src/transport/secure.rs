//! Identity on TLS 1.3, for any transport that has TLS: a self-signed certificate of the node's
//! Ed25519 key, and a verifier that checks only the key (specification section 4.2).
//!
//! Over TCP a dialer's handshake is complete before the listener has checked the dialer's certificate, or has a place
//! for it: a transport must not report the connection before the listener has said so.
//!
//! Needs the feature `tls`. The types of rustls in here are those of [`rustls`].
//!
//! # Not guaranteed
//!
//! Session resumption: a resumed session shows no certificate, so it is disabled.

use std::sync::Arc;

use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use tidegate_proto::id::PeerId;

/// Its types are in the signatures of this module.
pub use rustls;

use crate::identity::Identity;

/// The protocol name in ALPN (RFC 7301). R4.2.1
pub const ALPN: &[u8] = b"tidegate/1";

/// The label of the exporter (RFC 8446, section 7.5; 32 bytes, no context) that binds a hello to its session:
/// [`Binding::Exporter`](tidegate_proto::wire::Binding::Exporter), specification section 4.2.
pub const EXPORTER_LABEL: &[u8] = b"tidegate binding 1";

/// The largest certificate: a self-signed one of an Ed25519 key has about 300 bytes, and nothing
/// else in it is used.
const MAX_CERTIFICATE: usize = 1024;
/// The DER of an Ed25519 public key: this prefix and the key (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why TLS could not be set up. The cause is this build, not any peer.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsError(String);

pub(crate) fn failed(error: impl std::fmt::Display) -> TlsError {
    TlsError(error.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The node's certificate and its key.
struct Certified {
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Certified {
    fn new(identity: &Identity) -> Result<Self, TlsError> {
        let key = identity.signing_key().to_pkcs8_der().map_err(failed)?;
        let key = PrivatePkcs8KeyDer::from(key.as_bytes().to_vec());
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519);
        let params = rcgen::CertificateParams::new(vec!["tidegate".to_owned()]).map_err(failed)?;
        let certificate = params.self_signed(&pair.map_err(failed)?).map_err(failed)?;
        Ok(Self { chain: vec![certificate.der().clone()], key })
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// The configuration for inbound connections: each peer shows a certificate, and proves that it has
/// its key.
///
/// # Errors
///
/// If TLS cannot be set up, which is caused by this build and not by any peer.
pub fn server(identity: &Identity) -> Result<rustls::ServerConfig, TlsError> {
    let certified = Certified::new(identity)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .with_client_cert_verifier(Arc::new(Verifier { expected: None, provider: provider() }))
        .with_single_cert(certified.chain.clone(), certified.key())
        .map_err(failed)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // No sessions are kept: they would contain certificates of all who connect, and resumed ones
    // show none. R4.2.4
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Ok(tls)
}

/// The configuration for outbound connections, to one peer or any.
///
/// # Errors
///
/// As [`server`].
pub fn client(identity: &Identity, peer: Option<PeerId>) -> Result<rustls::ClientConfig, TlsError> {
    let certified = Certified::new(identity)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::of(peer)))
        .with_client_auth_cert(certified.chain.clone(), certified.key())
        .map_err(failed)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session shows no certificate.
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(tls)
}

/// Whether a handshake failed because another node answered than the expected one: what a dial then ends with
/// is [`DialError::WrongPeer`](tidegate_proto::io::DialError::WrongPeer).
pub fn is_wrong_peer(error: &Error) -> bool {
    *error == Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// The same configuration, for another peer.
pub fn expect(tls: &rustls::ClientConfig, peer: PeerId) -> rustls::ClientConfig {
    let mut tls = tls.clone();
    tls.dangerous().set_certificate_verifier(Arc::new(Verifier::of(Some(peer))));
    tls
}

/// The peer's identity by its certificates; `None` if they are not a single one of an Ed25519 key.
pub fn peer(certificates: &[CertificateDer<'_>]) -> Option<PeerId> {
    match certificates {
        [certificate] => key_of(certificate).ok(),
        _ => None,
    }
}

fn key_of(certificate: &CertificateDer<'_>) -> Result<PeerId, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let spki = parsed.subject_public_key_info();
    // R4.2.2
    let key = spki.as_ref().strip_prefix(&SPKI_PREFIX).and_then(|key| key.try_into().ok());
    key.map(PeerId).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// Accepts any certificate of an Ed25519 key, or of the expected one: names and dates mean nothing.
/// The peer proves that it has the key by its signature over the handshake.
#[derive(Debug)]
struct Verifier {
    expected: Option<PeerId>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn of(expected: Option<PeerId>) -> Self {
        Self { expected, provider: provider() }
    }

    fn certificate(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        // Kept as long as the connection: R4.2.5
        if certificate.len() > MAX_CERTIFICATE {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        let key = key_of(certificate)?;
        // R4.2.3
        let wanted = self.expected.is_none_or(|expected| expected == key);
        if chain.is_empty() && wanted {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // R4.2.2
        if signature.scheme != SignatureScheme::ED25519 {
            return Err(Error::InvalidCertificate(CertificateError::BadSignature));
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

/// Only TLS 1.3 is spoken.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::InvalidCertificate(CertificateError::BadSignature))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.certificate(certificate, chain).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.certificate(certificate, chain).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A handshake in memory: how the dialer's end of it goes.
    fn dial(expected: PeerId, listener: &Identity) -> Result<(), Error> {
        let dialer = Identity::from_seed(&[1; 32]);
        let client = Arc::new(client(&dialer, Some(expected)).unwrap());
        let name = "tidegate".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(client, name)?;
        let mut server = rustls::ServerConnection::new(Arc::new(server(listener).unwrap()))?;
        while client.is_handshaking() {
            let mut flight = Vec::new();
            client.write_tls(&mut flight).unwrap();
            server.read_tls(&mut &flight[..]).unwrap();
            server.process_new_packets()?;
            flight.clear();
            server.write_tls(&mut flight).unwrap();
            client.read_tls(&mut &flight[..]).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    /// R4.2.3
    #[test]
    fn another_peer_than_expected_is_told_from_other_errors() {
        let listener = Identity::from_seed(&[2; 32]);
        assert_eq!(dial(listener.peer_id(), &listener), Ok(()));
        let error = dial(PeerId([3; 32]), &listener).unwrap_err();
        assert!(is_wrong_peer(&error), "{error}");
        assert!(!is_wrong_peer(&Error::HandshakeNotComplete));
    }
}
