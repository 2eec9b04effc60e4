//! Sharing of workers between pools, and of places between peers.

use tidegate::id::PoolIndex;
use tidegate::io::{Admission, Event, Fate, Subject};
use tidegate::wire::{Grant, Refusal};
use tidegate::{Answer, Builder, Identity, Limits, PoolSpec, Validator};

use super::application::{By, Gate, NETWORK, NOTES, Notes, Running, accept_all, within};

const OTHERS: PoolIndex = PoolIndex(1);

/// More than workers and tickets.
const NOTES_AT_ONCE: u32 = 50;

/// Two nodes with two pools. Bob validates items.
async fn pair(by: &By, gate: &Gate) -> (Running, Running) {
    let mut notes = PoolSpec::new("notes");
    notes.grant = Grant { announcements: NOTES_AT_ONCE, bodies: NOTES_AT_ONCE, ..notes.grant };
    let identity = || Identity::generate().expect("randomness");
    let builder = |validator: Box<dyn Validator>| {
        let validator = move |subject: Subject, answer: Answer| validator.validate(subject, answer);
        let builder = Builder::new(NETWORK, Notes, validator);
        let builder = builder.pool(notes.clone()).pool(PoolSpec::new("others"));
        Running::start(by.connect(builder, identity()))
    };
    let mut alice = builder(Box::new(accept_all));
    let mut bob = builder(Box::new(gate.clone()));
    alice.meet(&mut bob).await;
    (alice, bob)
}

async fn publish(from: &Running, pool: PoolIndex, text: String) {
    let publishing = from.node.publish(pool, text, Admission::default()).expect("a place");
    assert_eq!(within("a fate", publishing).await, Ok(Fate::Accepted));
}

/// Waits until this many of a pool's permits are outstanding at a node's peers.
async fn given(node: &Running, pool: &str, permits: usize) {
    let given = async {
        while node.node.status().await.unwrap().peers[0].permits[pool].given < permits {
            tokio::task::yield_now().await;
        }
    };
    within("permits", given).await;
}

#[tokio::test]
async fn a_pool_whose_permits_are_out_does_not_stop_another() {
    for by in By::all() {
        let gate = Gate::default();
        let (alice, mut bob) = pair(&by, &gate).await;
        for number in 0..100 {
            publish(&alice, NOTES, format!("!note {number}")).await;
        }
        given(&bob, "notes", 2 * NOTES_AT_ONCE as usize).await;
        for number in 0..200 {
            publish(&alice, OTHERS, format!("other {number}")).await;
            let added = |event: &Event| matches!(event, Event::ItemAdded { pool: OTHERS, .. });
            bob.until(added).await;
        }
        let status = within("its status", bob.node.status()).await.unwrap();
        assert_eq!((status.pools["notes"].items, status.pools["others"].items), (0, 200));
        gate.open();
        let note = |event: &Event| matches!(event, Event::ItemAdded { pool: NOTES, .. });
        for _ in 0..100 {
            bob.until(note).await;
        }
    }
}

/// Dials until it is told why it is refused.
async fn refused(stranger: &mut Running, by: &Running) -> Refusal {
    loop {
        stranger.node.dial(&by.node.addresses()[0]).expect("a running node");
        let told =
            |event: &Event| matches!(event, Event::Refused { .. } | Event::DialFailed { .. });
        // On a busy machine a dial may time out.
        if let Event::Refused { by_us: false, refusal, .. } = stranger.until(told).await {
            return refusal;
        }
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_others_go_on() {
    for by in By::all() {
        let mut limits = Limits::default();
        limits.max_inbound = 2;
        let mut middle = Running::start(by.builder(accept_all).limits(limits));
        let (mut alice, mut bob) = (by.start(accept_all), by.start(accept_all));
        alice.meet(&mut middle).await;
        bob.meet(&mut middle).await;
        for batch in 0..5 {
            let start = |_| Running::start(by.builder(accept_all).workers(1));
            let mut strangers: Vec<_> = (0..20).map(start).collect();
            let refusals = strangers.iter_mut().map(|stranger| refused(stranger, &middle));
            for refusal in futures_util::future::join_all(refusals).await {
                assert!(matches!(refusal, Refusal::Full(_)), "{refusal:?}");
            }
            let note = format!("note {batch}");
            alice.publish(&note).await;
            bob.has(&note).await;
        }
        let connected = within("its status", middle.node.status()).await.unwrap().peers.len();
        assert_eq!(connected, 2);
        let cut = |event: &Event| matches!(event, Event::PeerDisconnected { .. });
        let told = std::iter::from_fn(|| alice.events.try_next()).filter(cut).count();
        assert_eq!(told, 0);
    }
}
