//! What the core reads of an address: which network group it belongs to, and whether it is local.
//!
//! Addresses are multiaddrs, which the transports understand; here only their first component is
//! looked at (the code table of multiaddr: ip4 4, ip6 41, dns 53, dns4 54, dns6 55, dnsaddr 56).

use crate::id::Address;

/// Addresses that are probably in one hand: the unit in which a node spreads its connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// The first 16 bits of an IPv4 address.
    Ip4([u8; 2]),
    /// The first 32 bits of an IPv6 address.
    Ip6([u8; 4]),
    /// A host with a local address, whatever its ports: a machine may have as many as it likes.
    Local(Vec<u8>),
    /// A host's name. Only the configuration has such addresses.
    Name(Vec<u8>),
    /// An address the core cannot read: a group of its own.
    Own(Address),
}

/// The first component of an address.
enum Host<'a> {
    Ip4([u8; 4]),
    Ip6([u8; 16]),
    Name(&'a [u8]),
    Other,
}

fn host(address: &Address) -> Host<'_> {
    let read = || {
        let (&code, rest) = address.0.split_first()?;
        match code {
            4 => rest.first_chunk().copied().map(Host::Ip4),
            41 => rest.first_chunk().copied().map(Host::Ip6),
            53..=56 => {
                let (&length, rest) = rest.split_first()?;
                // A name has at most 253 bytes; a length of two bytes is a longer one.
                (length < 128).then(|| rest.get(..length as usize)).flatten().map(Host::Name)
            }
            _ => None,
        }
    };
    read().unwrap_or(Host::Other)
}

/// An IPv4 address inside an IPv6 address.
fn mapped(ip: [u8; 16]) -> Option<[u8; 4]> {
    let (head, tail) = ip.split_at(12);
    (head == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]).then(|| tail.try_into().ok()).flatten()
}

fn is_local_ip4(ip: [u8; 4]) -> bool {
    match ip {
        // RFC 1122 (this network, loopback), RFC 1918, RFC 6598, RFC 3927.
        [0 | 10 | 127, ..] | [192, 168, ..] | [169, 254, ..] => true,
        [172, b, ..] => (16..32).contains(&b),
        [100, b, ..] => (64..128).contains(&b),
        _ => false,
    }
}

fn is_local_ip6(ip: [u8; 16]) -> bool {
    let zeros = ip[..15] == [0; 15];
    // Unspecified and loopback (RFC 4291), unique local (RFC 4193), link local (RFC 4291).
    zeros && ip[15] <= 1 || ip[0] & 0xfe == 0xfc || ip[0] == 0xfe && ip[1] & 0xc0 == 0x80
}

/// Whether an address means something only on this machine or in its own network.
pub(crate) fn is_local(address: &Address) -> bool {
    match host(address) {
        Host::Ip4(ip) => is_local_ip4(ip),
        Host::Ip6(ip) => mapped(ip).map_or_else(|| is_local_ip6(ip), is_local_ip4),
        Host::Name(name) => name == b"localhost",
        Host::Other => true,
    }
}

/// Whether an address names its host. What a name stands for is decided by whoever holds the name,
/// for each one who asks and each time: a peer that tells of names could be everywhere.
pub(crate) fn is_named(address: &Address) -> bool {
    matches!(host(address), Host::Name(_))
}

/// Whether an address is that of any interface: one can listen there, but not be reached.
pub(crate) fn is_unspecified(address: &Address) -> bool {
    match host(address) {
        Host::Ip4(ip) => ip == [0; 4],
        Host::Ip6(ip) => ip == [0; 16],
        Host::Name(_) | Host::Other => false,
    }
}

/// The site of an address, which is one customer's, without its port: of IPv6 a /48 (RFC 6177 gives them
/// that or less).
pub(crate) fn site_bytes(address: &Address) -> Vec<u8> {
    match host(address) {
        Host::Ip4(ip) => ip.to_vec(),
        Host::Ip6(ip) => mapped(ip).map_or_else(|| ip[..6].to_vec(), |ip| ip.to_vec()),
        Host::Name(name) => name.to_ascii_lowercase(),
        Host::Other => address.0.to_vec(),
    }
}

