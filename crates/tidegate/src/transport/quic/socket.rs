//! The UDP sockets of this transport.

use std::fmt;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};

use crate::transport::udp;

/// Bytes read in one batch, of consecutive datagrams from one host.
const BATCH_BYTES: usize = 64 << 10;

/// Binds a socket that can buffer a burst.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<Arc<Socket>> {
    Ok(Arc::new(Socket::new(TokioRuntime.wrap_udp_socket(udp::bind(address)?)?)?))
}

/// A socket that passes on one datagram at a time, and can be closed while quinn has it. The system
/// reads up to 64 datagrams of one host as one, which is cheaper; but quinn would keep all of them
/// while it needs a byte of one, and count only that one.
pub(super) struct Socket {
    /// `None` once closed.
    inner: Mutex<Option<Arc<dyn AsyncUdpSocket>>>,
    address: SocketAddr,
    may_fragment: bool,
    read: Mutex<Read>,
}

/// Datagrams that were read but not passed on yet.
struct Read {
    bytes: Vec<u8>,
    /// For each batch: its metadata, and how much of it was passed on.
    batches: [(RecvMeta, usize); BATCH_SIZE],
    next: usize,
    end: usize,
}

impl Socket {
    fn new(inner: Arc<dyn AsyncUdpSocket>) -> std::io::Result<Self> {
        let batches = [(RecvMeta::default(), 0); BATCH_SIZE];
        let bytes = vec![0; BATCH_SIZE * BATCH_BYTES];
        Ok(Self {
            address: inner.local_addr()?,
            may_fragment: inner.may_fragment(),
            inner: Mutex::new(Some(inner)),
            read: Mutex::new(Read { bytes, batches, next: 0, end: 0 }),
        })
    }

    fn inner(&self) -> Option<Arc<dyn AsyncUdpSocket>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Frees the port. quinn keeps its part until it has forgotten the last connection.
    pub(super) fn close(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Waits for a socket to become writable. It only holds the system's socket while it waits.
#[derive(Debug)]
struct Poller {
    socket: Arc<Socket>,
    waiting: Option<Pin<Box<dyn UdpPoller>>>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let Some(inner) = self.socket.inner() else {
            self.waiting = None;
            return Poll::Ready(Ok(()));
        };
        let waiting = self.waiting.get_or_insert_with(|| inner.create_io_poller());
        let ready = ready!(waiting.as_mut().poll_writable(cx));
        self.waiting = None;
        Poll::Ready(ready)
    }
}

impl Read {
    /// Reads the next batches; all earlier ones have been passed on.
    fn fill(
        &mut self,
        from: &dyn AsyncUdpSocket,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut chunks = self.bytes.chunks_exact_mut(BATCH_BYTES);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let count = ready!(from.poll_recv(cx, &mut buffers, &mut metas))?;
        (self.next, self.end) = (0, count);
        self.batches = metas.map(|meta| (meta, 0));
        Poll::Ready(Ok(()))
    }

