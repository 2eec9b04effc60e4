//! What the core reads of an address: its network group, and whether it is local.
//!
//! Addresses are multiaddrs, which the transports understand; the core looks mainly at the first
//! component (the code table of multiaddr: ip4 4, ip6 41, dns 53, dns4 54, dns6 55, dnsaddr 56).

use std::fmt;

use crate::id::Address;

/// Addresses that are probably controlled by one party: the unit in which a node spreads its
/// connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// The first 16 bits of an IPv4 address.
    Ip4([u8; 2]),
    /// The first 32 bits of an IPv6 address.
    Ip6([u8; 4]),
    /// A host with a local address, whatever its ports: a machine may use any number of them.
    Local(Vec<u8>),
    /// A host's name. Such addresses come only from the configuration.
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
                // A name has at most 253 bytes; a longer one is a length of two bytes.
                (length < 128).then(|| rest.get(..length as usize)).flatten().map(Host::Name)
            }
            _ => None,
        }
    };
    read().unwrap_or(Host::Other)
}

/// A QUIC address, which most are, in multiaddr's text form.
fn text(address: &Address) -> Option<String> {
    let (ip, rest) = match host(address) {
        Host::Ip4(ip) => (format!("/ip4/{}", std::net::Ipv4Addr::from(ip)), address.0.get(5..)?),
        Host::Ip6(ip) => (format!("/ip6/{}", std::net::Ipv6Addr::from(ip)), address.0.get(17..)?),
        Host::Name(_) | Host::Other => return None,
    };
    // The codes of multiaddr: udp 273, quic-v1 461.
    match rest {
        [0x91, 0x02, a, b, 0xcd, 0x03] => {
            Some(format!("{ip}/udp/{}/quic-v1", u16::from_be_bytes([*a, *b])))
        }
        _ => None,
    }
}

/// In multiaddr's text form if it is a QUIC address, otherwise in hex; 16 bytes tell addresses
/// apart.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match text(self) {
            Some(text) => f.write_str(&text),
            None => write!(f, "Address({}…)", hex::encode(&self.0[..self.0.len().min(16)])),
        }
    }
}

/// An IPv4 address inside an IPv6 address.
fn mapped(ip: [u8; 16]) -> Option<[u8; 4]> {
    let (head, tail) = ip.split_at(12);
    (head == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]).then(|| tail.try_into().ok()).flatten()
}

/// Whether an address takes long to reach even if a peer is there: through a relay, or through Tor.
pub(crate) fn is_slow(address: &Address) -> bool {
    // p2p-circuit, onion, onion3.
    Components(&address.0).any(|code| matches!(code, 290 | 444 | 445))
}

/// The codes of an address's components, up to the first unknown one.
struct Components<'a>(&'a [u8]);

impl Components<'_> {
    /// An unsigned LEB128 number, as multiaddr has them; none here has more than two bytes.
    fn number(&mut self) -> Option<usize> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        if first < 0x80 {
            return Some(first.into());
        }
        let (&second, rest) = self.0.split_first().filter(|(second, _)| **second < 0x80)?;
        self.0 = rest;
        Some(usize::from(first & 0x7f) | usize::from(second) << 7)
    }
}

impl Iterator for Components<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let code = self.number()?;
        // The table of multiaddr (multiformats/multiaddr, protocols.csv).
        let size = match code {
            // ip4; tcp, udp; ip6; memory.
            4 => 4,
            6 | 273 => 2,
            41 => 16,
            777 => 8,
            // onion, onion3.
            444 => 12,
            445 => 37,
            // Names, peers, hashes of certificates, paths of HTTP: with their length.
            53..=56 | 421 | 466 | 481 => self.number()?,
            // webrtc-direct, webrtc, p2p-circuit, utp, tls, noise, quic, quic-v1, webtransport, ws, wss.
            280 | 281 | 290 | 302 | 448 | 454 | 460 | 461 | 465 | 477 | 478 => 0,
            _ => {
                self.0 = &[];
                return Some(code);
            }
        };
        self.0 = self.0.get(size..).unwrap_or_default();
        Some(code)
    }
}

