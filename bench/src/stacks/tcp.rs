//! TCP, without keys or encryption.

use anyhow::Result;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::PIECE;
use super::pipe::{Pipe, Piped, answer};
use crate::stack::{Carrier, Dialer, Doing, FIRST, Link, Stack, Target};

pub(crate) struct Tcp;

impl Stack for Tcp {
    fn name(&self) -> &'static str {
        "raw TCP"
    }

    fn carrier(&self) -> Carrier {
        Carrier::Tcp
    }

    fn note(&self) -> Option<&'static str> {
        Some("no keys, no encryption: what the machine can do")
    }

    fn serve(&'static self) -> Doing<'static, Target> {
        Box::pin(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let socket = listener.local_addr()?;
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(async move { answer(Io::new(nodelay(stream)?)).await });
                }
            });
            Ok(Target { socket, key: String::new() })
        })
    }

    fn dialer(&'static self, _: u64, target: Target) -> Doing<'static, Box<dyn Dialer>> {
        Box::pin(async { Ok(Box::new(TcpDialer(target)) as Box<dyn Dialer>) })
    }
}

struct TcpDialer(Target);

impl Dialer for TcpDialer {
    fn first(self: Box<Self>) -> Doing<'static, Box<dyn Link>> {
        Box::pin(async move {
            let stream = TcpStream::connect(self.0.socket).await?;
            let mut link = Piped(Io::new(nodelay(stream)?));
            link.ask(FIRST, 1).await?;
            Ok(Box::new(link) as Box<dyn Link>)
        })
    }
}

fn nodelay(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A stream with tokio's traits.
struct Io<S> {
    stream: S,
    /// Allocated for the first body that is not small.
    buffer: Vec<u8>,
}

impl<S> Io<S> {
    fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Pipe for Io<S> {
    async fn put(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.stream.write_all(&bytes).await?)
    }

    async fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.stream.read_exact(buffer).await {
            Ok(_) => Ok(true),
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
                0 => anyhow::bail!("the stream is over"),
                read => bytes -= read as u64,
            }
        }
        Ok(())
    }

    async fn close(mut self) {
        // It may be over already.
        let _ = self.stream.shutdown().await;
    }
}