    /// The next datagram that fits into `to`.
    fn next(&mut self, to: &mut [u8]) -> Option<RecvMeta> {
        while self.next < self.end {
            let (meta, done) = &mut self.batches[self.next];
            let left = meta.len.saturating_sub(*done);
            if left == 0 {
                self.next += 1;
                continue;
            }
            let len = left.min(meta.stride.max(1));
            let start = self.next * BATCH_BYTES + *done;
            *done += len;
            // A datagram larger than any allowed buffer is not QUIC.
            if let Some(to) = to.get_mut(..len) {
                to.copy_from_slice(&self.bytes[start..start + len]);
                return Some(RecvMeta { len, stride: len, ..*meta });
            }
        }
        None
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.address).finish()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> std::io::Result<()> {
        match self.inner() {
            Some(inner) => inner.try_send(transmit),
            // Lost, like any datagram may be: the connections time out.
            None => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<std::io::Result<usize>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut count = 0;
            for (to, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
                let Some(next) = read.next(to) else { break };
                *meta = next;
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            // Nothing arrives any more.
            let Some(inner) = self.inner() else { return Poll::Pending };
            ready!(read.fill(&*inner, cx))?;
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }

    /// Fewer once the system has refused more: quinn asks before each transmission.
    fn max_transmit_segments(&self) -> usize {
        self.inner().map_or(1, |inner| inner.max_transmit_segments())
    }

    fn may_fragment(&self) -> bool {
        self.may_fragment
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use std::net::UdpSocket;

    use quinn::udp::UdpSocketState;

    use super::*;

    /// How many large datagrams a socket buffers while no one reads it.
    fn held(socket: &UdpSocket) -> usize {
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..5000 {
            sender.send_to(&[0; 1200], socket.local_addr().unwrap()).unwrap();
        }
        socket.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| socket.recv(&mut [0; 2048]).ok()).count()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_listener_holds_a_burst() {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let plain = held(&UdpSocket::bind(any).unwrap());
        let listener = held(&udp::bind(any).unwrap());
        // Linux allows everybody twice as much.
        assert!(listener >= plain * 3 / 2, "{listener} where any socket holds {plain}");
    }

    /// A socket whose network card cannot segment, which shows only when it is asked to.
    #[derive(Debug)]
    struct Refusing(std::sync::atomic::AtomicUsize);

    impl AsyncUdpSocket for Refusing {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("it is always writable")
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> std::io::Result<()> {
            if transmit.segment_size.is_some() {
                // As quinn-udp does on EIO: those datagrams are lost.
                self.0.store(1, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<std::io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> std::io::Result<SocketAddr> {
            Ok((Ipv4Addr::LOCALHOST, 1).into())
        }

        fn max_transmit_segments(&self) -> usize {
            self.0.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    /// Regression: with such a card nearly everything that a node sent was lost, for as long as it
    /// ran.
    #[test]
    fn segmentation_refused_by_the_system_is_not_retried() {
        let socket = Socket::new(Arc::new(Refusing(64.into()))).unwrap();
        assert_eq!(socket.max_transmit_segments(), 64);
        let transmit = Transmit {
            destination: (Ipv4Addr::LOCALHOST, 2).into(),
            ecn: None,
            contents: &[0; 2000],
            segment_size: Some(1000),
            src_ip: None,
        };
        socket.try_send(&transmit).unwrap();
        assert_eq!(socket.max_transmit_segments(), 1);
        socket.close();
        assert_eq!(socket.max_transmit_segments(), 1);
    }

    /// Datagrams that arrived as one batch, as they are passed on: the bytes of each, in batches.
    async fn received(socket: Arc<dyn AsyncUdpSocket>) -> Vec<RecvMeta> {
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let state = UdpSocketState::new((&sender).into()).unwrap();
        let contents = (0..10_000u32).flat_map(u32::to_be_bytes).collect::<Vec<_>>();
        let transmit = Transmit {
            destination: socket.local_addr().unwrap(),
            ecn: None,
            contents: &contents,
            segment_size: Some(1000),
            src_ip: None,
        };
        state.send((&sender).into(), &transmit).unwrap();
        let (mut bytes, mut metas) = (Vec::new(), Vec::new());
        while bytes.len() < contents.len() {
            let mut to = vec![vec![0; BATCH_BYTES]; BATCH_SIZE];
            let mut to = to.iter_mut().map(|to| IoSliceMut::new(to)).collect::<Vec<_>>();
            let mut meta = [RecvMeta::default(); BATCH_SIZE];
            let receive = std::future::poll_fn(|cx| socket.poll_recv(cx, &mut to, &mut meta));
            let count = receive.await.unwrap();
            for (meta, from) in meta[..count].iter().zip(&to) {
                bytes.extend_from_slice(&from[..meta.len]);
                metas.push(*meta);
            }
        }
        assert_eq!(bytes, contents);
        metas
    }

    /// Regression: quinn kept 64 datagrams for a byte of one, and counted one.
    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn datagrams_are_handed_on_one_by_one() {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let plain = TokioRuntime.wrap_udp_socket(udp::bind(any).unwrap()).unwrap();
        let together = |meta: &RecvMeta| meta.len > meta.stride;
        if !received(plain).await.iter().any(together) {
            println!("skipped: this system hands on none together");
            return;
        }
        let metas = received(bind(any).unwrap()).await;
        assert_eq!(
            metas.iter().map(|meta| (meta.len, meta.stride)).collect::<Vec<_>>(),
            [(1000, 1000); 40]
        );
    }
}
