//! The first look at a packet: whose it is (RFC 7983, RFC 8489).

/// A transaction, by the random number of the one who asked.
pub(super) type Transaction = [u8; 12];

/// What a packet says of whose it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First<'a> {
    /// A check, to whoever has this ICE user name fragment.
    Check(&'a [u8]),
    /// A request for the address at which this node sees the sender.
    Binding(Transaction),
    /// An answer to a check or another request.
    Answer(Transaction),
    /// DTLS: of the connection with the one who sent it.
    Dtls,
    /// Nothing of WebRTC's data channels.
    Other,
}

const HEADER: usize = 20;
const COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const BINDING_REQUEST: u16 = 0x0001;
const CLASS: u16 = 0x0110;
const SUCCESS: u16 = 0x0100;
const FAILURE: u16 = 0x0110;
const USERNAME: u16 = 0x0006;

/// Looks at a packet; it is checked by whoever it is for.
pub(super) fn first_look(packet: &[u8]) -> First<'_> {
    match packet.first() {
        Some(0..=3) => message(packet).unwrap_or(First::Other),
        Some(20..=63) => First::Dtls,
        _ => First::Other,
    }
}

fn message(packet: &[u8]) -> Option<First<'_>> {
    let (header, mut rest) = packet.split_at_checked(HEADER)?;
    if header[4..8] != COOKIE {
        return None;
    }
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let transaction = header[8..].try_into().ok()?;
    if matches!(kind & CLASS, SUCCESS | FAILURE) {
        return Some(First::Answer(transaction));
    }
    if kind != BINDING_REQUEST {
        return None;
    }
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = after.get(..length)?;
        if kind == USERNAME {
            // The receiver's fragment is first (RFC 8445 section 7.2.2).
            let end = value.iter().position(|byte| *byte == b':')?;
            return Some(First::Check(&value[..end]));
        }
        rest = after.get(length.next_multiple_of(4)..)?;
    }
    Some(First::Binding(transaction))
}

/// The transaction of a request that this node sends.
pub(super) fn request(packet: &[u8]) -> Option<Transaction> {
    let is_request = packet.len() >= HEADER && packet[..2] == BINDING_REQUEST.to_be_bytes();
    is_request.then(|| packet[8..HEADER].try_into().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stun(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend_from_slice(&kind.to_be_bytes());
            body.extend_from_slice(&(value.len() as u16).to_be_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut packet = kind.to_be_bytes().to_vec();
        packet.extend_from_slice(&(body.len() as u16).to_be_bytes());
        packet.extend_from_slice(&COOKIE);
        packet.extend_from_slice(&[7; 12]);
        packet.extend_from_slice(&body);
        packet
    }

    #[test]
    fn packets_are_told_apart() {
        let check = stun(BINDING_REQUEST, &[(0x24, &[1, 2, 3, 4]), (USERNAME, b"mine1:theirs")]);
        assert_eq!(first_look(&check), First::Check(b"mine1"));
        assert_eq!(request(&check), Some([7; 12]));
        assert_eq!(first_look(&stun(BINDING_REQUEST, &[])), First::Binding([7; 12]));
        assert_eq!(first_look(&stun(0x0101, &[])), First::Answer([7; 12]));
        assert_eq!(first_look(&stun(0x0111, &[])), First::Answer([7; 12]));
        assert_eq!(request(&stun(0x0101, &[])), None);
        assert_eq!(first_look(&[22, 254, 253]), First::Dtls);
        for other in [&b""[..], &[0], &[0; 20], &[64; 100], &[200; 20]] {
            assert_eq!(first_look(other), First::Other);
        }
    }

    /// Whatever is cut off or changed, nothing panics.
    #[test]
    fn broken_messages_are_no_messages() {
        let check = stun(BINDING_REQUEST, &[(USERNAME, b"mine1:theirs"), (0x8022, b"abc")]);
        for length in 0..check.len() {
            let _ = first_look(&check[..length]);
        }
        for at in 0..check.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = check.clone();
                changed[at] = value;
                let _ = first_look(&changed);
            }
        }
        // A length beyond the end, and a name without a colon.
        assert_eq!(first_look(&stun(BINDING_REQUEST, &[(USERNAME, b"mine1")])), First::Other);
    }
}
