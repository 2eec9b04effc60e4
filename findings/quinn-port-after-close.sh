#!/bin/sh
# A quinn endpoint that is closed, has waited until it is idle, and is dropped still holds its UDP port: the socket
# belongs to a task of the runtime, which ends at one of its next turns. A program that closes an endpoint and binds
# the same port again in one go (a restart inside a process) is told that the address is in use. There is no future
# to await for it.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "shown"
version = "0.0.0"
edition = "2024"

[dependencies]
quinn = { version = "=0.11.12", default-features = false, features = ["runtime-tokio", "rustls-ring"] }
tokio = { version = "1", features = ["net", "rt", "time"] }

[workspace]
TOML
cat >src/main.rs <<'RS'
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

fn bind(at: SocketAddr) -> &'static str {
    match UdpSocket::bind(at) {
        Ok(_) => "free",
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => "in use",
        Err(_) => "another error",
    }
}

fn main() {
    // One thread: the endpoint's task runs only when this one waits.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let at = endpoint.local_addr().unwrap();
        endpoint.close(0u32.into(), b"");
        endpoint.wait_idle().await;
        println!("closed and idle: {}", bind(at));
        drop(endpoint);
        println!("dropped: {}", bind(at));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        println!("later: {}", bind(at));
    });
}
RS
echo 'quinn 0.11.12'
cargo run --quiet | tee seen
printf 'closed and idle: in use\ndropped: in use\nlater: free\n' | cmp - seen
