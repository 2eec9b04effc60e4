//! A mempool shared by several nodes: signed transactions, of which those with the highest fees are
//! kept. `cargo run --example mempool` starts three nodes, publishes at each, and shows that all
//! end up with the same content, in whatever order they received it.

use std::time::Duration;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use tidegate::id::{ItemId, ItemKey, NetworkId, PoolIndex};
use tidegate::io::{Admission, Fate, Subject};
use tidegate::rules::{ItemFacts, Rules};
use tidegate::{Answer, Builder, Events, Node, PoolSpec};

const POOL: PoolIndex = PoolIndex(0);
/// The pool's capacity.
const CAPACITY: u64 = 100;
/// How many each node publishes.
const EACH: u64 = 60;

/// The sender's public key (32 bytes), the fee (8), a number (8), and the signature (64).
struct Transactions;

const SIGNED: usize = 48;

fn transaction(from: &SigningKey, fee: u64, number: u64) -> Vec<u8> {
    let mut body = from.verifying_key().to_bytes().to_vec();
    body.extend(fee.to_be_bytes());
    body.extend(number.to_be_bytes());
    body.extend(from.sign(&body).to_bytes());
    body
}

fn fee(body: &[u8]) -> u64 {
    body[32..40].try_into().map_or(0, u64::from_be_bytes)
}

impl Rules for Transactions {
    fn id(&self) -> &str {
        "transactions 1"
    }

    // Pure facts: what the bytes claim, not whether it is true.
    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let ItemId(key) = self.item_id(pool, body);
        let facts = || ItemFacts { key: ItemKey(key), priority: fee(body), chain: None };
        (body.len() == SIGNED + 64).then(facts)
    }
}

/// Checks the claim. A bad signature proves misbehaviour: the peer that sent it is banned.
fn check(subject: Subject, answer: Answer) {
    let Subject::Item { body, .. } = subject else { return answer.ignore() };
    match is_signed(&body) {
        Some(true) => answer.accept(Admission::default()),
        _ => answer.reject(),
    }
}

fn is_signed(body: &[u8]) -> Option<bool> {
    let key = VerifyingKey::from_bytes(body.get(..32)?.try_into().ok()?).ok()?;
    let signature = Signature::from_slice(body.get(SIGNED..)?).ok()?;
    Some(key.verify_strict(&body[..SIGNED], &signature).is_ok())
}

fn start() -> Result<(Node, Events), Box<dyn std::error::Error>> {
    let mut pool = PoolSpec::new("transactions");
    pool.capacity = CAPACITY;
    let started = Builder::new(NetworkId::named("mempool"), Transactions, check)
        .pool(pool)
        .listen("/ip4/127.0.0.1/udp/0/quic-v1".parse()?)
        .start()?;
    Ok(started)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let members = [start()?, start()?, start()?];
    // The first and the third are not connected yet: items of one reach the other through the
    // second.
    members[0].0.dial(&members[1].0.addresses()[0])?;
    members[1].0.dial(&members[2].0.addresses()[0])?;
    for (n, (node, _)) in (0..).zip(&members) {
        let key = SigningKey::from_bytes(&[n + 1; 32]);
        for number in 0..EACH {
            let fee = (number * 7919 + u64::from(n) * 104_729) % 1000;
            let body = transaction(&key, fee, number);
            match node.publish(POOL, body, Admission::default())?.await? {
                Fate::Accepted | Fate::Full { .. } => {}
                fate => return Err(format!("{fate:?}").into()),
            }
        }
    }
    loop {
        let mut pools = Vec::new();
        for (node, _) in &members {
            pools.push(node.pool_ids(POOL).await?);
        }
        if pools[0].len() as u64 == CAPACITY && pools.windows(2).all(|two| two[0] == two[1]) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{} transactions, the same {CAPACITY} in each pool; the best:", 3 * EACH);
    for item in members[2].0.pool(POOL, 5).await? {
        println!("  fee {:3}  {}", fee(&item.body), item.id);
    }
    Ok(())
}
