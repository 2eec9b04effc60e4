//! Sets up and starts a node.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
#[cfg(feature = "quic")]
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use multiaddr::{Multiaddr, Protocol};
use tidegate_proto::config::{ConfigError, StaticPeer};
#[cfg(feature = "store")]
use tidegate_proto::id::Ticket;
use tidegate_proto::id::{NetworkId, PeerId};
use tidegate_proto::recording::{Recorder, Start};
use tidegate_proto::rules::Rules;
use tidegate_proto::{Config, Limits, MaybeSend, Node as Core, PoolSpec, Scope, Time};
use tokio::sync::mpsc::unbounded_channel;

#[cfg(feature = "store")]
use crate::driver::Kept;
use crate::driver::{Driver, Mailbox, Message};
use crate::identity::{Identity, IdentityError};
use crate::log::Log;
use crate::node::{Addresses, Events, Node, Shared};
use crate::reach::{Reach, accepted_at};
use crate::rt::{self, Clock};
#[cfg(feature = "store")]
use crate::store::{Keeper, Store, StoreError};
use crate::transport::{
    ListenError, Setup, Transport, TransportError, from_core, is_unspecified, split_peer, to_core,
    with_peer,
};
use crate::validator::{Validator, Workers};

/// The settings of a node, with which it is started. Begin with [`Builder::new`].
pub struct Builder {
    config: Config,
    rules: Box<dyn Rules>,
    validator: Arc<dyn Validator>,
    identity: Option<Identity>,
    /// Makers of transports, and the transports made so far.
    factories: Vec<Box<dyn Factory>>,
    transports: Vec<Box<dyn Transport>>,
    listen: Vec<Multiaddr>,
    /// Listen on this port of all interfaces.
    #[cfg(feature = "quic")]
    port: Option<u16>,
    external: Vec<Multiaddr>,
    recording: Option<PathBuf>,
    /// The identity, once the node listens.
    bound: Option<Identity>,
    #[cfg(feature = "store")]
    store: Option<Store>,
    quic: bool,
}

/// Makes a transport.
trait Factory: MaybeSend {
    fn make(self: Box<Self>, setup: &Setup) -> Result<Box<dyn Transport>, TransportError>;
}

