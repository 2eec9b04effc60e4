//! A minimal application, and nodes that run it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub(crate) use tidegate::accept_all;
use tidegate::id::{ItemId, ItemKey, NetworkId, PoolIndex};
use tidegate::io::{Admission, Event, Subject};
use tidegate::rules::{ItemFacts, Rules};
use tidegate::transport::memory::MemoryNetwork;
use tidegate::{Answer, Builder, Events, Identity, Multiaddr, Node, PoolSpec, Validator};
use tokio::sync::Notify;

/// The timeout of a test. Nothing waits for it unless the test fails.
pub(crate) const GUARD: Duration = Duration::from_secs(30);
pub(crate) const NETWORK: NetworkId = NetworkId([7; 32]);
pub(crate) const NOTES: PoolIndex = PoolIndex(0);

/// Notes: any text. The first byte is the priority.
pub(crate) struct Notes;

impl Rules for Notes {
    fn id(&self) -> &str {
        "notes 1"
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let priority = u64::from(*std::str::from_utf8(body).ok()?.as_bytes().first()?);
        Some(ItemFacts { key: ItemKey(self.item_id(pool, body).0), priority, chain: None })
    }
}

pub(crate) fn note_id(note: &str) -> ItemId {
    Notes.item_id("notes", note.as_bytes())
}

/// Blocks the validation of notes that begin with `!`, until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    open: Arc<(Mutex<bool>, Condvar)>,
    pub(crate) waiting: Arc<Notify>,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }
}

impl Validator for Gate {
    fn validate(&self, subject: Subject, answer: Answer) {
        let Subject::Item { body, .. } = subject else { panic!("there are items only") };
        if body.starts_with(b"!") {
            self.waiting.notify_one();
            let open = self.open.0.lock().unwrap();
            drop(self.open.1.wait_while(open, |open| !*open).unwrap());
        }
        answer.accept(Admission::default());
    }
}

/// A panicking test must not wait for its workers.
impl Drop for Gate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.open();
        }
    }
}

/// How nodes are connected.
pub(crate) enum By {
    Memory(MemoryNetwork),
    #[cfg(feature = "quic")]
    Quic,
    #[cfg(feature = "tcp")]
    Tcp,
}

impl By {
    pub(crate) fn all() -> Vec<Self> {
        vec![
            Self::memory(),
            #[cfg(feature = "quic")]
            Self::Quic,
            #[cfg(feature = "tcp")]
            Self::Tcp,
        ]
    }

    pub(crate) fn memory() -> Self {
        Self::Memory(MemoryNetwork::new())
    }

    /// A node that takes notes and listens.
    pub(crate) fn builder(&self, validator: impl Validator) -> Builder {
        let identity = Identity::generate().expect("randomness");
        let builder = Builder::new(NETWORK, Notes, validator).pool(PoolSpec::new("notes"));
        self.connect(builder, identity)
    }

    pub(crate) fn connect(&self, builder: Builder, identity: Identity) -> Builder {
        self.connect_at(builder, identity, self.anywhere())
    }

    /// A free address to listen at.
    pub(crate) fn anywhere(&self) -> Multiaddr {
        let anywhere = match self {
            Self::Memory(_) => "/memory/0",
            #[cfg(feature = "quic")]
            Self::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
            #[cfg(feature = "tcp")]
            Self::Tcp => "/ip4/127.0.0.1/tcp/0/tls",
        };
        anywhere.parse().expect("a multiaddr")
    }

    pub(crate) fn connect_at(
        &self,
        builder: Builder,
        identity: Identity,
        place: Multiaddr,
    ) -> Builder {
        // Tests decide which nodes are connected.
        let builder = builder.listen(place).outbound(0);
        match self {
            Self::Memory(network) => {
                let network = network.clone();
                let builder = builder.transport(move |setup| Ok(network.transport(setup)));
                builder.without_quic().identity(identity)
            }
            #[cfg(feature = "quic")]
            Self::Quic => builder.identity(identity),
            #[cfg(feature = "tcp")]
            Self::Tcp => {
                let tcp = |setup: &_| Ok(tidegate::transport::tcp::Tcp::new(setup)?);
                builder.transport(tcp).without_quic().identity(identity)
            }
        }
    }

    pub(crate) fn start(&self, validator: impl Validator) -> Running {
        Running::start(self.builder(validator))
    }

    /// Two connected nodes.
    pub(crate) async fn pair(&self, validator: impl Validator) -> (Running, Running) {
        let (mut alice, mut bob) = (self.start(accept_all), self.start(validator));
        alice.meet(&mut bob).await;
        (alice, bob)
    }
}

/// A node and its events.
pub(crate) struct Running {
    pub(crate) node: Node,
    pub(crate) events: Events,
}

impl Running {
    pub(crate) fn start(builder: Builder) -> Self {
        let (node, events) = builder.start().expect("a node");
        Self { node, events }
    }

    pub(crate) async fn meet(&mut self, other: &mut Self) {
        self.node.dial(&other.node.addresses()[0]).expect("a running node");
        self.connected(other.node.peer_id(), false).await;
        other.connected(self.node.peer_id(), true).await;
    }

    async fn connected(&mut self, expected: tidegate::id::PeerId, dialed_by_peer: bool) {
        let event = self.until(|event| matches!(event, Event::PeerConnected { .. })).await;
        let Event::PeerConnected { peer, inbound, .. } = event else { unreachable!() };
        assert_eq!((peer, inbound), (expected, dialed_by_peer));
    }

    /// The next event that matches.
    pub(crate) async fn until(&mut self, holds: impl Fn(&Event) -> bool) -> Event {
        let next = async {
            loop {
                let event = self.events.next().await.expect("a running node");
                if holds(&event) {
                    return event;
                }
            }
        };
        within("an event", next).await
    }

    /// Waits until a note is in the pool.
    pub(crate) async fn has(&mut self, note: &str) {
        let wanted = note_id(note);
        let added = |event: &Event| matches!(event, Event::ItemAdded { id, .. } if *id == wanted);
        let Event::ItemAdded { pool, id, body } = self.until(added).await else { unreachable!() };
        assert_eq!(body, note);
        let item = self.node.item(pool, id).await.expect("a running node").expect("it is there");
        assert_eq!((item.id, item.body), (id, body));
    }

    pub(crate) async fn publish(&self, note: &str) -> tidegate::io::Fate {
        let publishing = self.node.publish(NOTES, note.to_owned(), Admission::default());
        within("a fate", publishing.expect("a place")).await.expect("a running node")
    }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(GUARD, future).await;
    done.unwrap_or_else(|_| panic!("{what}: not within {GUARD:?}"))
}
