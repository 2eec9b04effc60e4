//! Slow applications: slow validators, and readers that do not read events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate::id::{ConnectionId, DialId, PeerId};
use tidegate::io::{Admission, Connected, Direction, Event, Fate, Input, Subject};
use tidegate::transport::{Dial, Happening, ListenError, Transport};
use tidegate::wire::{Binding, Frame};
use tidegate::{Answer, Limits, Multiaddr};

use super::application::{By, GUARD, Gate, NOTES, Running, accept_all, note_id, within};

#[tokio::test]
async fn a_stuck_check_stops_neither_the_node_nor_other_checks() {
    for by in By::all() {
        let gate = Gate::default();
        let (mut alice, mut bob) = by.pair(gate.clone()).await;
        alice.publish("!stuck").await;
        within("the check", gate.waiting.notified()).await;
        // By default there are two workers: the other one goes on.
        for number in 0..200 {
            let note = format!("note {number}");
            alice.publish(&note).await;
            bob.has(&note).await;
        }
        let status = within("its status", bob.node.status()).await.unwrap();
        assert_eq!((status.pools["notes"].items, status.tickets), (200, 1));
        gate.open();
        bob.has("!stuck").await;
        // The other direction is not affected.
        bob.publish("back").await;
        alice.has("back").await;
    }
}

#[tokio::test]
async fn a_node_whose_only_worker_is_stuck_still_answers() {
    for by in By::all() {
        let gate = Gate::default();
        let mut alice = by.start(accept_all);
        let mut bob = Running::start(by.builder(gate.clone()).workers(1));
        alice.meet(&mut bob).await;
        alice.publish("!stuck").await;
        within("the check", gate.waiting.notified()).await;
        let notes: Vec<_> = (0..500).map(|number| format!("note {number}")).collect();
        for note in &notes {
            alice.publish(note).await;
        }
        // Bob's own items need no validation, and reach Alice.
        assert_eq!(bob.publish("own").await, Fate::Accepted);
        alice.has("own").await;
        let status = within("its status", bob.node.status()).await.unwrap();
        assert_eq!(status.pools["notes"].items, 1);
        // Twice as many questions as workers, and no more.
        assert!(status.tickets <= 2, "{} questions", status.tickets);
        gate.open();
        let mut missing = notes.len() + 1;
        while missing > 0 {
            let added = |event: &Event| {
                let own = note_id("own");
                matches!(event, Event::ItemAdded { id, .. } if *id != own)
            };
            bob.until(added).await;
            missing -= 1;
        }
        assert_eq!(bob.node.pool_ids(NOTES).await, alice.node.pool_ids(NOTES).await);
    }
}

#[tokio::test]
async fn a_node_shuts_down_while_a_check_is_stuck() {
    let gate = Gate::default();
    let (alice, bob) = By::memory().pair(gate.clone()).await;
    alice.publish("!stuck").await;
    within("the check", gate.waiting.notified()).await;
    within("the end", bob.node.shutdown()).await;
    gate.open();
}

#[tokio::test]
async fn a_validator_that_panics_has_ignored() {
    let validator = |subject: Subject, answer: Answer| match subject {
        Subject::Item { body, .. } if body.starts_with(b"?") => panic!("what is this?"),
        Subject::Item { body, .. } if body.starts_with(b".") => drop(answer),
        _ => answer.accept(Admission::default()),
    };
    let (alice, mut bob) = By::memory().pair(validator).await;
    // More questions than workers: none is lost.
    for number in 0..20 {
        alice.publish(&format!("?{number}")).await;
        alice.publish(&format!(".{number}")).await;
    }
    alice.publish("fine").await;
    bob.has("fine").await;
    assert_eq!(bob.node.pool_ids(NOTES).await.unwrap(), [note_id("fine")]);
}

#[tokio::test]
async fn unread_events_are_counted_and_the_node_goes_on() {
    const KEPT: usize = 1024;
    for by in By::all() {
        let (alice, mut bob) = by.pair(accept_all).await;
        let notes = KEPT + 500;
        for number in 0..notes {
            assert_eq!(alice.publish(&format!("note {number}")).await, Fate::Accepted);
        }
        // Bob gets them all although the events are not read.
        let arrive = async {
            while bob.node.status().await.unwrap().pools["notes"].items < notes {
                tokio::task::yield_now().await;
            }
        };
        within("all notes", arrive).await;
        for _ in 0..KEPT {
            let event = bob.events.try_next();
            assert!(matches!(event, Some(Event::ItemAdded { .. })), "{event:?}");
        }
        assert_eq!(bob.events.try_next(), Some(Event::Lagged((notes - KEPT) as u64)));
        assert_eq!(bob.events.try_next(), None);
        // From here on events are reported again.
        alice.publish("news").await;
        bob.has("news").await;
    }
}

/// A transport that has an event at every poll, about one connection whose peer never speaks.
struct Chatterbox {
    connected: bool,
    closed: Arc<AtomicBool>,
}

impl Transport for Chatterbox {
    fn handles(&self, _: &Multiaddr) -> bool {
        false
    }

    fn listen(&mut self, address: &Multiaddr) -> Result<(), ListenError> {
        Err(ListenError::Unsupported(address.clone()))
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        Vec::new()
    }

    fn dial(&mut self, _: Dial) {}

    fn cancel(&mut self, _: DialId) {}

    fn send(&mut self, _: ConnectionId, _: u32, _: Frame) {}

    fn open(&mut self, _: ConnectionId, _: u32) {}

    fn close(&mut self, _: ConnectionId) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Happening> {
        let connection = ConnectionId(u64::MAX);
        if std::mem::replace(&mut self.connected, true) {
            return Poll::Ready(Input::Writable { connection, channel: 0 }.into());
        }
        let connected = Connected::new(
            connection,
            PeerId([3; 32]),
            Direction::Inbound,
            tidegate::transport::to_core(&Multiaddr::empty()),
            Binding::Exporter([0; 32]),
        );
        Poll::Ready(Input::Connected(connected).into())
    }
}

/// On a single thread, a transport that is never idle must leave time for timers, messages and
/// other tasks.
#[test]
fn a_busy_transport_does_not_stop_the_clock() {
    let (told, done) = std::sync::mpsc::channel();
    // If the runtime's thread was stuck, none of its timers could end this test.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(beside_a_chatterbox());
        told.send(()).unwrap();
    });
    assert!(done.recv_timeout(GUARD).is_ok(), "the node hears nobody else, or has panicked");
}

async fn beside_a_chatterbox() {
    let closed = Arc::new(AtomicBool::new(false));
    let mut limits = Limits::default();
    limits.handshake_timeout = Duration::from_millis(50);
    let chatterbox = Chatterbox { connected: false, closed: closed.clone() };
    let node = By::memory().builder(accept_all).transport(|_| Ok(chatterbox)).limits(limits);
    let node = Running::start(node);
    while !closed.load(Ordering::Relaxed) {
        assert_eq!(node.node.status().await.unwrap().peers.len(), 0);
    }
    // The end of the connection is not acknowledged: shutdown must not wait for ever.
    node.node.shutdown().await;
}
