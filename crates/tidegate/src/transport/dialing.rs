//! Dialing: the addresses of a name, and which of several answers first.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use multiaddr::{Multiaddr, Protocol};
use tidegate_proto::io::DialError;

use super::form::Form;
use crate::rt;

/// How many addresses of a name are tried in a dial: as many as can start before the timeout,
/// leaving the last time to answer.
const ADDRESSES: usize = 16;
/// How long an address has to answer before the next is tried in parallel (RFC 8305, section 8: 100
/// ms to 2 s).
const STAGGER: Duration = Duration::from_millis(150);

/// Resolves a name to its current addresses, with the given port.
pub type Resolver = Arc<dyn Fn(String, u16) -> BoxFuture<'static, Vec<SocketAddr>> + Send + Sync>;

/// The system's resolver.
pub(super) fn system_resolver() -> Resolver {
    Arc::new(|host, port| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), port)).await;
            found.into_iter().flatten().collect()
        })
    })
}

/// Tries several ways to connect, and returns the first that succeeds: each starts a while after
/// the one before, or when that has failed.
pub(super) async fn first_of<T>(
    attempts: impl IntoIterator<Item = impl Future<Output = Result<T, DialError>>>,
    patience: Duration,
) -> Result<T, DialError> {
    let racing = async {
        let mut waiting = attempts.into_iter().collect::<VecDeque<_>>();
        let mut under_way = FuturesUnordered::new();
        let mut last = DialError::Unreachable;
        loop {
            match waiting.pop_front() {
                Some(next) => under_way.push(next),
                None if under_way.is_empty() => return Err(last),
                None => {}
            }
            let pause = async {
                if waiting.is_empty() {
                    std::future::pending::<()>().await;
                }
                rt::sleep(STAGGER).await;
            };
            match select(under_way.next(), std::pin::pin!(pause)).await {
                Either::Left((Some(Ok(reached)), _)) => return Ok(reached),
                // "Another peer answered" is more informative than "no answer".
                Either::Left((Some(Err(error)), _)) if last != DialError::WrongPeer => last = error,
                Either::Left(_) | Either::Right(_) => {}
            }
        }
    };
    rt::within(patience, racing).await.unwrap_or(Err(DialError::TimedOut))
}

/// A host's name and a port.
pub(super) struct Name {
    host: String,
    port: u16,
    /// Restricts the lookup to IPv4 or IPv6.
    version: Option<u8>,
}

impl Name {
    /// The name in an address with a host's name.
    pub(super) fn of(form: Form, address: &Multiaddr) -> Option<Self> {
        let mut parts = address.iter();
        let (host, version) = match parts.next()? {
            Protocol::Dns(host) => (host.into_owned(), None),
            Protocol::Dns4(host) => (host.into_owned(), Some(4)),
            Protocol::Dns6(host) => (host.into_owned(), Some(6)),
            _ => return None,
        };
        Some(Self { host, port: form.port(parts)?, version })
    }

    /// Resolves to the current sockets, alternating families (RFC 8305, section 4); none if the
    /// name is unknown. If there are very many, a random part.
    pub(super) async fn resolve(self, resolver: Resolver) -> Vec<SocketAddr> {
        let mut found = resolver(self.host, self.port).await;
        found.retain(|socket| match self.version {
            Some(4) => socket.is_ipv4(),
            Some(_) => socket.is_ipv6(),
            None => true,
        });
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|socket| seen.insert(*socket));
        if found.len() > ADDRESSES {
            let mut drawn = [0; 8];
            // Without randomness it starts at the same place each time.
            let _ = getrandom::fill(&mut drawn);
            let from = u64::from_ne_bytes(drawn) % found.len() as u64;
            found.rotate_left(from as usize);
        }
        let [mut first, mut second]: [VecDeque<_>; 2] = match found.first() {
            Some(head) => {
                let same = head.is_ipv4();
                let (first, second) = found.iter().partition(|socket| socket.is_ipv4() == same);
                [first, second]
            }
            None => Default::default(),
        };
        let turns = std::iter::from_fn(|| {
            let next = first.pop_front()?;
            std::mem::swap(&mut first, &mut second);
            Some(next)
        });
        let mut sockets = turns.collect::<Vec<_>>();
        sockets.extend(first.into_iter().chain(second));
        sockets.truncate(ADDRESSES);
        sockets
    }
}

#[cfg(all(test, feature = "quic"))]
mod tests {
    use super::*;

    async fn resolved(name: &str, found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let address = format!("{name}/udp/1/quic-v1").parse().unwrap();
        let resolver: Resolver = Arc::new(move |host, port| {
            assert_eq!((host.as_str(), port), ("a.example", 1));
            let found = found.clone();
            Box::pin(async move { found })
        });
        Name::of(Form::Quic, &address).unwrap().resolve(resolver).await
    }

    #[tokio::test]
    async fn the_families_of_a_name_take_turns() {
        let four = |n: u8| SocketAddr::from(([192, 0, 2, n], 1));
        let six = |n: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 1));
        let found = vec![six(1), six(2), six(3), six(1), four(1), four(2)];
        let turns = [six(1), four(1), six(2), four(2), six(3)];
        assert_eq!(resolved("/dns/a.example", found.clone()).await, turns);
        assert_eq!(resolved("/dns4/a.example", found.clone()).await, [four(1), four(2)]);
        assert_eq!(resolved("/dns6/a.example", found).await, [six(1), six(2), six(3)]);
        assert_eq!(resolved("/dns/a.example", Vec::new()).await, []);
        // At the limit all are tried, one past it as many, and each at some time.
        let many = |count: u8| (0..count).map(four).collect::<Vec<_>>();
        assert_eq!(resolved("/dns/a.example", many(16)).await, many(16));
        let mut tried = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let some = resolved("/dns/a.example", many(17)).await;
            assert_eq!(some.len(), 16);
            tried.extend(some);
        }
        assert_eq!(tried.len(), 17);
    }
}