/// The scope of an address: from where it can be dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scope {
    /// From nowhere: multicast, broadcast, any interface, documentation, and what is reserved
    /// (IANA's registries of special-purpose addresses).
    None,
    /// From this machine.
    Loopback,
    /// From the node's own network. Unknown kinds of addresses count as local.
    Local,
    /// From everywhere.
    Public,
}

/// `/webrtc`, the whole of it: multiaddr's code 281.
const BY_OFFER: [u8; 2] = [0x99, 0x02];

impl Address {
    /// The address of a peer that is reached by an offer, which any peer in common carries: `/webrtc`.
    pub fn by_offer() -> Self {
        Self(bytes::Bytes::from_static(&BY_OFFER))
    }

    /// Whether the peer is reached by an offer that any peer in common carries: the last component is `/webrtc`, and no
    /// relay is named before it.
    pub fn is_by_offer(&self) -> bool {
        self.transport() == "webrtc"
    }

    /// What is spoken there: `quic`, `webrtc`, `tcp`, `memory`, or `other`.
    pub fn transport(&self) -> &'static str {
        let relayed = Components(&self.0).any(|code| code == 290);
        // A peer's id says nothing of what is spoken.
        match Components(&self.0).filter(|code| *code != 421).last() {
            _ if relayed => "other",
            // Not that of the draft, 460.
            Some(461) => "quic",
            Some(281) => "webrtc",
            // TLS on one stream, or the stream alone.
            Some(448 | 6) => "tcp",
            Some(777) => "memory",
            _ => "other",
        }
    }

    /// Where to dial the peer of a connection again: where it was found, unless ICE found it there.
    pub(crate) fn to_dial_again(&self) -> Self {
        if self.is_by_offer() { Self::by_offer() } else { self.clone() }
    }

    /// The scope of the address. That of a name is public, except for `localhost`.
    pub fn scope(&self) -> Scope {
        match host(self) {
            Host::Other if self.is_by_offer() => Scope::Public,
            Host::Ip4(ip) => ip4_scope(ip),
            Host::Ip6(ip) => ip6_scope(ip),
            Host::Name(name) if name.eq_ignore_ascii_case(b"localhost") => Scope::Loopback,
            Host::Name(_) => Scope::Public,
            Host::Other => Scope::Local,
        }
    }
}

fn ip4_scope(ip: [u8; 4]) -> Scope {
    match ip {
        [127, ..] => Scope::Loopback,
        // RFC 1918, RFC 3927, RFC 6598, RFC 2544 (networks for tests of devices).
        [10, ..] | [192, 168, ..] | [169, 254, ..] | [198, 18 | 19, ..] => Scope::Local,
        [172, b, ..] if (16..32).contains(&b) => Scope::Local,
        [100, b, ..] if (64..128).contains(&b) => Scope::Local,
        // RFC 1122 (this network), RFC 1112 (multicast, reserved), RFC 6890, RFC 5737 (documentation), RFC
        // 7526 (relays that are gone).
        [0 | 224..=255, ..] | [192, 0, 0 | 2, _] | [192, 88, 99, _] => Scope::None,
        [198, 51, 100, _] | [203, 0, 113, _] => Scope::None,
        _ => Scope::Public,
    }
}

fn ip6_scope(ip: [u8; 16]) -> Scope {
    if ip[..15] == [0; 15] && ip[15] == 1 {
        return Scope::Loopback;
    }
    match ip {
        // RFC 4193.
        [0xfc | 0xfd, ..] => Scope::Local,
        // RFC 9637, RFC 3849 (documentation), RFC 2928 (protocols), RFC 7526 (6to4).
        [0x3f, 0xff, 0..=0x0f, ..] | [0x20, 1, 0x0d, 0xb8, ..] => Scope::None,
        [0x20, 1, 0 | 1, ..] | [0x20, 2, ..] => Scope::None,
        // RFC 4291: all that is allocated for global use. Link-local addresses are useless without
        // the interface, and an IPv4 address has its own form.
        [0x20..=0x3f, ..] => Scope::Public,
        _ => Scope::None,
    }
}

