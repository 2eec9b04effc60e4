//! Plain quinn, with Tidegate's transport parameters and with its own defaults.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use tidegate::Limits;
use tidegate::transport::secure;

use super::PIECE;
use super::pipe::{Pipe, Piped, answer};
use super::transport::identity;
use crate::stack::{Carrier, Dialer, Doing, FIRST, Link, Stack, Target};

pub(crate) struct Quinn {
    name: &'static str,
    note: &'static str,
    same: bool,
}

pub(crate) static SAME: Quinn = Quinn {
    name: crate::stack::REFERENCE,
    note: "TLS and flow control windows as Tidegate sets them; one stream in both directions",
    same: true,
};

pub(crate) static DEFAULTS: Quinn = Quinn {
    name: "quinn, defaults",
    note: "with the windows that quinn has by itself",
    same: false,
};

impl Quinn {
    fn transport(&self) -> Result<Arc<TransportConfig>> {
        let mut config = TransportConfig::default();
        config.max_idle_timeout(Some(Duration::from_secs(120).try_into()?));
        if self.same {
            let limits = Limits::default();
            config
                .receive_window(VarInt::from_u32(limits.receive_window))
                .stream_receive_window(VarInt::from_u32(limits.receive_window / 3 * 2))
                .send_window(limits.send_window.into())
                .datagram_receive_buffer_size(None);
        }
        Ok(Arc::new(config))
    }
}

impl Stack for Quinn {
    fn name(&self) -> &'static str {
        self.name
    }

    fn carrier(&self) -> Carrier {
        Carrier::Udp
    }

    fn note(&self) -> Option<&'static str> {
        Some(self.note)
    }

    fn serve(&'static self) -> Doing<'static, Target> {
        Box::pin(async {
            let identity = identity(0);
            let crypto = QuicServerConfig::try_from(secure::server(&identity)?)?;
            let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
            config.transport_config(self.transport()?);
            let endpoint = Endpoint::server(config, "127.0.0.1:0".parse()?)?;
            let socket = endpoint.local_addr()?;
            tokio::spawn(async move {
                while let Some(incoming) = endpoint.accept().await {
                    tokio::spawn(async move {
                        let connection = incoming.await?;
                        let (send, receive) = connection.accept_bi().await?;
                        answer(Streams { send, receive, connection, endpoint: None }).await
                    });
                }
            });
            Ok(Target { socket, key: identity.peer_id().to_string() })
        })
    }

    fn dialer(&'static self, number: u64, target: Target) -> Doing<'static, Box<dyn Dialer>> {
        Box::pin(async move {
            let tls = secure::client(&identity(number + 1), Some(target.key.parse()?))?;
            let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
            config.transport_config(self.transport()?);
            let endpoint = Endpoint::client("127.0.0.1:0".parse()?)?;
            Ok(Box::new(QuinnDialer { endpoint, config, target }) as Box<dyn Dialer>)
        })
    }
}

struct QuinnDialer {
    endpoint: Endpoint,
    config: quinn::ClientConfig,
    target: Target,
}

impl Dialer for QuinnDialer {
    fn first(self: Box<Self>) -> Doing<'static, Box<dyn Link>> {
        Box::pin(async move {
            let Self { endpoint, config, target } = *self;
            let connection = endpoint.connect_with(config, target.socket, "bench")?.await?;
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
    connection: quinn::Connection,
    endpoint: Option<Endpoint>,
}

impl Pipe for Streams {
    async fn put(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.send.write_chunk(bytes).await?)
    }

    async fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.receive.read_exact(buffer).await {
            Ok(()) => Ok(true),
            Err(quinn::ReadExactError::FinishedEarly(0)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            let most = bytes.min(PIECE as u64) as usize;
            let chunk = self.receive.read_chunk(most, true).await?;
            bytes -= chunk.context("the stream is over")?.bytes.len() as u64;
        }
        Ok(())
    }

    async fn close(self) {
        self.connection.close(VarInt::from_u32(0), b"");
        if let Some(endpoint) = self.endpoint {
            // Until the close has been sent; the whole closing period takes three probe timeouts.
            let _ = tokio::time::timeout(Duration::from_millis(5), endpoint.wait_idle()).await;
        }
    }
}
