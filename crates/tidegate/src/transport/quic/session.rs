//! TLS sessions of those who connect, as quinn sees them: with bounds on what their transport parameters
//! may ask for.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use quinn::ConnectionId;
use quinn::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
    UnsupportedVersion,
};
use quinn_proto::transport_parameters::{Error, TransportParameters};
use quinn_proto::{Side, TransportError};

/// The longest time a peer may say that it holds acknowledgments back. RFC 9000 section 18.2 has 25 ms if
/// it says nothing, and 16 s at most; quinn keeps a connection that is closed for three times as long.
const MAX_ACK_DELAY: Duration = Duration::from_millis(250);
/// Its parameter's number.
const MAX_ACK_DELAY_ID: u64 = 0x0b;

/// A configuration of TLS whose sessions have those bounds.
pub(super) struct Bounded<C>(pub(super) Arc<C>);

impl<C: ServerConfig> ServerConfig for Bounded<C> {
    fn initial_keys(&self, version: u32, to: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, to)
    }

    fn retry_tag(&self, version: u32, to: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, to, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn Session> {
        Box::new(BoundedSession(self.0.clone().start_session(version, parameters)))
    }
}

struct BoundedSession(Box<dyn Session>);

impl Session for BoundedSession {
    fn initial_keys(&self, to: &ConnectionId, side: Side) -> Keys {
        self.0.initial_keys(to, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.0.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.0.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.0.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.0.read_handshake(bytes)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let parameters = self.0.transport_parameters()?;
        // R4.2.6
        match parameters.as_ref().map(max_ack_delay) {
            Some(delay) if delay > MAX_ACK_DELAY => Err(Error::IllegalValue.into()),
            _ => Ok(parameters),
        }
    }

    fn write_handshake(&mut self, to: &mut Vec<u8>) -> Option<Keys> {
        self.0.write_handshake(to)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.0.next_1rtt_keys()
    }

    fn is_valid_retry(&self, to: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.0.is_valid_retry(to, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.0.export_keying_material(output, label, context)
    }
}

/// How long a peer says that it holds acknowledgments back.
fn max_ack_delay(parameters: &TransportParameters) -> Duration {
    // quinn does not tell, but encodes them as RFC 9000 section 18 says: number, length and value of each.
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
    // The first two bits say how long it is.
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
}