/// The group of an address.
pub(crate) fn group(address: &Address) -> Group {
    let ip4 = |ip: [u8; 4]| match is_local_ip4(ip) {
        true => Group::Local(ip.to_vec()),
        false => Group::Ip4([ip[0], ip[1]]),
    };
    match host(address) {
        Host::Ip4(ip) => ip4(ip),
        Host::Ip6(ip) => match mapped(ip) {
            Some(ip) => ip4(ip),
            None if is_local_ip6(ip) => Group::Local(ip.to_vec()),
            None => Group::Ip6([ip[0], ip[1], ip[2], ip[3]]),
        },
        Host::Name(name) => Group::Name(name.to_ascii_lowercase()),
        Host::Other => Group::Own(address.clone()),
    }
}

impl Group {
    /// The bytes that places in the book are computed from.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (tag, bytes): (u8, &[u8]) = match self {
            Self::Ip4(bytes) => (4, bytes),
            Self::Ip6(bytes) => (6, bytes),
            Self::Local(ip) => (2, ip),
            Self::Name(name) => (1, name),
            Self::Own(address) => (0, &address.0),
        };
        [&[tag], bytes].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip4(ip: [u8; 4], port: u16) -> Address {
        // /ip4/…/udp/…/quic-v1
        let [a, b] = port.to_be_bytes();
        Address([&[4][..], &ip, &[0x91, 0x02, a, b, 0xcc, 0x03]].concat().into())
    }

    fn ip6(start: [u8; 4]) -> Address {
        Address([&[41][..], &start, &[0; 11], &[2], &[0x91, 0x02, 0, 1]].concat().into())
    }

    fn name(name: &str) -> Address {
        Address([&[54, name.len() as u8][..], name.as_bytes(), &[0x91, 0x02, 0, 1]].concat().into())
    }

    #[test]
    fn groups_are_network_prefixes() {
        assert_eq!(group(&ip4([8, 9, 1, 1], 1)), group(&ip4([8, 9, 7, 7], 2)));
        assert_ne!(group(&ip4([8, 9, 1, 1], 1)), group(&ip4([8, 10, 1, 1], 1)));
        assert_eq!(group(&ip6([0x20, 1, 2, 3])), Group::Ip6([0x20, 1, 2, 3]));
        let four_in_six = [&[41][..], &[0; 10], &[0xff, 0xff, 8, 9, 1, 1]].concat();
        assert_eq!(group(&Address(four_in_six.into())), Group::Ip4([8, 9]));
        assert_eq!(group(&name("Example.org")), group(&name("example.org")));
        // One machine is one group, and another in the same network another.
        assert_eq!(group(&ip4([127, 0, 0, 1], 1)), group(&ip4([127, 0, 0, 1], 2)));
        assert_ne!(group(&ip4([10, 0, 0, 1], 1)), group(&ip4([10, 0, 0, 2], 1)));
        assert_eq!(group(&ip6([0xfd, 0, 0, 1])), group(&ip6([0xfd, 0, 0, 1])));
    }

    #[test]
    fn local_is_what_others_cannot_reach() {
        let local = [[127, 0, 0, 1], [10, 1, 1, 1], [172, 16, 0, 1], [172, 31, 0, 1]];
        let local = local.into_iter().chain([[192, 168, 1, 1], [169, 254, 1, 1], [100, 64, 0, 1]]);
        assert!(local.map(|ip| ip4(ip, 1)).all(|address| is_local(&address)));
        let public = [[8, 8, 8, 8], [172, 32, 0, 1], [192, 169, 1, 1], [100, 128, 0, 1]];
        assert!(public.map(|ip| ip4(ip, 1)).iter().all(|address| !is_local(address)));
        assert!(is_local(&ip6([0xfe, 0x80, 0, 0])) && is_local(&ip6([0xfd, 0, 0, 0])));
        assert!(!is_local(&ip6([0x20, 1, 2, 3])));
        assert!(is_local(&name("localhost")) && !is_local(&name("example.org")));
        assert!(is_unspecified(&ip4([0; 4], 1)) && !is_unspecified(&ip4([127, 0, 0, 1], 1)));
        // What cannot be read is not passed on to the world.
        for junk in [&[][..], &[4], &[4, 1, 2], &[54], &[54, 9, 1], &[54, 200, 1], &[0xff]] {
            assert!(is_local(&Address(junk.to_vec().into())));
        }
    }
}