/// Whether a peer seen at an address is in this node's own network.
pub(crate) fn is_local(address: &Address) -> bool {
    let ip = match host(address) {
        Host::Ip6(ip) => mapped(ip).ok_or(ip),
        Host::Ip4(ip) => Ok(ip),
        Host::Name(_) | Host::Other => return address.scope() != Scope::Public,
    };
    let scope = ip.map_or_else(ip6_scope, ip4_scope);
    // RFC 4291: such a peer is on the same link.
    let is_of_link = ip.is_err_and(|ip| ip[0] == 0xfe && ip[1] & 0xc0 == 0x80);
    is_of_link || matches!(scope, Scope::Loopback | Scope::Local)
}

/// Whether the host is a name. The owner of a name decides what it resolves to, for each query: a
/// peer that could spread names could appear to be everywhere.
pub(crate) fn is_named(address: &Address) -> bool {
    matches!(host(address), Host::Name(_))
}

/// Whether a host is "any interface": a node can listen there, but not be dialed.
fn is_unspecified(host: &Host<'_>) -> bool {
    matches!(
        host,
        Host::Ip4([0, 0, 0, 0]) | Host::Ip6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    )
}

/// The addresses at which a listener can be dialed: its own, or, if it listens on any interface,
/// those of the interfaces of its family, of which only the IP component counts.
pub(crate) fn reached_at(listener: &Address, interfaces: &[Address]) -> Vec<Address> {
    let own = host(listener);
    if !is_unspecified(&own) {
        return vec![listener.clone()];
    }
    let same = |(own, of): (&Host<'_>, &Host<'_>)| match (own, of) {
        (Host::Ip4(_), Host::Ip4(_)) => Some(5),
        (Host::Ip6(_), Host::Ip6(_)) => Some(17),
        _ => None,
    };
    let at = |interface: &Address| {
        let component = same((&own, &host(interface)))?;
        let bytes = [&interface.0[..component], &listener.0[component..]].concat();
        Some(Address(bytes.into()))
    };
    interfaces.iter().filter_map(at).collect()
}

/// Whether two addresses are of the same dialable host, whatever the ports.
pub(crate) fn is_same_host(one: &Address, other: &Address) -> bool {
    let same = match (host(one), host(other)) {
        (Host::Ip4(one), Host::Ip4(other)) => one == other,
        (Host::Ip6(one), Host::Ip6(other)) => one == other,
        _ => false,
    };
    same && one.scope() > Scope::Loopback
}

/// Whether peers could see a listener at an address: it has the same protocols on an IP address of
/// the same family. The port may differ, since a router may translate it.
pub(crate) fn is_same_kind(listener: &Address, address: &Address) -> bool {
    let ip = match (host(listener), host(address)) {
        (Host::Ip4(_), Host::Ip4(_)) => 5,
        (Host::Ip6(_), Host::Ip6(_)) => 17,
        _ => return false,
    };
    let (own, seen) = (&listener.0[ip..], &address.0[ip..]);
    // The code of the protocol, of one byte (tcp) or two (udp), and the port.
    let code = own.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let (Some((own_code, own)), Some((seen_code, seen))) =
        (own.split_at_checked(code), seen.split_at_checked(code))
    else {
        return false;
    };
    let rests = (own.split_at_checked(2), seen.split_at_checked(2));
    let (Some((_, own)), Some((port, seen))) = rests else { return false };
    own_code == seen_code && port != [0, 0] && own == seen
}

/// Whether a machine with these interfaces can send to an address at all. If none are known, it
/// may.
pub(crate) fn has_route(address: &Address, interfaces: &[Address]) -> bool {
    let scope = address.scope();
    let family = |address: &Address| match host(address) {
        Host::Ip4(_) => Some(4),
        Host::Ip6(_) => Some(6),
        Host::Name(_) | Host::Other => None,
    };
    let Some(version) = family(address) else { return true };
    let mut of_family = interfaces.iter().filter(|one| family(one) == Some(version));
    interfaces.is_empty()
        || of_family.any(|one| scope <= Scope::Loopback || one.scope() > Scope::Loopback)
}

