//! TLS sessions as quinn sees them, with bounds on what a peer can make a node keep: by its
//! transport parameters, and by how it splits packets and datagrams.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use quinn::crypto::{
    ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey,
    ServerConfig, Session, UnsupportedVersion,
};
use quinn::{ConnectError, ConnectionId};
use quinn_proto::transport_parameters::{Error, TransportParameters};
use quinn_proto::{Side, TransportError, TransportErrorCode};

/// The longest time a peer may say that it holds acknowledgments back. RFC 9000 section 18.2 has 25 ms if
/// it says nothing, and 16 s at most; quinn keeps a connection that is closed for three times as long.
pub(super) const MAX_ACK_DELAY: Duration = Duration::from_millis(250);
/// Its parameter's number.
const MAX_ACK_DELAY_ID: u64 = 0x0b;

/// Bytes decrypted of a peer's packets of each kind before its handshake is complete. Its messages
/// have 2 KiB in all, and retransmissions within its timeout a few times that. quinn keeps whole
/// packets, for as long as the connection, if a byte of them is still needed.
const HANDSHAKE_BYTES: usize = 16 << 10;

/// The least that a packet counts in quinn. It keeps 104 bytes beside those of an out-of-order
/// packet, which may have only one.
const COUNTED: usize = 256;

/// A TLS configuration whose sessions have those bounds.
pub(super) struct Bounded<C>(Arc<C>);

impl<C> Bounded<C> {
    pub(super) fn new(config: C) -> Arc<Self> {
        Arc::new(Self(Arc::new(config)))
    }
}

impl<C: ServerConfig> ServerConfig for Bounded<C> {
    fn initial_keys(&self, version: u32, to: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, to).map(of_handshake)
    }

    fn retry_tag(&self, version: u32, to: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, to, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn Session> {
        BoundedSession::of(self.0.clone().start_session(version, parameters))
    }
}

impl<C: ClientConfig> ClientConfig for Bounded<C> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        self.0.clone().start_session(version, name, parameters).map(BoundedSession::of)
    }
}

struct BoundedSession {
    inner: Box<dyn Session>,
    /// The keys of the handshake have been given out; the next are those of data.
    has_handshake_keys: bool,
}

impl BoundedSession {
    fn of(inner: Box<dyn Session>) -> Box<dyn Session> {
        Box::new(Self { inner, has_handshake_keys: false })
    }
}

impl Session for BoundedSession {
    fn initial_keys(&self, to: &ConnectionId, side: Side) -> Keys {
        of_handshake(self.inner.initial_keys(to, side))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        // No messages follow it: there are no tickets (R4.2.4), and rustls keeps what is
        // incomplete.
        if !self.inner.is_handshaking() {
            return Err(TransportErrorCode::PROTOCOL_VIOLATION.into());
        }
        self.inner.read_handshake(bytes)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let parameters = self.inner.transport_parameters()?;
        // R4.2.6
        match parameters.as_ref().map(max_ack_delay) {
            Some(delay) if delay > MAX_ACK_DELAY => Err(Error::IllegalValue.into()),
            _ => Ok(parameters),
        }
    }

