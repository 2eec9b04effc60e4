//! Bare QUIC clients and servers, for things that transports never do themselves.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::Side;
use quinn_proto::transport_parameters::TransportParameters;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tidegate::transport::Setup;
use tidegate::transport::quic::Quic;

pub(crate) fn quic(setup: &Setup) -> Quic {
    Quic::new(setup).expect("TLS")
}

/// How a bare client identifies itself.
pub(crate) enum Shows {
    Nothing,
    Ed25519,
    P256,
    TwoCertificates,
    /// The certificate of another key.
    Stolen,
    /// A certificate with many names, which has a kilobyte or more.
    Large,
}

/// A quinn client that trusts any server.
pub(crate) fn client(shows: Shows, alpn: &[&[u8]]) -> quinn::ClientConfig {
    quinn::ClientConfig::new(Arc::new(tls_client(shows, alpn)))
}

fn tls_client(shows: Shows, alpn: &[&[u8]]) -> QuicClientConfig {
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut tls = match shows {
        Shows::Nothing => builder.with_no_client_auth(),
        _ => builder.with_client_cert_resolver(Arc::new(Shown::new(shows))),
    };
    tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    QuicClientConfig::try_from(tls).expect("QUIC")
}

/// A server with the certificate of a key that it does not have.
pub(crate) fn thief() -> quinn::Endpoint {
    let mut tls =
        rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown::new(Shows::Stolen)));
    tls.alpn_protocols = vec![b"tidegate/1".to_vec()];
    let tls = QuicServerConfig::try_from(tls).expect("QUIC");
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("a socket")
}

/// Shows the same certificate to all, whether it matches its key or not.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl Shown {
    fn new(shows: Shows) -> Self {
        let algorithm = match shows {
            Shows::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            _ => &rcgen::PKCS_ED25519,
        };
        let new_key = || rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let key = new_key();
        let names = if matches!(shows, Shows::Large) { 100 } else { 1 };
        let names = (0..names).map(|n| format!("test{n}")).collect::<Vec<_>>();
        let params = rcgen::CertificateParams::new(names).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        let (chain, key) = match shows {
            Shows::TwoCertificates => (vec![certificate.clone(), certificate], key),
            Shows::Stolen => (vec![certificate], new_key()),
            _ => (vec![certificate], key),
        };
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = aws_lc_rs::sign::any_supported_type(&key).expect("a key for TLS");
        Self(Arc::new(CertifiedKey::new(chain, key)))
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Counts the sessions that it could resume.
#[derive(Debug, Default)]
pub(crate) struct Tickets(pub(crate) std::sync::atomic::AtomicUsize);

impl rustls::client::ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: rustls::NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }

    fn set_tls12_session(
        &self,
        _: ServerName<'static>,
        _: rustls::client::Tls12ClientSessionValue,
    ) {
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(
        &self,
        _: ServerName<'static>,
        _: rustls::client::Tls13ClientSessionValue,
    ) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn take_tls13_ticket(
        &self,
        _: &ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        None
    }
}

/// A valid client that would resume sessions.
pub(crate) fn resuming_client(tickets: Arc<Tickets>) -> quinn::ClientConfig {
    let mut tls =
        rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_cert_resolver(Arc::new(Shown::new(Shows::Ed25519)));
    tls.alpn_protocols = vec![b"tidegate/1".to_vec()];
    tls.resumption = rustls::client::Resumption::store(tickets);
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("QUIC")))
}

/// A valid client.
pub(crate) fn good_client() -> quinn::ClientConfig {
    client(Shows::Ed25519, &[b"tidegate/1"])
}

/// A valid client that announces an acknowledgment delay of `ms` milliseconds.
pub(crate) fn late_client(max_ack_delay: u16) -> quinn::ClientConfig {
    let tls = tls_client(Shows::Ed25519, &[b"tidegate/1"]);
    quinn::ClientConfig::new(Arc::new(Late { tls: Arc::new(tls), max_ack_delay }))
}

struct Late {
    tls: Arc<QuicClientConfig>,
    max_ack_delay: u16,
}

impl quinn::crypto::ClientConfig for Late {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn quinn::crypto::Session>, quinn::ConnectError> {
        let mut bytes = Vec::new();
        parameters.write(&mut bytes);
        // Its number, its length, and two bytes (RFC 9000 sections 16 and 18).
        bytes.extend([&[0x0b, 2][..], &(self.max_ack_delay | 0x4000).to_be_bytes()].concat());
        let parameters = TransportParameters::read(Side::Server, &mut &bytes[..]).expect("valid");
        self.tls.clone().start_session(version, name, &parameters)
    }
}

pub(crate) fn endpoint() -> quinn::Endpoint {
    quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket")
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("QUIC knows no TLS 1.2")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Dials by one socket: an endpoint keeps connections that were given up for a while.
const BATCH: usize = 500;

/// The destination's connection id of a first datagram (RFC 9000 section 17.2).
fn destination(datagram: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*datagram.get(5)?);
    datagram.get(6..6 + length)
}

/// First datagrams of `count` connections: dials a socket that only records what arrives.
pub(crate) async fn first_datagrams(count: usize) -> Vec<Vec<u8>> {
    let nobody = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let address = nobody.local_addr().expect("it is bound");
    let config = good_client();
    let (mut datagrams, mut seen) = (Vec::new(), HashSet::new());
    let mut buffer = [0; 2048];
    while datagrams.len() < count {
        let dialer = endpoint();
        for _ in 0..BATCH.min(count - datagrams.len()) {
            let dialing = dialer.connect_with(config.clone(), address, "x").expect("a dial");
            // Retransmissions, and notices that an earlier one was given up, do not count.
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
