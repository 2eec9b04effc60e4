#!/bin/sh
# Surprise: with SNAP (both INITs of SCTP exchanged in advance) str0m reports a data channel as open, and takes a
# message for it, before a single packet was exchanged: with no ICE, no DTLS, and a peer that may not exist.
#
# ChannelOpen usually is the last step of a handshake, so programs take it for "connected". With SNAP it is the first
# event of all: SCTP has nothing left to negotiate. The peer is known only after Event::Connected, so both must be
# awaited. Without SNAP no channel opens here.
# Run: findings/str0m-snap-opens-unconnected-channels.sh   (needs cargo, a C compiler and a registry; about a minute)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "snap"
version = "0.0.0"
edition = "2024"

[dependencies]
str0m = { version = "=0.25.0", default-features = false, features = ["aws-lc-rs"] }
TOML
cat >src/main.rs <<'RUST'
use std::sync::Arc;
use std::time::Instant;
use str0m::channel::{ChannelConfig, ChannelId, SctpInitData};
use str0m::{Event, Input, Output, Rtc};

/// What happens at one end that never hears from the other.
fn alone(snap: bool) -> (bool, bool, bool) {
    let now = Instant::now();
    let crypto = Arc::new(str0m::crypto::from_feature_flags());
    let mut rtc = Rtc::builder().set_crypto_provider(crypto).build(now);
    let mut api = rtc.direct_api();
    api.start_dtls(true).unwrap();
    if snap {
        let (mut ours, mut theirs) = (SctpInitData::new(), SctpInitData::new());
        ours.local_init_chunk().unwrap();
        ours.set_remote_init_chunk(theirs.local_init_chunk().unwrap());
        api.start_sctp_with_snap(true, ours).unwrap();
    } else {
        api.start_sctp(true);
    }
    let negotiated = ChannelConfig { negotiated: Some(1), ..ChannelConfig::default() };
    let id: ChannelId = api.create_data_channel(negotiated);
    let mut opened = false;
    rtc.handle_input(Input::Timeout(now)).unwrap();
    loop {
        match rtc.poll_output().unwrap() {
            Output::Event(Event::ChannelOpen(open, _)) => opened |= open == id,
            Output::Timeout(_) => break,
            Output::Event(_) | Output::Transmit(_) => {}
        }
    }
    let written = rtc.channel(id).is_some_and(|mut channel| channel.write(true, b"x").unwrap());
    (opened, written, rtc.is_connected())
}

fn main() {
    for snap in [true, false] {
        let (opened, written, connected) = alone(snap);
        println!("SNAP {snap}: ChannelOpen {opened}, write taken {written}, connected {connected}");
    }
}
RUST
cargo --version
echo 'str0m 0.25.0'
cargo run --quiet >seen
cat seen
printf '%s\n' 'SNAP true: ChannelOpen true, write taken true, connected false' \
    'SNAP false: ChannelOpen false, write taken false, connected false' | diff - seen