    fn write_handshake(&mut self, to: &mut Vec<u8>) -> Option<Keys> {
        let keys = self.inner.write_handshake(to)?;
        if std::mem::replace(&mut self.has_handshake_keys, true) {
            Some(bounded(keys, None))
        } else {
            Some(of_handshake(keys))
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys().map(|keys| copying(keys, None))
    }

    fn is_valid_retry(&self, to: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(to, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

fn of_handshake(keys: Keys) -> Keys {
    bounded(keys, Some(HANDSHAKE_BYTES))
}

fn bounded(keys: Keys, most: Option<usize>) -> Keys {
    Keys { packet: copying(keys.packet, most), ..keys }
}

fn copying(keys: KeyPair<Box<dyn PacketKey>>, most: Option<usize>) -> KeyPair<Box<dyn PacketKey>> {
    let remote = Copying { inner: keys.remote, left: most.map(AtomicUsize::new) };
    KeyPair { local: keys.local, remote: Box::new(remote) }
}

/// Whether a packet has only an acknowledgment (RFC 9000 section 19.3): nothing of it is kept.
fn is_acknowledgment(mut payload: &[u8]) -> bool {
    let mut read = || read(&mut payload);
    let Some(ecn) = read().and_then(|kind| [2, 3].iter().position(|ack| *ack == kind)) else {
        return false;
    };
    let (Some(_), Some(_), Some(ranges), Some(_)) = (read(), read(), read(), read()) else {
        return false;
    };
    let rest = ranges.saturating_mul(2).saturating_add(3 * ecn as u64);
    (0..rest).all(|_| read().is_some()) && payload.is_empty()
}

/// A key that copies packets out of their datagrams. A datagram may have several packets; quinn
/// counts each by its own size, but keeps the whole datagram for one byte. Small packets also get
/// padding (RFC 9000 section 19.1), since quinn does not count its overhead for them.
struct Copying {
    inner: Box<dyn PacketKey>,
    /// The bytes that may still be decrypted, if there is a bound.
    left: Option<AtomicUsize>,
}

impl PacketKey for Copying {
    fn encrypt(&self, packet: u64, bytes: &mut [u8], header: usize) {
        self.inner.encrypt(packet, bytes, header);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.inner.decrypt(packet, header, payload)?;
        let padding = if payload.is_empty() || is_acknowledgment(payload) {
            0
        } else {
            COUNTED.saturating_sub(payload.len())
        };
        if let Some(left) = &self.left {
            let take = |left: usize| left.checked_sub(payload.len() + padding);
            left.fetch_update(Relaxed, Relaxed, take).map_err(|_| CryptoError)?;
        }
        // In front, since a frame may extend to the end.
        let mut copy = BytesMut::with_capacity(padding + payload.len());
        copy.put_bytes(0, padding);
        copy.extend_from_slice(payload);
        *payload = copy;
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

/// How long a peer says that it holds acknowledgments back.
fn max_ack_delay(parameters: &TransportParameters) -> Duration {
    // quinn does not expose it, but can encode the parameters (RFC 9000 section 18): number, length
    // and value of each.
    let mut bytes = BytesMut::new();
    parameters.write(&mut bytes);
    let mut rest = &bytes[..];
    while let (Some(id), Some(length)) = (read(&mut rest), read(&mut rest)) {
        let Some((mut value, after)) = rest.split_at_checked(length as usize) else { break };
        if id == MAX_ACK_DELAY_ID {
            return read(&mut value).map_or(Duration::MAX, Duration::from_millis);
        }
        rest = after;
    }
    Duration::from_millis(25)
}

/// An integer of RFC 9000 section 16.
fn read(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let (number, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    *bytes = rest;
    let value = number.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    // The first two bits are the length.
    Some(value & ((1 << (8 * number.len() - 2)) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of RFC 9000 section A.1, and how long an acknowledgment may be held back.
    #[test]
    fn integers_and_parameters_are_read() {
        let integers: [(&[u8], u64); 5] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (mut bytes, value) in integers {
            assert_eq!(read(&mut bytes), Some(value));
            assert!(bytes.is_empty());
        }
        assert_eq!([read(&mut &[][..]), read(&mut &[0x40][..])], [None; 2]);
        let of = |mut bytes: &[u8]| {
            max_ack_delay(&TransportParameters::read(Side::Server, &mut bytes).unwrap())
        };
        assert_eq!(of(&[]), Duration::from_millis(25));
        assert_eq!(of(&[0x0b, 2, 0x40, 250]), MAX_ACK_DELAY);
        assert_eq!(of(&[0x0b, 2, 0x40, 251]), Duration::from_millis(251));
        assert_eq!(of(&[0x04, 1, 9, 0x0b, 2, 0x7f, 0xff]), Duration::from_millis(16_383));
    }

    /// A key that accepts everything.
    struct Anything;

    impl PacketKey for Anything {
        fn encrypt(&self, _: u64, _: &mut [u8], _: usize) {}

        fn decrypt(&self, _: u64, _: &[u8], _: &mut BytesMut) -> Result<(), CryptoError> {
            Ok(())
        }

        fn tag_len(&self) -> usize {
            0
        }

        fn confidentiality_limit(&self) -> u64 {
            u64::MAX
        }

        fn integrity_limit(&self) -> u64 {
            u64::MAX
        }
    }

    fn remote_key(most: Option<usize>) -> Box<dyn PacketKey> {
        copying(KeyPair { local: Box::new(Anything), remote: Box::new(Anything) }, most).remote
    }

    #[test]
    fn decrypted_payloads_do_not_pin_their_datagram() {
        let key = remote_key(None);
        for bytes in [1, COUNTED - 1, COUNTED, COUNTED + 1, 1400] {
            let mut datagram = BytesMut::from(&[7; 1400][..]);
            let before = datagram.as_ptr_range();
            let mut payload = datagram.split_off(1400 - bytes);
            key.decrypt(0, &[], &mut payload).unwrap();
            // Small ones are padded in front.
            let counted = bytes.max(COUNTED);
            assert_eq!((payload.len(), payload.capacity()), (counted, counted));
            let (padding, frames) = payload.split_at(counted - bytes);
            assert!(padding.iter().all(|byte| *byte == 0) && frames.iter().all(|byte| *byte == 7));
            assert!(!before.contains(&payload.as_ptr()));
        }
    }

    /// Nothing of them is kept, and they are frequent.
    #[test]
    fn acknowledgments_have_no_padding() {
        let key = remote_key(None);
        let decrypted = |payload: &[u8]| {
            let mut bytes = BytesMut::from(payload);
            key.decrypt(0, &[], &mut bytes).unwrap();
            bytes.len()
        };
        // RFC 9000 section 19.3: the largest, the delay, one more range, the first; gap and length; ECN.
        let plain = [2, 0x40, 9, 1, 1, 0, 3, 4];
        let with_ecn = [3, 0x40, 9, 1, 1, 0, 3, 4, 7, 0x40, 8, 9];
        assert_eq!([decrypted(&plain), decrypted(&with_ecn)], [plain.len(), with_ecn.len()]);
        // An empty packet is still a violation.
        assert_eq!(decrypted(&[]), 0);
        let ping_behind = [&plain[..], &[1]].concat();
        let short = &with_ecn[..11];
        for other in [&ping_behind[..], short, &[1], &[2], &[8, 0, 1]] {
            assert_eq!(decrypted(other), COUNTED, "{other:?}");
        }
        let many = [2, 9, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
        assert_eq!(decrypted(&many), COUNTED);
    }

    #[test]
    fn a_handshake_takes_a_bounded_number_of_bytes() {
        let (key, forever) = (remote_key(Some(2000 + 2 * COUNTED - 500)), remote_key(None));
        let decrypts = |key: &dyn PacketKey, bytes: usize| {
            key.decrypt(0, &[], &mut BytesMut::zeroed(bytes)).is_ok()
        };
        assert!(decrypts(&*key, 1500));
        assert!(!decrypts(&*key, 2 * COUNTED + 1));
        // A small one counts more than its size.
        assert!(decrypts(&*key, 1));
        assert!(!decrypts(&*key, COUNTED + 1));
        assert!(decrypts(&*key, COUNTED));
        assert!(!decrypts(&*key, 1));
        assert!((0..100).all(|_| decrypts(&*forever, 1500)));
    }

    /// A session that accepts all messages, before its handshake is complete and after it.
    struct Told {
        is_handshaking: bool,
    }

    impl Session for Told {
        fn initial_keys(&self, _: &ConnectionId, _: Side) -> Keys {
            unreachable!("nobody asks")
        }

        fn handshake_data(&self) -> Option<Box<dyn Any>> {
            None
        }

        fn peer_identity(&self) -> Option<Box<dyn Any>> {
            None
        }

        fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
            None
        }

        fn early_data_accepted(&self) -> Option<bool> {
            None
        }

        fn is_handshaking(&self) -> bool {
            self.is_handshaking
        }

        fn read_handshake(&mut self, _: &[u8]) -> Result<bool, TransportError> {
            Ok(true)
        }

        fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
            Ok(None)
        }

        fn write_handshake(&mut self, _: &mut Vec<u8>) -> Option<Keys> {
            None
        }

        fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
            None
        }

        fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
            false
        }

        fn export_keying_material(
            &self,
            _: &mut [u8],
            _: &[u8],
            _: &[u8],
        ) -> Result<(), ExportKeyingMaterialError> {
            Err(ExportKeyingMaterialError)
        }
    }

    /// R4.2.4
    #[test]
    fn handshake_data_after_the_handshake_is_refused() {
        for is_handshaking in [true, false] {
            let mut session = BoundedSession::of(Box::new(Told { is_handshaking }));
            assert_eq!(session.read_handshake(&[4, 0, 0xff, 0xff]).is_ok(), is_handshaking);
        }
    }
}
