//! Dialing: which socket to use.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use multiaddr::Multiaddr;
use tidegate_proto::id::{DialId, PeerId};
use tidegate_proto::io::DialError;

use super::socket::{self, Socket};
use super::tls;
use crate::transport::form::Form;

/// A socket, and the listener that uses it.
pub(super) struct Endpoint {
    pub(super) quinn: quinn::Endpoint,
    pub(super) listener: Option<Multiaddr>,
    pub(super) socket: Arc<Socket>,
}

/// The number of fresh sockets: for the four dials that the core has in progress, and for
/// connections that quinn has not forgotten.
const FRESH: usize = 8;

/// The sockets to dial from.
#[derive(Default)]
pub(super) struct Endpoints {
    all: Vec<Endpoint>,
    /// Fresh sockets, each for one dial.
    fresh: Vec<(DialId, Endpoint)>,
    /// Those whose dial has ended.
    used: Vec<Endpoint>,
}

impl Endpoints {
    /// The listeners, in the order in which they were added.
    pub(super) fn listeners(&self) -> Vec<Multiaddr> {
        self.all.iter().rev().filter_map(|endpoint| endpoint.listener.clone()).collect()
    }

    /// Listens at an address.
    pub(super) fn listen(
        &mut self,
        at: SocketAddr,
        server: quinn::ServerConfig,
    ) -> std::io::Result<quinn::Endpoint> {
        let (quinn, socket) = open(at, Some(server))?;
        let bound = Form::Quic.address(quinn.local_addr()?);
        // Dials use the sockets of listeners rather than others.
        let endpoint = Endpoint { quinn: quinn.clone(), listener: Some(bound), socket };
        self.all.insert(0, endpoint);
        Ok(quinn)
    }

    /// The sockets to dial from, in order: that of a listener at the address from which the system
    /// would send there, or at any interface, so that peers see an address that they could dial. A
    /// listener at another address of this machine may not have a route; then a socket without a
    /// listener does, if any.
    pub(super) fn towards(&mut self, to: SocketAddr) -> std::io::Result<Vec<&Endpoint>> {
        // Loopback addresses only reach each other.
        let reaches = |own: &SocketAddr| {
            own.is_ipv4() == to.is_ipv4()
                && (own.ip().is_unspecified() || own.ip().is_loopback() == to.ip().is_loopback())
        };
        let own = |endpoint: &Endpoint| endpoint.quinn.local_addr().ok().filter(reaches);
        // Without a choice it makes no difference.
        let has_place = |own: SocketAddr| !own.ip().is_unspecified();
        let chooses = self.all.iter().filter_map(own).any(has_place);
        let sends_from = chooses.then(|| source(to)).flatten();
        let first = |fits: &dyn Fn(IpAddr, bool) -> bool| {
            self.all.iter().position(|endpoint| {
                own(endpoint).is_some_and(|own| fits(own.ip(), endpoint.listener.is_some()))
            })
        };
        let exact = first(&|ip, _| Some(ip) == sends_from);
        let usual = exact.or_else(|| first(&|ip, listens| ip.is_unspecified() && listens));
        let found = match usual {
            Some(at) => vec![at],
            None => {
                let other = first(&|ip, listens| listens && !ip.is_unspecified());
                let any = first(&|ip, listens| ip.is_unspecified() && !listens);
                let any = any.map_or_else(|| self.open_any(to), Ok);
                match (other, any) {
                    (Some(other), Err(_)) => vec![other],
                    (other, any) => other.into_iter().chain([any?]).collect(),
                }
            }
        };
        Ok(found.into_iter().map(|at| &self.all[at]).collect())
    }

    /// Opens a socket without a listener.
    fn open_any(&mut self, to: SocketAddr) -> std::io::Result<usize> {
        let (quinn, socket) = open(any_of_family(to), None)?;
        self.all.push(Endpoint { quinn, listener: None, socket });
        Ok(self.all.len() - 1)
    }

    /// A fresh socket for one dial: it is kept until the dial has ended and quinn has forgotten its
    /// connection.
    pub(super) fn fresh(&mut self, dial: DialId, to: SocketAddr) -> Option<quinn::Endpoint> {
        self.forget_used();
        if self.fresh.len() + self.used.len() >= FRESH {
            return None;
        }
        let (quinn, socket) = open(any_of_family(to), None).ok()?;
        self.fresh.push((dial, Endpoint { quinn: quinn.clone(), listener: None, socket }));
        Some(quinn)
    }

    /// A dial has ended.
    pub(super) fn dialed(&mut self, dial: DialId) {
        if let Some(at) = self.fresh.iter().position(|(of, _)| *of == dial) {
            self.used.push(self.fresh.swap_remove(at).1);
        }
        self.forget_used();
    }

    pub(super) fn forget_used(&mut self) {
        self.used.retain(|endpoint| endpoint.quinn.open_connections() > 0);
    }

    /// Connections that quinn has, including those that it has not forgotten.
    pub(super) fn open_connections(&self) -> usize {
        let fresh = self.fresh.iter().map(|(_, endpoint)| endpoint);
        let all = self.all.iter().chain(fresh).chain(&self.used);
        all.map(|endpoint| endpoint.quinn.open_connections()).sum()
    }

