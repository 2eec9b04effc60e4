//! The addresses of this machine: they are given to the core, which decides which of them others
//! are told, at the start and whenever they change.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use multiaddr::{Multiaddr, Protocol};
use tidegate_proto::Time;
use tidegate_proto::id::Address;
use tidegate_proto::io::Command;

use crate::rt;
use crate::transport::{Transport, to_core};

/// How often the interfaces are checked. It takes some 50 us, and a machine that moves to another
/// network loses its connections after 8 s.
const LOOK: Duration = Duration::from_secs(5);

/// Looks up the addresses of the interfaces, if that is possible.
type LookUp = fn() -> Option<Vec<IpAddr>>;

/// The listeners, the external addresses, and the interfaces as last seen.
#[derive(Debug)]
pub(crate) struct Reach {
    listeners: Vec<Address>,
    external: Vec<Address>,
    interfaces: Vec<Address>,
    look_up: LookUp,
    /// The next check; `None` on a node that does not need it.
    pub(crate) next: Option<Time>,
}

fn is_ip(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Ip4(_) | Protocol::Ip6(_)))
}

/// The addresses of all listeners.
pub(crate) fn accepted_at(transports: &[Box<dyn Transport>]) -> Vec<Multiaddr> {
    transports.iter().flat_map(|transport| transport.addresses()).collect()
}

impl Reach {
    /// For a node with these listeners and transports.
    pub(crate) fn new(
        listeners: &[Multiaddr],
        external: &[Multiaddr],
        transports: &[Box<dyn Transport>],
    ) -> Self {
        let anywhere = Multiaddr::from(Ipv4Addr::LOCALHOST).with(Protocol::Udp(1));
        let anywhere = anywhere.with(Protocol::QuicV1);
        let dials = transports.iter().any(|transport| transport.handles(&anywhere));
        let looks = dials || listeners.iter().any(is_ip);
        Self::by(rt::interfaces, listeners, external, looks)
    }

    fn by(look_up: LookUp, listeners: &[Multiaddr], external: &[Multiaddr], looks: bool) -> Self {
        let mut reach = Self {
            listeners: listeners.iter().map(to_core).collect(),
            external: external.iter().map(to_core).collect(),
            interfaces: Vec::new(),
            look_up,
            next: looks.then_some(Time::ZERO),
        };
        reach.look(Time::ZERO);
        reach
    }

    /// Sets the addresses of the listeners; returns whether they have changed.
    pub(crate) fn listens_at(&mut self, addresses: &[Multiaddr]) -> bool {
        let listeners = addresses.iter().map(to_core).collect::<Vec<_>>();
        let before = std::mem::replace(&mut self.listeners, listeners);
        if self.next.is_none() && addresses.iter().any(is_ip) {
            self.next = Some(Time::ZERO);
        }
        before != self.listeners
    }

    /// The command that tells the core the current addresses.
    pub(crate) fn command(&self) -> Command {
        Command::Listening {
            listeners: self.listeners.clone(),
            interfaces: self.interfaces.clone(),
            external: self.external.clone(),
        }
    }

    /// Checks the interfaces, if it is time; returns whether they have changed. If they cannot be
    /// read, they count as unchanged.
    pub(crate) fn look(&mut self, now: Time) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        self.next = Some(now + LOOK);
        let Some(found) = (self.look_up)() else { return false };
        let found = found.into_iter().map(|ip| to_core(&Multiaddr::from(ip))).collect();
        let before = std::mem::replace(&mut self.interfaces, found);
        before != self.interfaces
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    static CALLS: AtomicU8 = AtomicU8::new(0);

    /// Fails at first, then an address, then fails once, then another address.
    fn now_and_then() -> Option<Vec<IpAddr>> {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        (call % 2 == 1).then(|| vec![IpAddr::from([10, 0, 0, call])])
    }

    /// Regression: a moment without file descriptors told all peers that the node had no address,
    /// for ever.
    #[test]
    fn interfaces_that_cannot_be_had_are_what_they_were() {
        let mut reach = Reach::by(now_and_then, &[], &[], true);
        let at = |n: u32| Time::ZERO + LOOK * n;
        assert!(reach.interfaces.is_empty() && !reach.look(Time::ZERO));
        assert!(reach.look(at(1)));
        let first = reach.interfaces.clone();
        assert!(!reach.look(at(2)));
        assert_eq!((first.len(), &reach.interfaces), (1, &first));
        assert!(reach.look(at(3)));
        assert_ne!(reach.interfaces, first);
    }

    #[test]
    fn interfaces_are_read_only_for_ip_transports() {
        let none: &[Box<dyn Transport>] = &[];
        let memory = "/memory/1".parse::<Multiaddr>().unwrap();
        assert_eq!(Reach::new(std::slice::from_ref(&memory), &[], none).next, None);
        let ip = "/ip4/127.0.0.1/tcp/1".parse::<Multiaddr>().unwrap();
        assert!(Reach::new(&[memory, ip], &[], none).next.is_some());
    }
}