impl<F> Factory for F
where
    F: FnOnce(&Setup) -> Result<Box<dyn Transport>, TransportError> + MaybeSend,
{
    fn make(self: Box<Self>, setup: &Setup) -> Result<Box<dyn Transport>, TransportError> {
        self(setup)
    }
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The identity could not be loaded or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Listening failed.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An external address at which peers could not dial this node.
    #[error(
        "external {address}: {why}: give an IP address of this node that others reach, like \
         /ip4/192.0.2.1/udp/4001/quic-v1"
    )]
    NotReachable {
        /// The address.
        address: Multiaddr,
        /// The reason.
        why: &'static str,
    },
    /// No transport of the node can dial the address given for a peer.
    #[error(
        "{0}: cannot be dialed: give an address of the peer, like /ip4/192.0.2.1/udp/4001/quic-v1"
    )]
    NotDialable(Multiaddr),
    /// A transport connects by offers, and this build cannot seal them.
    #[error("a transport connects by offers: build tidegate with the feature `offers`")]
    NoOffers,
    /// QUIC is not available.
    #[cfg(feature = "quic")]
    #[error(transparent)]
    Tls(#[from] crate::transport::quic::TlsError),
    /// The recording cannot be written.
    #[error("{}: {source}", path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// The store could not be used.
    #[cfg(feature = "store")]
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A transport could not be made.
    #[error("a transport cannot be set up: {0}")]
    Transport(#[source] TransportError),
    /// The operating system provides no threads or no randomness.
    #[error("the operating system refuses: {0}")]
    System(String),
}

impl Builder {
    /// A node of a network, with the application's rules and its validator.
    ///
    /// Unless told otherwise it has a new identity, dials by QUIC, accepts no connections, and has
    /// no pools and no blocks.
    pub fn new(network: NetworkId, rules: impl Rules + 'static, validator: impl Validator) -> Self {
        Self {
            config: Config::new(PeerId([0; 32]), network),
            rules: Box::new(rules),
            validator: Arc::new(validator),
            identity: None,
            factories: Vec::new(),
            transports: Vec::new(),
            listen: Vec::new(),
            #[cfg(feature = "quic")]
            port: None,
            external: Vec::new(),
            recording: None,
            bound: None,
            #[cfg(feature = "store")]
            store: None,
            quic: true,
        }
    }

    /// Sets the node's identity.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Adds a pool. Pools are numbered in the order of these calls.
    pub fn pool(mut self, spec: PoolSpec) -> Self {
        self.config.pools.push(spec);
        self
    }

    /// Sets the header of the first block: with it the node has a tip and blocks.
    pub fn genesis(mut self, header: impl Into<Bytes>) -> Self {
        self.config.genesis = Some(header.into());
        self
    }

    /// Listens by QUIC on a UDP port of all interfaces, over IPv4 and IPv6 if the machine has both.
    /// With 0 the system chooses the port. Peers are told the addresses of the interfaces.
    #[cfg(feature = "quic")]
    pub fn listen_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Listens at an address, for instance `/ip4/0.0.0.0/udp/4001/quic-v1`. For "any interface",
    /// peers are told the addresses of the interfaces.
    pub fn listen(mut self, address: Multiaddr) -> Self {
        self.listen.push(address);
        self
    }

    /// A transport besides QUIC. It is made when the node is bound or started, for the identity and the limits that
    /// are set by then:
    ///
    /// ```
    /// # fn with_memory(builder: tidegate::Builder) -> tidegate::Builder {
    /// let network = tidegate::transport::memory::MemoryNetwork::new();
    /// builder.transport(move |setup| Ok(network.transport(setup)))
    /// # }
    /// ```
    pub fn transport<T: Transport>(
        mut self,
        factory: impl FnOnce(&Setup) -> Result<T, TransportError> + MaybeSend + 'static,
    ) -> Self {
        self.factories
            .push(Box::new(|setup: &Setup| Ok(Box::new(factory(setup)?) as Box<dyn Transport>)));
        self
    }

    /// Disables QUIC.
    pub fn without_quic(mut self) -> Self {
        self.quic = false;
        self
    }

    /// How many questions of one kind (items of one pool, or headers and blocks) the validator
    /// works on at a time; 2 by default. Each kind has a thread of its own, and all kinds share the
    /// others.
    pub fn workers(mut self, workers: u32) -> Self {
        self.config.workers = workers;
        self
    }

    /// Stays connected to a peer: dials it when the node starts, and again whenever the connection
    /// is lost. With `/p2p/…` at the end of the address, only that identity is accepted.
    pub fn peer(mut self, address: &Multiaddr) -> Self {
        let (address, peer) = split_peer(address.clone());
        let address = to_core(&address);
        self.config.static_peers.push(StaticPeer { address, peer });
        self
    }

    /// Learns of other peers at an address when no known peer can be reached. With `/p2p/…` at the
    /// end of the address, only that identity is accepted.
    pub fn bootstrap(mut self, address: &Multiaddr) -> Self {
        let (address, peer) = split_peer(address.clone());
        self.config.bootstrap.push(StaticPeer { address: to_core(&address), peer });
        self
    }

    /// How many outbound connections the node keeps to peers of its own choice, 8 by default. With
    /// 0 it learns of no peers: a closed network of those named by [`Builder::peer`].
    pub fn outbound(mut self, peers: u32) -> Self {
        self.config.outbound = peers;
        self
    }

    /// Adds an address at which others can reach the node beside its listeners, for instance that
    /// of a router which forwards a port. Peers must be able to dial it: it needs an IP address,
    /// with a port, of a transport of this node.
    pub fn external(mut self, address: Multiaddr) -> Self {
        self.external.push(address);
        self
    }

    /// Keeps what must survive a restart in a store. The application should begin with what it has
    /// [`Saved`](crate::Saved) there.
    #[cfg(feature = "store")]
    pub fn store(mut self, store: Store) -> Self {
        self.store = Some(store);
        self
    }

    /// Allows connections only with these peers.
    pub fn allow(mut self, peers: impl IntoIterator<Item = PeerId>) -> Self {
        self.config.allow.get_or_insert_default().extend(peers);
        self
    }

    /// Sets the application's name and version, for other operators to read.
    pub fn client(mut self, client: impl Into<String>) -> Self {
        self.config.client = client.into();
        self
    }

    /// Sets the limits on what peers can make the node cost.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Records all inputs of the core in a file, from which the run can be replayed. It contains no
    /// key, but everything that the node receives.
    pub fn record(mut self, path: impl Into<PathBuf>) -> Self {
        self.recording = Some(path.into());
        self
    }

    /// Checks the configuration and starts listening, without starting the node: so an application
    /// knows that it will start before it opens its own data. Must be called within a tokio
    /// runtime, and after all other settings but [`Builder::store`].
    pub fn bind(mut self) -> Result<Self, StartError> {
        self.bound = Some(self.listen_now()?);
        Ok(self)
    }

    fn listen_now(&mut self) -> Result<Identity, StartError> {
        let identity = match self.identity.take() {
            Some(identity) => identity,
            None => Identity::generate()?,
        };
        self.config.peer = identity.peer_id();
        self.config.validate()?;
        let setup = Setup::new(identity.clone(), self.config.limits.clone());
        for factory in std::mem::take(&mut self.factories) {
            self.transports.push(factory.make(&setup).map_err(StartError::Transport)?);
        }
        #[cfg(feature = "quic")]
        if self.quic {
            self.transports.push(Box::new(crate::transport::quic::Quic::new(&setup)?));
        }
        let peer = self.config.peer;
        let external = std::mem::take(&mut self.external).into_iter();
        let external = external.map(|address| reachable(address, peer, &self.transports));
        self.external = external.collect::<Result<_, _>>()?;
        #[cfg(feature = "quic")]
        self.listen_at_port()?;
        for given in &self.listen {
            // The address as printed, to be given to others.
            let (address, named) = split_peer(given.clone());
            let own = named.is_none_or(|named| named == peer);
            let transport = self.transports.iter_mut().find(|t| own && t.handles(&address));
            let transport = transport.ok_or_else(|| ListenError::Unsupported(given.clone()))?;
            transport.listen(&address)?;
        }
        for named in self.config.bootstrap.iter().chain(&self.config.static_peers) {
            let Some(address) = from_core(&named.address) else { continue };
            let dials = self.transports.iter().any(|transport| transport.handles(&address));
            if !dials || is_nowhere(&address) {
                return Err(StartError::NotDialable(address));
            }
        }
        Ok(identity)
    }

    /// Listens on the port of all interfaces, if one is set. A machine may lack one of the address
    /// families.
    #[cfg(feature = "quic")]
    fn listen_at_port(&mut self) -> Result<(), ListenError> {
        let Some(mut port) = self.port else { return Ok(()) };
        let mut bound_any = false;
        let mut last = None;
        let own = rt::interfaces();
        let has_family = |ip: IpAddr| {
            own.as_ref().is_none_or(|own| own.iter().any(|own| own.is_ipv4() == ip.is_ipv4()))
        };
        for ip in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            let at = |port| Multiaddr::from(ip).with(Protocol::Udp(port)).with(Protocol::QuicV1);
            let address = at(port);
            let transport = self.transports.iter_mut().find(|t| t.handles(&address));
            let transport = transport.ok_or_else(|| ListenError::Unsupported(address.clone()))?;
            let mut bound = transport.listen(&address);
            // A port that the system chose for one family may be taken in the other: try again.
            if self.port == Some(0) && port != 0 && bound.is_err() {
                bound = transport.listen(&at(0));
            }
            match bound {
                Ok(()) => {
                    port = transport.addresses().last().and_then(port_of).unwrap_or(port);
                    bound_any = true;
                }
                Err(ListenError::Io { source, .. }) if !has_family(ip) => {
                    tracing::debug!("{address}: this machine has no such addresses: {source}");
                    last = Some(ListenError::Io { address, source });
                }
                Err(error) => return Err(error),
            }
        }
        match last {
            Some(error) if !bound_any => Err(error),
            _ => Ok(()),
        }
    }

    /// Starts the node. Must be called within a tokio runtime.
    pub fn start(mut self) -> Result<(Node, Events), StartError> {
        let identity = match self.bound.take() {
            Some(identity) => identity,
            None => self.listen_now()?,
        };
        let accepted = accepted_at(&self.transports);
        let addresses = Addresses::default();
        addresses.set(accepted.clone(), self.config.peer);
        #[cfg(feature = "store")]
        let store = self.store.take().map(Arc::new);
        // Higher than any number signed before, even if the store was lost or there is none.
        self.config.record_sequence = rt::unix_ms();
        #[cfg(feature = "store")]
        if let Some(store) = &store {
            let pools = self.config.pools.iter().map(|pool| pool.name.clone()).collect::<Vec<_>>();
            store.is_for(self.config.network, self.config.genesis.as_ref(), &pools)?;
            self.config.store = true;
            self.config.chain = store.headers(u64::from(self.config.limits.blocks_kept))?;
            self.config.peer_book = store.book()?;
            self.config.record_sequence = store.record_sequence(rt::unix_ms())?;
        }
        if self.transports.iter().any(|transport| transport.takes_offers()) {
            self.config.sealing = Some(identity.sealing_key().ok_or(StartError::NoOffers)?);
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| StartError::System(error.to_string()))?;
        let config = self.config.clone();
        let recorder = self.recorder(seed)?;
        let core = Core::new(self.config, self.rules, seed, Time::ZERO)?;
        let workers = Workers::start(config.workers, config.pools.len(), &self.validator)
            .map_err(|error| StartError::System(error.to_string()))?;
        let (sender, messages) = unbounded_channel();
        let mailbox = Arc::new(Mailbox::default());
        let events = Events { mailbox: mailbox.clone(), node: sender.downgrade() };
        let reach = Reach::new(&accepted, &self.external, &self.transports);
        // The receiver still exists, so this cannot fail.
        let _ = sender.send(Message::Command(reach.command()));
        let failure = Arc::new(std::sync::OnceLock::new());
        #[cfg(feature = "store")]
        let keeper = match store {
            None => None,
            Some(store) => {
                let items = store.published()?.into_iter();
                // Far from the core's own tickets, which begin at 0.
                let tickets = (0..).map(|n| Ticket(u64::MAX - n));
                let keeper = Keeper::start(store, sender.downgrade())
                    .map_err(|error| StartError::System(error.to_string()))?;
                Some(Kept {
                    keeper,
                    restoring: tickets.zip(items).collect(),
                    book: core.peer_book_revision(),
                    book_at: Time::ZERO,
                })
            }
        };
        let driver = Driver {
            core,
            transports: self.transports,
            addresses: addresses.clone(),
            reach,
            flushes: crate::flush::Flushes::default(),
            workers,
            messages,
            sender: sender.downgrade(),
            mailbox,
            recorder,
            #[cfg(feature = "store")]
            keeper,
            log: Log::default(),
            clock: Clock::start(),
            routes: BTreeMap::new(),
            dials: BTreeMap::new(),
            fates: BTreeMap::new(),
            requests: 0,
            leaving: None,
            failure: failure.clone(),
            turn: 0,
            identity,
        };
        rt::spawn(driver.run());
        let peer = config.peer;
        let publishing = Arc::new(AtomicUsize::new(0));
        let shared = Shared { driver: sender, peer, addresses, publishing, failure };
        Ok((Node { shared: Arc::new(shared) }, events))
    }

    fn recorder(&self, seed: [u8; 32]) -> Result<Option<Recorder>, StartError> {
        let Some(path) = &self.recording else { return Ok(None) };
        let failed = |source| StartError::Recording { path: path.clone(), source };
        let file: Box<dyn Write + Send> =
            Box::new(BufWriter::new(File::create(path).map_err(failed)?));
        let start = Start {
            config: self.config.clone(),
            seed,
            build: concat!("tidegate ", env!("CARGO_PKG_VERSION")).to_owned(),
            rules: self.rules.id().to_owned(),
            at: Time::ZERO,
        };
        Recorder::new(file, &start).map(Some).map_err(failed)
    }
}

