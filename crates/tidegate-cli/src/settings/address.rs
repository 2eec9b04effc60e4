//! Addresses as people write them: what is wrong with one, and how it should be.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer};
use tidegate::Multiaddr;

/// Reads an address.
pub(crate) fn parse(text: &str) -> Result<Multiaddr, String> {
    let example = |ip: IpAddr, port: u16| {
        let family = if ip.is_ipv4() { "ip4" } else { "ip6" };
        format!("/{family}/{ip}/udp/{port}/quic-v1")
    };
    let usual = || example(IpAddr::from([192, 0, 2, 1]), 4001);
    let like = match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(socket), _) => example(socket.ip(), socket.port()),
        (_, Ok(ip)) => example(ip, 4001),
        _ => match text.strip_suffix("/quic") {
            Some(before) => format!("{before}/quic-v1"),
            None => usual(),
        },
    };
    match text.parse::<Multiaddr>() {
        Ok(address) if address.is_empty() => {
            Err(format!("an address is missing: write it like {like}"))
        }
        Ok(_) if text.ends_with("/quic") || text.contains("/quic/") => Err(format!(
            "{text}: an early draft of QUIC: write {}",
            text.replace("/quic", "/quic-v1")
        )),
        Ok(address) => Ok(address),
        Err(error) => Err(format!("{text}: {error}: write it like {like}")),
    }
}

/// A list of them in the file.
pub(super) fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Multiaddr>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let addresses = texts.iter().map(|text| parse(text).map_err(serde::de::Error::custom));
    addresses.collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was `invalid multiaddr`, without a value or an example.
    #[test]
    fn address_errors_name_the_value_and_an_example() {
        for (text, like) in [
            ("127.0.0.1:4001", "/ip4/127.0.0.1/udp/4001/quic-v1"),
            ("[2600::1]:9", "/ip6/2600::1/udp/9/quic-v1"),
            ("127.0.0.1", "/ip4/127.0.0.1/udp/4001/quic-v1"),
            ("example.org:4001", "/ip4/192.0.2.1/udp/4001/quic-v1"),
            ("/ip4/1.2.3.4/udp/1/quic", "/ip4/1.2.3.4/udp/1/quic-v1"),
            ("", "/ip4/192.0.2.1/udp/4001/quic-v1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(text) && error.ends_with(like), "{error}");
        }
        assert!(parse("/ip4/1.2.3.4/udp/1/quic-v1").is_ok());
        assert!(parse("/dns4/example.org/udp/1/quic-v1").is_ok());
    }
}
