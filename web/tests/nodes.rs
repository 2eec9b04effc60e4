//! What a node is made of, in an event loop of JavaScript and with what cannot go to another thread:
//! the core, and a transport that the seam of `tidegate` takes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use tidegate::id::{ConnectionId, DialId, ItemKey, NetworkId, PoolIndex};
use tidegate::io::{Admission, Command, Event, Output, Subject, Verdict};
use tidegate::rules::{ItemFacts, Rules};
use tidegate::transport::memory::{Memory, MemoryNetwork};
use tidegate::transport::{Dial, Happening, ListenError, Setup, Transport, from_core, to_core};
use tidegate::wire::Frame;
use tidegate::{Answer, Builder, Config, Identity, Limits, Multiaddr, PoolSpec};
use tidegate_proto::{Node as Core, Time};
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use wasm_bindgen_test::wasm_bindgen_test;

const NETWORK: NetworkId = NetworkId([7; 32]);
const NOTES: PoolIndex = PoolIndex(0);
/// After this time a test has failed. Nothing waits for it when all goes well.
const GUARD: Duration = Duration::from_secs(30);

/// Any text. It belongs to this thread, as JavaScript's values do.
struct Notes(Rc<str>);

impl Rules for Notes {
    fn id(&self) -> &str {
        &self.0
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let key = ItemKey(self.item_id(pool, body).0);
        std::str::from_utf8(body).ok().map(|_| ItemFacts { key, priority: 1, chain: None })
    }
}

/// A transport that belongs to this thread.
struct Local(Rc<RefCell<Memory>>);

impl Local {
    fn new(network: &MemoryNetwork, setup: &Setup) -> Self {
        Self(Rc::new(RefCell::new(network.transport(setup))))
    }
}

impl Transport for Local {
    fn handles(&self, address: &Multiaddr) -> bool {
        self.0.borrow().handles(address)
    }

    fn listen(&mut self, address: &Multiaddr) -> Result<(), ListenError> {
        self.0.borrow_mut().listen(address)
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        self.0.borrow().addresses()
    }

    fn dial(&mut self, dial: Dial) {
        self.0.borrow_mut().dial(dial);
    }

    fn cancel(&mut self, dial: DialId) {
        self.0.borrow_mut().cancel(dial);
    }

    fn send(&mut self, connection: ConnectionId, channel: u32, frame: Frame) {
        self.0.borrow_mut().send(connection, channel, frame);
    }

    fn open(&mut self, connection: ConnectionId, channel: u32) {
        self.0.borrow_mut().open(connection, channel);
    }

    fn close(&mut self, connection: ConnectionId) {
        self.0.borrow_mut().close(connection);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        self.0.borrow_mut().poll(cx)
    }
}

fn address(text: &str) -> Multiaddr {
    text.parse().expect("a multiaddr")
}

/// That this compiles is most of it: natively none of the three would be taken.
#[wasm_bindgen_test]
fn a_node_is_made_of_what_belongs_to_one_thread() {
    let (network, asked) = (MemoryNetwork::new(), Rc::new(Cell::new(0)));
    let below = network.clone();
    let validator = move |_: Subject, answer: Answer| {
        asked.set(asked.get() + 1);
        answer.accept(Admission::default());
    };
    let node = Builder::new(NETWORK, Notes("notes 1".into()), validator)
        .transport(move |setup| Ok(Local::new(&below, setup)))
        .listen(address("/memory/1"));
    let _node = node.bind().expect("the browser's randomness, and the address");
    let mut other = network.transport(&setup(2));
    assert!(other.listen(&address("/memory/1")).is_err(), "the node listens there");
}

fn setup(seed: u8) -> Setup {
    Setup::new(Identity::from_seed(&[seed; 32]), Limits::default())
}

fn now() -> Time {
    Time::ZERO + Duration::from_millis(js_sys::Date::now() as u64)
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(then: &js_sys::Function, milliseconds: i32);
}

async fn sleep(time: Duration) {
    // Never too early, by less than a millisecond.
    let milliseconds = i32::try_from(time.as_millis() + 1).unwrap_or(i32::MAX);
    let over = js_sys::Promise::new(&mut |resolve, _| set_timeout(&resolve, milliseconds));
    JsFuture::from(over).await.expect("nothing rejects it");
}

/// A core with its transport, as `tidegate` has it where there is tokio's clock.
struct Node {
    core: Core,
    transport: Local,
    identity: Identity,
}

impl Node {
    fn new(network: &MemoryNetwork, seed: u8) -> Self {
        let setup = setup(seed);
        let mut config = Config::new(setup.identity.peer_id(), NETWORK);
        config.pools.push(PoolSpec::new("notes"));
        let rules = Box::new(Notes("notes 1".into()));
        let core = Core::new(config, rules, [seed; 32], now()).expect("the configuration is valid");
        Self { core, transport: Local::new(network, &setup), identity: setup.identity }
    }

    /// Runs until what is awaited happens.
    async fn until(mut self, awaited: impl Fn(&Event) -> bool) {
        loop {
            while let Some(output) = self.core.poll_output() {
                match output {
                    Output::Event(event) if awaited(&event) => return,
                    output => self.act(output),
                }
            }
            let due = self.core.poll_timeout().map(|(at, _)| at.since(now()));
            let due = pin!(sleep(due.unwrap_or(Duration::MAX)));
            match select(poll_fn(|cx| self.transport.poll(cx)), due).await {
                Either::Left((Happening::Input(input), _)) => self.core.handle_input(now(), input),
                Either::Left(_) => {}
                Either::Right(_) => self.core.handle_timeout(now()),
            }
        }
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::Dial { dial, address, .. } => {
                self.transport.dial(Dial::new(dial, from_core(&address).expect("one of ours")));
            }
            Output::Cancel { dial } => self.transport.cancel(dial),
            Output::Frame { connection, channel, frame } => {
                self.transport.send(connection, channel, frame);
            }
            Output::Open { connection, channel } => self.transport.open(connection, channel),
            Output::Close { connection } => self.transport.close(connection),
            Output::Sign { request, payload } => {
                let signature = self.identity.sign(&payload);
                self.core.handle_command(now(), Command::Signature { request, signature });
            }
            Output::Verify { ticket, .. } => {
                let verdict = Verdict::Accept(Admission::default());
                self.core.handle_command(now(), Command::Verdict { ticket, verdict });
            }
            _ => {}
        }
    }
}

#[wasm_bindgen_test]
async fn an_item_goes_from_one_node_to_another() {
    let network = MemoryNetwork::new();
    let (mut alice, mut bob) = (Node::new(&network, 1), Node::new(&network, 2));
    bob.transport.listen(&address("/memory/2")).expect("it is free");
    let dial = Command::Dial { address: to_core(&address("/memory/2")), peer: None };
    alice.core.handle_command(now(), dial);
    let (body, admission) = (Bytes::from("high tide at nine"), Admission::default());
    let publish = Command::Publish { request: 1, pool: NOTES, body: body.clone(), admission };
    alice.core.handle_command(now(), publish);
    spawn_local(alice.until(|_| false));
    let is_it = |event: &Event| matches!(event, Event::ItemAdded { body: got, .. } if *got == body);
    let found = pin!(bob.until(is_it));
    let late = pin!(sleep(GUARD));
    assert!(matches!(select(found, late).await, Either::Left(_)), "it does not come");
}