/// The site of an address, without its port: the addresses that a provider gives to one customer,
/// for IPv6 a /48 (RFC 6177 gives them that or less).
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
    let local = is_local(address);
    let ip4 =
        |ip: [u8; 4]| if local { Group::Local(ip.to_vec()) } else { Group::Ip4([ip[0], ip[1]]) };
    match host(address) {
        Host::Ip4(ip) => ip4(ip),
        Host::Ip6(ip) => match mapped(ip) {
            Some(ip) => ip4(ip),
            None if local => Group::Local(ip.to_vec()),
            None => Group::Ip6([ip[0], ip[1], ip[2], ip[3]]),
        },
        Host::Name(name) => Group::Name(name.to_ascii_lowercase()),
        Host::Other => Group::Own(address.clone()),
    }
}

impl Group {
    /// The bytes that places in the book are hashed from.
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
pub(crate) mod tests {
    use super::*;

    /// `/ip4/…/udp/…/quic-v1`
    pub(crate) fn ip4(ip: [u8; 4], port: u16) -> Address {
        let [a, b] = port.to_be_bytes();
        Address([&[4][..], &ip, &[0x91, 0x02, a, b, 0xcd, 0x03]].concat().into())
    }

    fn ip6(start: [u8; 4]) -> Address {
        Address([&[41][..], &start, &[0; 11], &[2], &[0x91, 0x02, 0, 1]].concat().into())
    }

    fn name(name: &str) -> Address {
        Address([&[54, name.len() as u8][..], name.as_bytes(), &[0x91, 0x02, 0, 1]].concat().into())
    }

    /// Regression: it was `DialFailed { address: Address(047f…) }`.
    #[test]
    fn an_address_can_be_read() {
        assert_eq!(format!("{:?}", ip4([127, 0, 0, 1], 4001)), "/ip4/127.0.0.1/udp/4001/quic-v1");
        let six = [&[41][..], &[0; 15], &[1], &[0x91, 2, 0, 1, 0xcd, 3]].concat();
        assert_eq!(format!("{:?}", Address(six.into())), "/ip6/::1/udp/1/quic-v1");
        assert_eq!(
            format!("{:?}", Address(vec![7; 99].into())),
            format!("Address({}…)", "07".repeat(16))
        );
        assert_eq!(format!("{:?}", Address(vec![4, 1].into())), "Address(0401…)");
    }

    #[test]
    fn groups_are_network_prefixes() {
        assert_eq!(group(&ip4([8, 9, 1, 1], 1)), group(&ip4([8, 9, 7, 7], 2)));
        assert_ne!(group(&ip4([8, 9, 1, 1], 1)), group(&ip4([8, 10, 1, 1], 1)));
        assert_eq!(group(&ip6([0x20, 1, 2, 3])), Group::Ip6([0x20, 1, 2, 3]));
        let four_in_six = [&[41][..], &[0; 10], &[0xff, 0xff, 8, 9, 1, 1]].concat();
        assert_eq!(group(&Address(four_in_six.into())), Group::Ip4([8, 9]));
        assert_eq!(group(&name("Example.org")), group(&name("example.org")));
        // One machine is one group; another in the same network is another.
        assert_eq!(group(&ip4([127, 0, 0, 1], 1)), group(&ip4([127, 0, 0, 1], 2)));
        assert_ne!(group(&ip4([10, 0, 0, 1], 1)), group(&ip4([10, 0, 0, 2], 1)));
        assert_eq!(group(&ip6([0xfd, 0, 0, 1])), group(&ip6([0xfd, 0, 0, 1])));
    }

