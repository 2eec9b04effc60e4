//! The smallest node: `cargo run --example minimal`, and in another terminal the same with the
//! address that it prints. Each publishes a note, and prints what happens.

use tidegate::id::{NetworkId, PoolIndex};
use tidegate::io::Admission;
use tidegate::rules::Plain;
use tidegate::{Builder, PoolSpec, accept_all};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (node, mut events) =
        Builder::new(NetworkId::named("minimal"), Plain::new("notes 1"), accept_all)
            .pool(PoolSpec::new("notes"))
            .listen("/ip4/127.0.0.1/udp/0/quic-v1".parse()?)
            .start()?;
    println!("listening on {}", node.addresses()[0]);
    if let Some(address) = std::env::args().nth(1) {
        node.dial(&address.parse()?)?;
    }
    let note = format!("a note by {}", node.peer_id());
    node.publish(PoolIndex(0), note, Admission::default())?.await?;
    while let Some(event) = events.next().await {
        println!("{event:?}");
    }
    Ok(())
}