/// Whether an address cannot be dialed from anywhere.
fn is_nowhere(address: &Multiaddr) -> bool {
    is_unspecified(address)
        || match address.iter().next() {
            Some(Protocol::Ip4(ip)) => ip.is_multicast() || ip.is_broadcast(),
            Some(Protocol::Ip6(ip)) => ip.is_multicast(),
            _ => false,
        }
}

fn port_of(address: &Multiaddr) -> Option<u16> {
    address.iter().find_map(|part| match part {
        Protocol::Udp(port) | Protocol::Tcp(port) => Some(port),
        _ => None,
    })
}

/// Checks an external address: peers must be able to dial this node there.
fn reachable(
    address: Multiaddr,
    own: PeerId,
    transports: &[Box<dyn Transport>],
) -> Result<Multiaddr, StartError> {
    let (address, peer) = split_peer(address);
    let is_name = matches!(
        address.iter().next(),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_))
    );
    let why = if peer.is_some_and(|peer| peer != own) {
        "it names another peer"
    } else if is_name {
        "others are not told names, which could lead anywhere"
    } else if !transports.iter().any(|transport| transport.handles(&address)) {
        "no transport of this node accepts connections at such an address"
    } else if port_of(&address) == Some(0) {
        "nobody can be dialed at port 0"
    } else if to_core(&address).scope() == Scope::None {
        "nobody can be dialed at an address of this kind"
    } else {
        return Ok(address);
    };
    Err(StartError::NotReachable { address: with_optional_peer(address, peer), why })
}

fn with_optional_peer(address: Multiaddr, peer: Option<PeerId>) -> Multiaddr {
    match peer {
        Some(peer) => with_peer(address, peer),
        None => address,
    }
}