    /// Regression: packets went to 224.0.0.1 because of a record.
    #[test]
    fn multicast_and_reserved_addresses_are_unreachable() {
        let nowhere = [
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [192, 0, 0, 1],
            [192, 0, 2, 1],
            [192, 88, 99, 1],
            [198, 51, 100, 1],
            [203, 0, 113, 255],
            [224, 0, 0, 1],
            [239, 255, 255, 255],
            [240, 0, 0, 1],
            [255, 255, 255, 255],
        ];
        for ip in nowhere {
            assert_eq!(ip4(ip, 1).scope(), Scope::None, "{ip:?}");
        }
        let beside = [[1, 0, 0, 0], [192, 0, 1, 0], [192, 0, 3, 0], [223, 255, 255, 255]];
        let beside = beside.into_iter().chain([[198, 17, 0, 1], [198, 20, 0, 1], [128, 0, 0, 1]]);
        assert!(beside.map(|ip| ip4(ip, 1)).all(|address| address.scope() == Scope::Public));
        assert_eq!(ip4([127, 255, 0, 1], 1).scope(), Scope::Loopback);
        let six = |text: &str| {
            let ip: std::net::Ipv6Addr = text.parse().unwrap();
            Address([&[41][..], &ip.octets(), &[0x91, 0x02, 0, 1]].concat().into()).scope()
        };
        let nowhere = ["::", "::2", "::ffff:8.8.8.8", "64:ff9b::808:808", "100::1", "2001:db8::1"];
        let nowhere = nowhere.into_iter().chain(["2002:808:808::1", "2001::1", "2001:1ff::1"]);
        for text in nowhere.chain(["3fff:fff::1", "fe80::1", "fec0::1", "ff02::1", "5f00::1"]) {
            assert_eq!(six(text), Scope::None, "{text}");
        }
        for text in ["2001:200::1", "2606:4700::1111", "3ffe::1", "2a00::1"] {
            assert_eq!(six(text), Scope::Public, "{text}");
        }
        assert_eq!((six("::1"), six("fd00::1")), (Scope::Loopback, Scope::Local));
    }

    #[test]
    fn dials_go_where_an_interface_leads() {
        let six = |first: u8| {
            Address([&[41, first][..], &[0; 14], &[1], &[0x91, 0x02, 0, 1]].concat().into())
        };
        let [home, world] = [ip4([192, 168, 1, 1], 0), ip4([8, 8, 8, 8], 0)];
        let only_loopback = [ip4([127, 0, 0, 1], 0), six(0)];
        assert!(has_route(&ip4([127, 0, 0, 1], 1), &only_loopback));
        assert!(!has_route(&world, &only_loopback) && !has_route(&home, &only_loopback));
        // A link-local address leads nowhere else.
        let four = [ip4([127, 0, 0, 1], 0), home.clone(), six(0xfe)];
        assert!(has_route(&world, &four) && has_route(&home, &four));
        assert!(!has_route(&six(0x26), &four) && has_route(&six(0), &four));
        assert!(has_route(&six(0x26), &[six(0x26)]) && !has_route(&world, &[six(0x26)]));
        // Unknown interfaces, and addresses that are not IP addresses.
        assert!(has_route(&world, &[]) && has_route(&name("a.b"), &only_loopback));
    }

    #[test]
    fn an_address_says_what_is_spoken_there() {
        let with = |rest: &[u8]| Address([&[4, 8, 8, 8, 8][..], rest].concat().into());
        let peer = [&[0xa5, 0x03, 34][..], &[7; 34]].concat();
        let (udp, quic, webrtc) = ([0x91, 0x02, 1, 1], [0xcd, 0x03], [0x99, 0x02]);
        for (rest, transport) in [
            ([&udp[..], &quic].concat(), "quic"),
            ([&udp[..], &quic, &peer].concat(), "quic"),
            ([&udp[..], &webrtc].concat(), "webrtc"),
            ([&[6, 1, 1][..], &[0xc0, 0x03]].concat(), "tcp"),
            ([&[6, 1, 1][..], &peer, &[0xa2, 0x02], &webrtc].concat(), "other"),
            (vec![0xff], "other"),
            (Vec::new(), "other"),
        ] {
            assert_eq!(with(&rest).transport(), transport, "{rest:?}");
        }
        assert!(Address::by_offer().is_by_offer() && !with(&udp).is_by_offer());
        assert_eq!(with(&[&udp[..], &webrtc].concat()).to_dial_again(), Address::by_offer());
        assert_eq!(Address::by_offer().scope(), Scope::Public);
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
        // Unknown addresses are not passed on to the public.
        for junk in [&[][..], &[4], &[4, 1, 2], &[54], &[54, 9, 1], &[54, 200, 1], &[0xff]] {
            assert!(is_local(&Address(junk.to_vec().into())));
        }
    }
}
