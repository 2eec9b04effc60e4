//! rust-libp2p: over QUIC, and over TCP with Noise and Yamux. One stream by `libp2p-stream`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, identity, noise, tcp, yamux,
};
use libp2p_stream::Behaviour;
use tokio::task::JoinHandle;

use super::PIECE;
use super::pipe::{Pipe, Piped, answer};
use crate::stack::{Carrier, Dialer, Doing, FIRST, Link, Stack, Target};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/bench/1");
/// Idle connections must stay open.
const IDLE: Duration = Duration::from_secs(3600);

pub(crate) struct Libp2p {
    name: &'static str,
    carrier: Carrier,
}

pub(crate) static QUIC: Libp2p = Libp2p { name: "libp2p QUIC", carrier: Carrier::Udp };
pub(crate) static TCP: Libp2p = Libp2p { name: "libp2p TCP", carrier: Carrier::Tcp };

impl Libp2p {
    fn swarm(&self, seed: u64) -> Result<Swarm<Behaviour>> {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let key = identity::Keypair::ed25519_from_bytes(bytes)?;
        let builder = SwarmBuilder::with_existing_identity(key).with_tokio();
        let swarm = match self.carrier {
            Carrier::Udp => builder
                .with_quic()
                .with_behaviour(|_| Behaviour::new())?
                .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
                .build(),
            Carrier::Tcp => builder
                .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
                .with_behaviour(|_| Behaviour::new())?
                .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
                .build(),
        };
        Ok(swarm)
    }

    fn address(&self, socket: std::net::SocketAddr) -> Multiaddr {
        let address = Multiaddr::from(socket.ip());
        match self.carrier {
            Carrier::Udp => address.with(Protocol::Udp(socket.port())).with(Protocol::QuicV1),
            Carrier::Tcp => address.with(Protocol::Tcp(socket.port())),
        }
    }
}

impl Stack for Libp2p {
    fn name(&self) -> &'static str {
        self.name
    }

    fn carrier(&self) -> Carrier {
        self.carrier
    }

    fn note(&self) -> Option<&'static str> {
        match self.carrier {
            Carrier::Udp => Some("a stream of `libp2p-stream`, with its negotiation"),
            Carrier::Tcp => Some("Noise and Yamux; a stream of `libp2p-stream`"),
        }
    }

    fn serve(&'static self) -> Doing<'static, Target> {
        Box::pin(async {
            let mut swarm = self.swarm(0)?;
            let mut streams = swarm.behaviour().new_control().accept(PROTOCOL)?;
            swarm.listen_on(self.address("127.0.0.1:0".parse()?))?;
            let address = loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    break address;
                }
            };
            let port = address.iter().find_map(|part| match part {
                Protocol::Udp(port) | Protocol::Tcp(port) => Some(port),
                _ => None,
            });
            let socket = ([127, 0, 0, 1], port.context("no port")?).into();
            let key = swarm.local_peer_id().to_string();
            tokio::spawn(drive(swarm));
            tokio::spawn(async move {
                while let Some((_, stream)) = streams.next().await {
                    tokio::spawn(answer(Streams::new(stream, None)));
                }
            });
            Ok(Target { socket, key })
        })
    }

    fn dialer(&'static self, number: u64, target: Target) -> Doing<'static, Box<dyn Dialer>> {
        Box::pin(async move {
            let swarm = self.swarm(number + 1)?;
            let address = self.address(target.socket);
            let peer = target.key.parse()?;
            Ok(Box::new(Libp2pDialer { swarm, address, peer }) as Box<dyn Dialer>)
        })
    }
}

async fn drive(mut swarm: Swarm<Behaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}

struct Libp2pDialer {
    swarm: Swarm<Behaviour>,
    address: Multiaddr,
    peer: PeerId,
}

impl Dialer for Libp2pDialer {
    fn first(self: Box<Self>) -> Doing<'static, Box<dyn Link>> {
        Box::pin(async move {
            let Self { mut swarm, address, peer } = *self;
            swarm.dial(DialOpts::peer_id(peer).addresses(vec![address]).build())?;
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. } => break,
                    SwarmEvent::OutgoingConnectionError { error, .. } => bail!(error),
                    _ => {}
                }
            }
            let mut control = swarm.behaviour().new_control();
            let driver = tokio::spawn(drive(swarm));
            let stream = control.open_stream(peer, PROTOCOL).await?;
            let mut link = Piped(Streams::new(stream, Some(driver)));
            link.ask(FIRST, 1).await?;
            Ok(Box::new(link) as Box<dyn Link>)
        })
    }
}

struct Streams {
    stream: Stream,
    buffer: Vec<u8>,
    driver: Option<JoinHandle<()>>,
}

impl Streams {
    fn new(stream: Stream, driver: Option<JoinHandle<()>>) -> Self {
        Self { stream, buffer: Vec::new(), driver }
    }
}

impl Pipe for Streams {
    async fn put(&mut self, bytes: Bytes) -> Result<()> {
        self.stream.write_all(&bytes).await?;
        // Yamux buffers small writes otherwise.
        Ok(self.stream.flush().await?)
    }

    async fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.stream.read_exact(buffer).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            let most = bytes.min(PIECE as u64) as usize;
            if self.buffer.len() < most {
                self.buffer.resize(most, 0);
            }
            match self.stream.read(&mut self.buffer[..most]).await? {
                0 => bail!("the stream is over"),
                read => bytes -= read as u64,
            }
        }
        Ok(())
    }

    async fn close(mut self) {
        // It may be closed already.
        let _ = self.stream.close().await;
        if let Some(driver) = self.driver {
            // Connections end with the swarm.
            driver.abort();
        }
    }
}
