//! The UDP sockets of this transport.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, ready};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::session::Packet;
use crate::rt;
use crate::transport::udp;

/// Bytes read in one batch, of consecutive datagrams from one host.
const BATCH_BYTES: usize = 64 << 10;
/// Packets that wait until the socket can take them; more are lost, as in a router. As many as a hundred connections
/// have in flight.
const WAITING: usize = 100 * 48;
/// Bytes that the system sends at once, as datagrams of one size.
const SEGMENTS_BYTES: usize = 60_000;

/// A socket, and what waits for it.
pub(super) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    /// The bound address.
    pub(super) address: SocketAddr,
    waiting: VecDeque<Packet>,
    /// Several packets put together.
    sending: Vec<u8>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.address).finish()
    }
}

/// Where datagrams are read to.
pub(super) struct Buffers {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Default for Buffers {
    fn default() -> Self {
        Self { bytes: vec![0; BATCH_SIZE * BATCH_BYTES], metas: [RecvMeta::default(); BATCH_SIZE] }
    }
}

/// A datagram that has arrived.
pub(super) struct Received<'a> {
    pub(super) source: SocketAddr,
    /// This end's address; not "any interface".
    pub(super) destination: SocketAddr,
    pub(super) bytes: &'a [u8],
}

impl Socket {
    pub(super) fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let socket = udp::bind(address)?;
        let state = UdpSocketState::new((&socket).into())?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let io = UdpSocket::from_std(socket)?;
        Ok(Self { io, state, address, waiting: VecDeque::new(), sending: Vec::new() })
    }

    /// The addresses at which others may reach it directly: those of the interfaces, if it is bound to all.
    pub(super) fn hosts(&self) -> Vec<SocketAddr> {
        if !self.address.ip().is_unspecified() {
            return vec![self.address];
        }
        let all = rt::interfaces().unwrap_or_default().into_iter();
        let same = all.filter(|ip| ip.is_ipv4() == self.address.is_ipv4() && !is_link_local(*ip));
        let (own, far): (Vec<_>, Vec<_>) = same.partition(IpAddr::is_loopback);
        // A machine without a network has nobody else to talk to.
        let reached = if far.is_empty() { own } else { far };
        reached.into_iter().map(|ip| SocketAddr::new(ip, self.address.port())).collect()
    }

    /// Reads what has arrived; ready when there is something.
    pub(super) fn poll_read(
        &self,
        buffers: &mut Buffers,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let mut chunks = buffers.bytes.chunks_exact_mut(BATCH_BYTES);
            let mut into: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            let read = self.io.try_io(Interest::READABLE, || {
                self.state.recv((&self.io).into(), &mut into, &mut buffers.metas)
            });
            match read {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// The datagrams of the last read, which filled this number of batches.
    pub(super) fn received<'a>(
        &self,
        buffers: &'a Buffers,
        batches: usize,
    ) -> impl Iterator<Item = Received<'a>> + use<'a> {
        let bound = self.address;
        let chunks = buffers.bytes.chunks_exact(BATCH_BYTES);
        let read = chunks.zip(&buffers.metas).take(batches);
        read.flat_map(move |(bytes, meta)| {
            let ip =
                meta.dst_ip.filter(|_| bound.ip().is_unspecified()).unwrap_or_else(|| bound.ip());
            let (source, destination) = (meta.addr, SocketAddr::new(ip, bound.port()));
            let datagrams = bytes[..meta.len.min(BATCH_BYTES)].chunks(meta.stride.max(1));
            datagrams.map(move |bytes| Received { source, destination, bytes })
        })
    }

    /// Sends packets, or keeps them until the socket can take them.
    pub(super) fn send(&mut self, packets: impl IntoIterator<Item = Packet>) {
        self.waiting.extend(packets);
        self.flush();
        while self.waiting.len() > WAITING {
            self.waiting.pop_front();
        }
    }

    fn flush(&mut self) {
        while let Some(count) = self.try_send() {
            self.waiting.drain(..count);
        }
    }

    /// Ready when all packets have left.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.waiting.is_empty() {
            if ready!(self.io.poll_send_ready(cx)).is_err() {
                self.waiting.clear();
            }
            self.flush();
        }
        Poll::Ready(())
    }

    /// Sends the first packets: several of one size to one address go as one. Returns how many are done with; `None`
    /// if there are none, or if the socket is full.
    fn try_send(&mut self) -> Option<usize> {
        let first = self.waiting.front()?;
        let size = first.contents.len();
        let most = self.state.max_gso_segments().min(SEGMENTS_BYTES / size.max(1)).max(1);
        let is_like = |packet: &&Packet| {
            packet.source == first.source
                && packet.destination == first.destination
                && packet.contents.len() == size
        };
        let mut count = self.waiting.iter().take(most).take_while(is_like).count();
        // The last one may be smaller.
        if count < most
            && self.waiting.get(count).is_some_and(|packet| {
                packet.source == first.source
                    && packet.destination == first.destination
                    && packet.contents.len() < size
            })
        {
            count += 1;
        }
        self.sending.clear();
        if count > 1 {
            let parts = self.waiting.iter().take(count);
            parts.for_each(|packet| self.sending.extend_from_slice(&packet.contents));
        }
        let transmit = Transmit {
            destination: first.destination,
            ecn: None,
            contents: if count > 1 { &self.sending } else { &first.contents },
            segment_size: (count > 1).then_some(size),
            src_ip: self.address.ip().is_unspecified().then_some(first.source.ip()),
        };
        let sent = self
            .io
            .try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), &transmit));
        match sent {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            // An address that cannot be reached: lost, like any datagram may be.
            Err(error) => {
                tracing::debug!(target: "tidegate::webrtc", "sending to {}: {error}", first.destination);
                Some(count)
            }
            Ok(()) => Some(count),
        }
    }
}

/// Addresses that mean something on one link only (RFC 3927, RFC 4291 section 2.5.6).
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
