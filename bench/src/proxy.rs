//! A slow path to a listener, in user space: every byte takes a fixed time in each direction.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::stack::Carrier;

/// Starts threads that forward everything between the returned address and `to`, for the life of
/// the process.
///
/// A TCP connection takes as long as on a real link: the listener is connected to when the third
/// packet of the handshake would have arrived, and data that the dialer sends before does not
/// arrive earlier.
pub(crate) fn start(carrier: Carrier, to: SocketAddr, delay: Duration) -> Result<SocketAddr> {
    match carrier {
        Carrier::Udp => udp(to, delay),
        Carrier::Tcp => tcp(to, delay),
    }
}

fn pause_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// Forwards queued datagrams when they are due, from one socket to one address.
fn forward(from: Arc<UdpSocket>, to: SocketAddr, queue: Receiver<(Instant, Vec<u8>)>) {
    thread::spawn(move || {
        for (due, datagram) in queue {
            pause_until(due);
            // A failed send is a lost datagram.
            let _ = from.send_to(&datagram, to);
        }
    });
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(Vec<u8>, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Ok((length, from)) => return Some((buffer[..length].to_vec(), from)),
            // An earlier datagram was refused.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(_) => return None,
        }
    }
}

fn udp(to: SocketAddr, delay: Duration) -> Result<SocketAddr> {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0")?);
    let address = front.local_addr()?;
    thread::spawn(move || {
        let mut flows = HashMap::<SocketAddr, Sender<(Instant, Vec<u8>)>>::new();
        let mut buffer = vec![0; 1 << 16];
        while let Some((datagram, from)) = receive(&front, &mut buffer) {
            let due = Instant::now() + delay;
            let queue = match flows.entry(from) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => match flow(front.clone(), from, to, delay) {
                    Ok(queue) => new.insert(queue),
                    Err(_) => continue,
                },
            };
            // The flow's threads live as long as this one.
            let _ = queue.send((due, datagram));
        }
    });
    Ok(address)
}

/// A socket towards the listener for one dialer, with threads for both directions.
fn flow(
    front: Arc<UdpSocket>,
    dialer: SocketAddr,
    to: SocketAddr,
    delay: Duration,
) -> Result<Sender<(Instant, Vec<u8>)>> {
    let back = Arc::new(UdpSocket::bind("127.0.0.1:0")?);
    let (there, queue) = channel();
    forward(back.clone(), to, queue);
    let (home, queue) = channel();
    forward(front, dialer, queue);
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Some((datagram, _)) = receive(&back, &mut buffer) {
            if home.send((Instant::now() + delay, datagram)).is_err() {
                break;
            }
        }
    });
    Ok(there)
}

fn tcp(to: SocketAddr, delay: Duration) -> Result<SocketAddr> {
    let front = TcpListener::bind("127.0.0.1:0")?;
    let address = front.local_addr()?;
    thread::spawn(move || {
        for dialer in front.incoming().flatten() {
            thread::spawn(move || connect(dialer, to, delay));
        }
    });
    Ok(address)
}

fn connect(dialer: TcpStream, to: SocketAddr, delay: Duration) -> Result<()> {
    // SYN, SYN and ACK, ACK.
    let open = Instant::now() + 3 * delay;
    dialer.set_nodelay(true)?;
    let (there, from_dialer) = channel();
    let reader = dialer.try_clone()?;
    thread::spawn(move || read(reader, there, delay));
    pause_until(open);
    let listener = TcpStream::connect(to)?;
    listener.set_nodelay(true)?;
    let (home, from_listener) = channel();
    let reader = listener.try_clone()?;
    thread::spawn(move || read(reader, home, delay));
    thread::spawn(move || write(dialer, from_listener));
    write(listener, from_dialer);
    Ok(())
}

fn read(mut from: TcpStream, queue: Sender<(Instant, Vec<u8>)>, delay: Duration) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if queue.send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
            break;
        }
    }
}

fn write(mut to: TcpStream, queue: Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in queue {
        pause_until(due);
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    // It may be closed already.
    let _ = to.shutdown(Shutdown::Write);
}
