//! iroh: directly, without relays, discovery or metrics.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use iroh::endpoint::{Connection, ReadExactError, RecvStream, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey};

use super::PIECE;
use super::pipe::{Pipe, Piped, answer};
use crate::stack::{Carrier, Dialer, Doing, FIRST, Link, Stack, Target};

const ALPN: &[u8] = b"bench";

pub(crate) struct Iroh;

async fn endpoint(seed: u64) -> Result<Endpoint> {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&bytes))
        .relay_mode(RelayMode::Disabled)
        .clear_address_lookup()
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")?
        .alpns(vec![ALPN.to_vec()]);
    Ok(builder.bind().await?)
}

impl Stack for Iroh {
    fn name(&self) -> &'static str {
        "iroh"
    }

    fn carrier(&self) -> Carrier {
        Carrier::Udp
    }

    fn note(&self) -> Option<&'static str> {
        Some("its own windows and raw public keys; relays and discovery are off")
    }

    fn serve(&'static self) -> Doing<'static, Target> {
        Box::pin(async {
            let endpoint = endpoint(0).await?;
            let socket = *endpoint.bound_sockets().first().context("no socket")?;
            let key = endpoint.id().to_string();
            tokio::spawn(async move {
                while let Some(incoming) = endpoint.accept().await {
                    tokio::spawn(async move {
                        let connection = incoming.await?;
                        let (send, receive) = connection.accept_bi().await?;
                        answer(Streams { send, receive, connection, endpoint: None }).await
                    });
                }
            });
            Ok(Target { socket, key })
        })
    }

    fn dialer(&'static self, number: u64, target: Target) -> Doing<'static, Box<dyn Dialer>> {
        Box::pin(async move {
            let endpoint = endpoint(number + 1).await?;
            let target = EndpointAddr::new(target.key.parse()?).with_ip_addr(target.socket);
            Ok(Box::new(IrohDialer { endpoint, target }) as Box<dyn Dialer>)
        })
    }
}

struct IrohDialer {
    endpoint: Endpoint,
    target: EndpointAddr,
}

impl Dialer for IrohDialer {
    fn first(self: Box<Self>) -> Doing<'static, Box<dyn Link>> {
        Box::pin(async move {
            let Self { endpoint, target } = *self;
            let connection = endpoint.connect(target, ALPN).await?;
            let (send, receive) = connection.open_bi().await?;
            let mut link = Piped(Streams { send, receive, connection, endpoint: Some(endpoint) });
            link.ask(FIRST, 1).await?;
            Ok(Box::new(link) as Box<dyn Link>)
        })
    }
}

struct Streams {
    send: SendStream,
    receive: RecvStream,
    connection: Connection,
    endpoint: Option<Endpoint>,
}

impl Pipe for Streams {
    async fn put(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.send.write_chunk(bytes).await?)
    }

    async fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.receive.read_exact(buffer).await {
            Ok(()) => Ok(true),
            Err(ReadExactError::FinishedEarly(0)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            let most = bytes.min(PIECE as u64) as usize;
            let chunk = self.receive.read_chunk(most).await?;
            bytes -= chunk.context("the stream is over")?.len() as u64;
        }
        Ok(())
    }

    async fn close(self) {
        self.connection.close(0u32.into(), b"");
        if let Some(endpoint) = self.endpoint {
            endpoint.close().await;
        }
    }
}