    pub(super) fn take(&mut self) -> Vec<Endpoint> {
        let mut all = std::mem::take(&mut self.all);
        all.extend(self.fresh.drain(..).map(|(_, endpoint)| endpoint));
        all.append(&mut self.used);
        all
    }
}

/// The source address that the system would use for a destination; nothing is sent.
fn source(to: SocketAddr) -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind(any_of_family(to)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn any_of_family(to: SocketAddr) -> SocketAddr {
    if to.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() }
}

fn open(
    at: SocketAddr,
    server: Option<quinn::ServerConfig>,
) -> std::io::Result<(quinn::Endpoint, Arc<Socket>)> {
    let socket = socket::bind(at)?;
    let (config, runtime) = (quinn::EndpointConfig::default(), Arc::new(quinn::TokioRuntime));
    let quinn = quinn::Endpoint::new_with_abstract_socket(config, server, socket.clone(), runtime)?;
    Ok((quinn, socket))
}

/// One way to connect to a peer.
pub(super) struct Attempt {
    pub(super) from: quinn::Endpoint,
    pub(super) listener: Option<Multiaddr>,
    pub(super) config: quinn::ClientConfig,
    pub(super) to: SocketAddr,
}

impl Attempt {
    pub(super) async fn begin(self) -> Result<Reached, DialError> {
        // The name is not checked: the key is.
        let connecting = self.from.connect_with(self.config, self.to, "tidegate");
        let quic = connecting.map_err(|_| DialError::Unreachable)?.await;
        let quic = quic.map_err(tls::dial_error)?;
        let peer = tls::peer(&quic).ok_or(DialError::WrongPeer)?;
        Ok(Reached { quic, peer, listener: self.listener })
    }
}

/// A successful dial.
pub(super) struct Reached {
    pub(super) quic: quinn::Connection,
    pub(super) peer: PeerId,
    /// The listener from whose socket it was dialed.
    pub(super) listener: Option<Multiaddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn dials_go_out_from_a_socket_that_reaches_there() {
        let identity = crate::Identity::from_seed(&[1; 32]);
        let mut endpoints = Endpoints::default();
        let server = tls::server(&identity).unwrap();
        endpoints.listen(socket("127.0.0.1:0"), server).unwrap();
        let local = endpoints.listeners().remove(0);
        let own = Form::Quic.socket(&local).unwrap();
        let mut from = |to: &str| {
            let endpoints = endpoints.towards(socket(to)).unwrap();
            assert_eq!(endpoints.len(), 1);
            (endpoints[0].quinn.local_addr().unwrap(), endpoints[0].listener.clone())
        };
        assert_eq!(from("127.0.0.1:4001"), (own, Some(local.clone())));
        // The listener's socket has no route there, and the one that has is no listener's.
        let (any, listener) = from("192.0.2.1:4001");
        assert!(any.ip().is_unspecified() && any.port() != own.port(), "{any}");
        assert_eq!(listener, None);
        assert_eq!(from("192.0.2.2:4001"), (any, None));
        assert_eq!(from("127.0.0.1:4002"), (own, Some(local)));
    }

    /// Regression: of several listeners the one added last was used, whatever its route.
    #[tokio::test]
    async fn dials_go_out_from_the_listener_that_leads_there() {
        let identity = crate::Identity::from_seed(&[1; 32]);
        let mut endpoints = Endpoints::default();
        for at in ["127.0.0.1:0", "127.0.0.2:0"] {
            endpoints.listen(socket(at), tls::server(&identity).unwrap()).unwrap();
        }
        let from = |endpoints: &mut Endpoints, to| {
            let found = endpoints.towards(socket(to)).unwrap().into_iter();
            found
                .map(|found| found.quinn.local_addr().unwrap().ip().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(from(&mut endpoints, "127.0.0.1:1"), ["127.0.0.1"]);
        // A listener at another address may have a route; if not, a socket without a listener has.
        let mut endpoints = Endpoints::default();
        endpoints.listen(socket("127.0.0.2:0"), tls::server(&identity).unwrap()).unwrap();
        assert_eq!(from(&mut endpoints, "127.0.0.1:1"), ["127.0.0.2", "0.0.0.0"]);
        assert_eq!(from(&mut endpoints, "127.0.0.1:1"), ["127.0.0.2", "0.0.0.0"]);
        assert_eq!(endpoints.all.len(), 2);
    }

    /// Regression: a peer could make a node open a socket for each connection, which quinn kept as
    /// long as the peer liked.
    #[tokio::test]
    async fn sockets_for_one_dial_are_few() {
        let mut endpoints = Endpoints::default();
        let mut fresh = |n| endpoints.fresh(DialId(n), socket("127.0.0.1:4001")).is_some();
        assert!((0..FRESH as u64).all(&mut fresh));
        assert!(!fresh(99));
        endpoints.dialed(DialId(3));
        assert!(endpoints.fresh(DialId(99), socket("127.0.0.1:4001")).is_some());
        assert_eq!(endpoints.take().len(), FRESH);
    }
}
