//! Peers that complete the TLS handshake and then misbehave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection, Endpoint, SendStream};
use tidegate::wire::{Binding, ControlMessage, Encode as _, Hello, MAX_FRAME};

use super::attack::Done;
use crate::items::NETWORK;
use crate::raw::{endpoint, good_client};

/// Their shared sockets.
const SOCKETS: usize = 16;
/// Peers that send garbage, each with one connection at a time.
const SENDERS: usize = 32;
/// Bytes that each of them would send if it was not stopped.
const FLOOD: usize = 1 << 20;

/// What they do after the TLS handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Say hello, and reconnect when they are refused.
    Beyond,
    /// Send invalid frames or messages, and reconnect with another identity.
    Garbage,
    /// Stay silent.
    Silence,
}

impl Conduct {
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "beyond" => Self::Beyond,
            "garbage" => Self::Garbage,
            "silence" => Self::Silence,
            other => panic!("{other}: no such attack"),
        }
    }
}

/// Identities, each with its certificate.
pub(crate) fn prepare(count: usize) -> Vec<ClientConfig> {
    (0..count).map(|_| good_client()).collect()
}

/// Connects, and goes on for ever.
pub(crate) fn begin(
    victim: SocketAddr,
    conduct: Conduct,
    configs: Vec<ClientConfig>,
    done: &Arc<Done>,
) {
    let endpoints: Vec<_> = (0..SOCKETS).map(|_| endpoint()).collect();
    let peers = match conduct {
        Conduct::Garbage => SENDERS,
        _ => configs.len(),
    };
    for (number, config) in configs.into_iter().take(peers).enumerate() {
        let endpoint = endpoints[number % SOCKETS].clone();
        let peer = Peer { endpoint, victim, config, conduct, done: done.clone() };
        tokio::spawn(peer.run(number));
    }
}

struct Peer {
    endpoint: Endpoint,
    victim: SocketAddr,
    config: ClientConfig,
    conduct: Conduct,
    done: Arc<Done>,
}

impl Peer {
    async fn run(mut self, number: usize) {
        for turn in number.. {
            Done::count(&self.done.begun);
            let dialing = self.endpoint.connect_with(self.config.clone(), self.victim, "x");
            let Ok(dialing) = dialing else { continue };
            let dialed = tokio::time::timeout(Duration::from_secs(5), dialing).await;
            let Ok(Ok(connection)) = dialed else { continue };
            Done::count(&self.done.met);
            if self.misbehave(&connection, turn).await {
                Done::count(&self.done.answered);
            }
            connection.close(0u32.into(), b"");
            if self.conduct == Conduct::Garbage {
                self.config = good_client();
            }
        }
    }

    /// Whether the victim said something before the end.
    async fn misbehave(&self, connection: &Connection, turn: usize) -> bool {
        let sending = async {
            let sent = match self.conduct {
                Conduct::Beyond => say_hello(connection).await,
                Conduct::Garbage => send_garbage(connection, turn).await,
                Conduct::Silence => None,
            };
            // The end of a stream is a violation by itself: keep it open until the connection ends.
            connection.closed().await;
            drop(sent);
        };
        let hearing = async {
            let Ok(mut control) = connection.accept_uni().await else { return false };
            control.read_chunk(MAX_FRAME, true).await.is_ok_and(|chunk| chunk.is_some())
        };
        let (heard, ()) = futures_util::future::join(hearing, sending).await;
        heard
    }
}

fn hello(connection: &Connection) -> Option<Vec<u8>> {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, b"tidegate binding 1", b"").ok()?;
    let hello = ControlMessage::Hello(Hello {
        versions: vec![tidegate_proto::VERSION],
        network: NETWORK,
        client: "siege".to_owned(),
        instance: 1,
        binding: Binding::Exporter(exporter),
    });
    let hello = hello.to_bytes().ok()?;
    Some(frame(&hello, hello.len()))
}

/// Bytes after a length that may be wrong.
fn frame(bytes: &[u8], length: usize) -> Vec<u8> {
    [&(length as u32).to_be_bytes()[..], bytes].concat()
}

async fn open(connection: &Connection, channel: u32) -> Option<SendStream> {
    let mut stream = connection.open_uni().await.ok()?;
    stream.write_all(&channel.to_be_bytes()).await.ok()?;
    Some(stream)
}

async fn say_hello(connection: &Connection) -> Option<SendStream> {
    let mut control = open(connection, 0).await?;
    control.write_all(&hello(connection)?).await.ok()?;
    Some(control)
}

/// One kind after the other; open streams stay open.
async fn send_garbage(connection: &Connection, turn: usize) -> Option<SendStream> {
    let noise: Vec<u8> = (0..MAX_FRAME).map(|at| (at * 31 + turn) as u8).collect();
    match turn % 6 {
        // A whole frame that is too large.
        0 => {
            let mut control = open(connection, 0).await?;
            control.write_all(&frame(&[], MAX_FRAME + 1)).await.ok()?;
            flood(&mut control, &noise).await;
            Some(control)
        }
        // A frame that ends too early.
        1 => {
            let mut control = open(connection, 0).await?;
            control.write_all(&frame(&noise[..10], MAX_FRAME)).await.ok()?;
            control.finish().ok()?;
            Some(control)
        }
        // An invalid message.
        2 => {
            let mut control = open(connection, 0).await?;
            control.write_all(&frame(&noise, noise.len())).await.ok()?;
            Some(control)
        }
        // A hello, then an invalid message.
        3 => {
            let mut control = say_hello(connection).await?;
            control.write_all(&frame(&noise, noise.len())).await.ok()?;
            Some(control)
        }
        // As much as fits on unopened channels.
        4 => {
            let mut control = say_hello(connection).await?;
            for channel in 16..20 {
                flood(&mut open(connection, channel).await?, &noise).await;
            }
            control.write_all(&frame(&noise, noise.len())).await.ok()?;
            Some(control)
        }
        // A channel opened twice.
        _ => {
            let control = open(connection, 0).await?;
            open(connection, 0).await?;
            Some(control)
        }
    }
}

/// Until the victim takes no more.
async fn flood(stream: &mut SendStream, noise: &[u8]) {
    let all = async {
        for _ in 0..FLOOD / noise.len() {
            if stream.write_all(&frame(noise, noise.len())).await.is_err() {
                return;
            }
        }
    };
    // Once nothing more fits, the rest is dropped.
    let _ = tokio::time::timeout(Duration::from_millis(200), all).await;
}
