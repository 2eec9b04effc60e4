//! A chat without a server. `cargo run --example chat -- NAME [ADDRESS]`: the first starts without
//! an address, the others give one that another prints. Each line of the input is sent to all.
//!
//! Newcomers get earlier messages as well: the pool keeps the latest thousand.

use std::time::{SystemTime, UNIX_EPOCH};

use tidegate::id::{ItemId, ItemKey, NetworkId, PoolIndex};
use tidegate::io::{Admission, Event};
use tidegate::rules::{ItemFacts, Rules};
use tidegate::{Builder, PoolSpec, accept_all};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const MESSAGES: PoolIndex = PoolIndex(0);

/// Milliseconds since 1970 in eight bytes, then a name and a text.
struct Chat;

impl Chat {
    fn write(name: &str, text: &str) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        [&(now.as_millis() as u64).to_be_bytes(), format!("{name}: {text}").as_bytes()].concat()
    }

    fn read(body: &[u8]) -> Option<(u64, &str)> {
        let (time, line) = body.split_first_chunk()?;
        Some((u64::from_be_bytes(*time), std::str::from_utf8(line).ok()?))
    }
}

impl Rules for Chat {
    fn id(&self) -> &str {
        "chat 1"
    }

    fn item(&self, pool: &str, body: &[u8]) -> Option<ItemFacts> {
        let (priority, _) = Self::read(body)?;
        let ItemId(key) = self.item_id(pool, body);
        Some(ItemFacts { key: ItemKey(key), priority, chain: None })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("chat NAME [ADDRESS]: say who you are")?;
    let mut messages = PoolSpec::new("messages");
    messages.max_item = 1000;
    messages.capacity = 1000;
    let mut builder =
        Builder::new(NetworkId::named("chat"), Chat, accept_all).pool(messages).listen_port(0);
    if let Some(address) = arguments.next() {
        // Other peers are learnt there, and the connection is made again when it is lost.
        builder = builder.bootstrap(&address.parse()?);
    }
    let (node, mut events) = builder.start()?;
    println!("* others join with this machine's address in place of 0.0.0.0:");
    println!("* chat NAME {}", node.addresses()[0]);
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = input.next_line() => {
                let Some(line) = line? else { break };
                let message = Chat::write(&name, &line);
                let fate = node.publish(MESSAGES, message, Admission::default())?.await?;
                println!("* {fate:?}");
            }
            event = events.next() => match event {
                Some(Event::ItemAdded { body, .. }) => {
                    if let Some((_, line)) = Chat::read(&body) {
                        println!("{line}");
                    }
                }
                Some(Event::PeerConnected { peer, .. }) => println!("* {peer} is there"),
                Some(Event::PeerDisconnected { peer, .. }) => println!("* {peer} has gone"),
                Some(_) => {}
                None => break,
            },
        }
    }
    // Announce it when the user leaves.
    node.shutdown().await;
    Ok(())
}
