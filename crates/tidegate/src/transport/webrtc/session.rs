//! One WebRTC connection, without I/O: time, packets and frames go in and come out.
//!
//! Each channel of the node is a negotiated data channel with the same number. What [`Mux`] wants to write on it is
//! cut into messages that every browser takes, and put together again at the other end.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use str0m::channel::{ChannelConfig, ChannelData, ChannelId, Reliability, SctpInitData};
use str0m::crypto::dtls::{DtlsCert, DtlsVersion};
use str0m::crypto::{CryptoProvider, Fingerprint};
use str0m::net::{Protocol, Receive};
use str0m::{Event, IceConnectionState, IceCreds, Input, Output, Rtc, RtcConfig};
use tidegate_proto::wire::{
    Candidate, CandidateKind, Description, Fingerprints, Frame, IpAddress, MAX_CANDIDATES,
};
use tidegate_proto::{FIRST_AGREED, Kind, Scope};

use crate::transport::form::Form;
use crate::transport::mux::{Mux, MuxError};
use crate::transport::to_core;

/// Bytes of the largest message that is sent or taken on a data channel. Browsers take 64 KiB at least; smaller ones
/// let frames of several channels take turns, and a message larger than the send buffer is never taken.
pub(super) const MESSAGE: usize = 16 << 10;
/// Bytes that may wait for the peer's acknowledgement, in all. More only overruns the receiver's socket: str0m paces
/// nothing, and a lost burst costs a second.
const IN_FLIGHT: usize = 64 << 10;
/// The INIT of SCTP in a description.
const MAX_SCTP: usize = 256;
/// How long the last frames on channel 0 may take after [`Session::close`].
const LAST_FRAMES: Duration = Duration::from_secs(1);
/// How often a connection whose checks have stopped is begun again. str0m does not do so by itself: both ends stop for
/// good after 22 s without packets.
const REVIVE: Duration = Duration::from_secs(2);
/// Addresses of the peer that are remembered, to begin again with them.
const MAX_REMOTE: usize = 16;

/// What a description says that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("the description has no ICE credentials of the required length")]
    Credentials,
    #[error("the description takes no messages of {MESSAGE} bytes")]
    Messages,
    #[error("the description's INIT of SCTP is not valid")]
    Sctp,
    #[error("the description came twice")]
    Twice,
}

/// What all connections of a node have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    crypto: Arc<CryptoProvider>,
    /// Channel instances that the node can agree on.
    instances: u32,
}

impl Common {
    pub(super) fn new(instances: u32) -> Self {
        static CRYPTO: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
        let crypto = CRYPTO.get_or_init(|| Arc::new(str0m::crypto::from_feature_flags())).clone();
        Self { crypto, instances }
    }

    /// For each connection a new one: so the two fingerprints are of one session only, and prove it. R19.1.2
    fn certificate(&self) -> Option<(DtlsCert, [u8; 32])> {
        let certificate = self.crypto.dtls_provider.generate_certificate()?;
        let fingerprint = self.crypto.sha256_provider.sha256(&certificate.certificate);
        Some((certificate, fingerprint))
    }

    fn config(&self, certificate: DtlsCert) -> RtcConfig {
        Rtc::builder()
            .clear_codecs()
            .set_crypto_provider(self.crypto.clone())
            .set_dtls_cert(certificate)
            .set_dtls_version(DtlsVersion::Auto)
            .set_sctp_max_buffered_amount(IN_FLIGHT)
            .set_sctp_max_message_size(MESSAGE as u32)
    }
}

/// Which end said what first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It made the offer: it dials.
    Offers,
    /// It made the answer.
    Answers,
}

/// What happened, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// All channels can be used.
    Up,
    /// The channel can take another frame.
    Writable(u32),
    /// Checks get no answers any more, or again.
    Reachable(bool),
}

/// Datagrams to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) contents: Vec<u8>,
}

impl Packet {
    fn of(transmit: &str0m::net::Transmit) -> Self {
        let (source, destination) = (transmit.source, transmit.destination);
        Self { source, destination, contents: transmit.contents.to_vec() }
    }
}

/// One end of a connection.
pub(super) struct Session {
    rtc: Rtc,
    role: Role,
    credentials: IceCreds,
    /// SHA-256 of the certificate, this end's and the peer's.
    fingerprints: ([u8; 32], Option<[u8; 32]>),
    instances: u32,
    candidates: Vec<Candidate>,
    remote: Vec<str0m::Candidate>,
    /// This end's INIT of SCTP.
    sctp: SctpInitData,
    described: bool,
    /// DTLS is complete: with both INITs known in advance, channels open before.
    secure: bool,
    mux: Mux,
    /// Channels by number.
    channels: Vec<(u32, ChannelId)>,
    /// Those that have not opened yet.
    closed_yet: usize,
    up: bool,
    /// What is being written: its channel, and the rest of it.
    writing: Option<(u32, Bytes)>,
    packets: VecDeque<Packet>,
    happened: VecDeque<Happened>,
    /// When str0m wants to be asked again.
    timeout: Instant,
    /// When checks are begun again, while they get no answers.
    revive: Option<Instant>,
    /// When the last frames must have left, once the node has closed it.
    closing: Option<Instant>,
    over: bool,
    /// The peer's address, and this end's, as ICE has chosen.
    pair: Option<(SocketAddr, SocketAddr)>,
    cause: Option<String>,
}

impl Session {
    /// One end, with this ICE user name fragment; `None` if the system has no randomness.
    pub(super) fn new(common: &Common, role: Role, ufrag: String, now: Instant) -> Option<Self> {
        let credentials = IceCreds { ufrag, pass: IceCreds::new().pass };
        let (certificate, fingerprint) = common.certificate()?;
        let config = common.config(certificate).set_local_ice_credentials(credentials.clone());
        let mut rtc = config.build(now);
        rtc.direct_api().set_ice_controlling(role == Role::Offers);
        Some(Self {
            rtc,
            role,
            credentials,
            fingerprints: (fingerprint, None),
            instances: common.instances,
            candidates: Vec::new(),
            remote: Vec::new(),
            sctp: SctpInitData::new(),
            described: false,
            secure: false,
            mux: Mux::new(),
            channels: Vec::new(),
            closed_yet: 0,
            up: false,
            writing: None,
            packets: VecDeque::new(),
            happened: VecDeque::new(),
            timeout: now,
            revive: None,
            closing: None,
            over: false,
            pair: None,
            cause: None,
        })
    }

    /// Adds an address of this end: the one that others see, and the socket's own behind it.
    pub(super) fn add_local(&mut self, kind: CandidateKind, seen: SocketAddr, base: SocketAddr) {
        let made = match kind {
            CandidateKind::Host => str0m::Candidate::host(seen, Protocol::Udp),
            CandidateKind::Reflexive => {
                str0m::Candidate::server_reflexive(seen, base, Protocol::Udp)
            }
            CandidateKind::Relayed => str0m::Candidate::relayed(seen, base, Protocol::Udp),
            CandidateKind::Quic => return,
        };
        // A description has room for `MAX_CANDIDATES`.
        if self.candidates.len() < MAX_CANDIDATES
            && let Ok(made) = made
            && self.rtc.add_local_candidate(made).is_some()
        {
            self.candidates.push(candidate(kind, seen));
        }
    }

    /// What the other end must know.
    pub(super) fn description(&mut self) -> Description {
        // Either both ends save the round trips, or none. R19.1.3
        let saves = self.role == Role::Offers || self.sctp.has_remote_init_chunk();
        let init = if saves { self.own_init() } else { None };
        Description {
            ufrag: self.credentials.ufrag.clone(),
            password: self.credentials.pass.clone(),
            fingerprint: self.fingerprints.0,
            candidates: self.candidates.clone(),
            max_message: MESSAGE as u32,
            instances: self.instances,
            sctp: init.unwrap_or_default().into(),
        }
    }

    fn own_init(&mut self) -> Option<Vec<u8>> {
        self.sctp.local_init_chunk().ok().filter(|init| init.len() <= MAX_SCTP)
    }

    /// Takes the other end's description; from now on packets are exchanged.
    pub(super) fn accept(&mut self, theirs: &Description) -> Result<(), Unusable> {
        if self.described {
            return Err(Unusable::Twice);
        }
        // R19.1.1
        if theirs.ufrag.len() < 4 || theirs.password.len() < 22 {
            return Err(Unusable::Credentials);
        }
        if (theirs.max_message as usize) < MESSAGE {
            return Err(Unusable::Messages);
        }
        let saves = !theirs.sctp.is_empty() && self.own_init().is_some();
        self.described = true;
        self.fingerprints.1 = Some(theirs.fingerprint);
        let active = self.role == Role::Answers;
        let mut api = self.rtc.direct_api();
        api.set_remote_ice_credentials(IceCreds {
            ufrag: theirs.ufrag.clone(),
            pass: theirs.password.clone(),
        });
        api.set_remote_fingerprint(Fingerprint {
            hash_func: "sha-256".into(),
            bytes: theirs.fingerprint.to_vec(),
        });
        if let Err(error) = api.start_dtls(active) {
            self.end(error.to_string());
            return Ok(());
        }
        if saves {
            self.sctp.set_remote_init_chunk(theirs.sctp.to_vec());
            if api.start_sctp_with_snap(active, self.sctp.clone()).is_err() {
                return Err(Unusable::Sctp);
            }
        } else {
            api.start_sctp(active);
        }
        // Before the answer leaves: a message for a channel that is not there yet is lost. R19.2.1
        let instances = self.instances.min(theirs.instances);
        let fixed = Kind::all_fixed().map(|(number, _)| number);
        for number in fixed.chain(FIRST_AGREED..FIRST_AGREED + instances) {
            let id = api.create_data_channel(ChannelConfig {
                label: number.to_string(),
                ordered: true,
                reliability: Reliability::Reliable,
                negotiated: u16::try_from(number).ok(),
                protocol: String::new(),
            });
            self.channels.push((number, id));
        }
        self.closed_yet = self.channels.len();
        self.add_remote(&theirs.candidates);
        Ok(())
    }

    /// Adds addresses of the other end.
    pub(super) fn add_remote(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            let Some(made) = ice_candidate(candidate) else { continue };
            if self.remote.len() < MAX_REMOTE && !self.remote.contains(&made) {
                self.remote.push(made.clone());
                self.rtc.add_remote_candidate(made);
            }
        }
    }

    /// Takes a packet that has arrived for this connection.
    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        source: SocketAddr,
        destination: SocketAddr,
        packet: &[u8],
    ) {
        if self.over {
            return;
        }
        let Ok(receive) = Receive::new(Protocol::Udp, source, destination, packet) else { return };
        // Anybody can send a packet that cannot be read: it is dropped.
        if let Err(error) = self.rtc.handle_input(Input::Receive(now, receive)) {
            tracing::debug!(target: "tidegate::webrtc", "dropped a packet of {source}: {error}");
        }
        self.proceed(now);
    }

    /// Starts reading a channel.
    pub(super) fn open(&mut self, channel: u32) {
        self.mux.open(channel);
    }

    /// Queues a frame for a channel that is writable.
    pub(super) fn send(&mut self, channel: u32, frame: Frame) {
        if self.closing.is_none() && !self.mux.send(channel, frame) {
            self.end("a frame larger than any may be".to_owned());
        }
    }

    /// Ends the connection once what was given for channel 0 has arrived.
    pub(super) fn close(&mut self, now: Instant) {
        self.closing.get_or_insert(now + LAST_FRAMES);
    }

    /// Ends the connection at once.
    pub(super) fn abort(&mut self) {
        self.end("closed".to_owned());
    }

    /// The next packet to send.
    pub(super) fn next_packet(&mut self) -> Option<Packet> {
        self.packets.pop_front()
    }

    pub(super) fn next_happened(&mut self) -> Option<Happened> {
        self.happened.pop_front()
    }

    pub(super) fn has_frame(&self) -> bool {
        self.mux.has_frame()
    }

    pub(super) fn next_frame(&mut self) -> Option<(u32, Frame)> {
        self.mux.next_frame()
    }

    /// When [`Session::drive`] is to be called at the latest.
    pub(super) fn timeout(&self) -> Instant {
        let more = [self.revive, self.closing].into_iter().flatten();
        more.fold(self.timeout, Instant::min)
    }

    /// Whether it has ended; frames that have arrived may be left.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Why it ended, if that is known.
    pub(super) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// This end's address and the peer's, as chosen by ICE.
    pub(super) fn pair(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.pair
    }

    /// Of the certificates, if the peer's is known: that of the dialer, and that of the other.
    pub(super) fn fingerprints(&self) -> Option<Fingerprints> {
        let (ours, theirs) = (self.fingerprints.0, self.fingerprints.1?);
        Some(match self.role {
            Role::Offers => Fingerprints { dialer: ours, listener: theirs },
            Role::Answers => Fingerprints { dialer: theirs, listener: ours },
        })
    }

    /// Ends it, and tells the peer; nothing waits for its answer.
    fn end(&mut self, cause: String) {
        if self.over {
            return;
        }
        self.over = true;
        self.cause = Some(cause);
        if self.rtc.close().is_ok() {
            while let Ok(Output::Transmit(_) | Output::Event(_)) =
                self.rtc.poll_output().inspect(|output| {
                    if let Output::Transmit(transmit) = output {
                        self.packets.push_back(Packet::of(transmit));
                    }
                })
            {}
        }
    }

    /// Does what is to be done: to be called after anything else, and at [`Session::timeout`].
    pub(super) fn drive(&mut self, now: Instant) {
        if self.over {
            return;
        }
        self.revive(now);
        if let Err(error) = self.rtc.handle_input(Input::Timeout(now)) {
            return self.end(error.to_string());
        }
        self.proceed(now);
    }

    /// Takes what str0m has to say, and writes what it has room for.
    fn proceed(&mut self, now: Instant) {
        // After each change all output is taken, before the next: str0m's rule.
        self.drain();
        while !self.over && self.write_one() {
            self.drain();
        }
        while let Some(channel) = self.mux.next_writable() {
            self.happened.push_back(Happened::Writable(channel));
        }
        self.end_when_closed(now);
    }

    fn revive(&mut self, now: Instant) {
        if self.revive.is_none_or(|at| at > now) {
            return;
        }
        self.revive = Some(now + REVIVE);
        for candidate in self.remote.clone() {
            self.rtc.add_remote_candidate(candidate);
            self.drain();
        }
    }

    fn drain(&mut self) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.timeout = at;
                    return;
                }
                Ok(Output::Transmit(transmit)) => {
                    let packet = Packet::of(&transmit);
                    // Only checks go elsewhere than to the chosen pair.
                    if packet.contents.first().is_some_and(|first| *first > 3) {
                        self.pair = Some((packet.source, packet.destination));
                    }
                    self.packets.push_back(packet);
                }
                Ok(Output::Event(event)) => self.on_event(event),
                Err(error) => return self.end(error.to_string()),
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::ChannelOpen(id, _) => {
                if self.number(id).is_none() {
                    return self.end("the peer opened a channel that was not agreed".to_owned());
                }
                self.closed_yet = self.closed_yet.saturating_sub(1);
                self.check_up();
            }
            Event::Connected => {
                self.secure = true;
                self.check_up();
            }
            Event::ChannelData(data) => self.on_data(&data),
            Event::ChannelClose(_) | Event::Closed => self.end("the peer closed it".to_owned()),
            Event::IceConnectionStateChange(state) => self.on_ice(state),
            _ => {}
        }
    }

    fn on_ice(&mut self, state: IceConnectionState) {
        let reachable = state != IceConnectionState::Disconnected;
        if reachable == self.revive.is_some() {
            self.revive = (!reachable).then_some(self.timeout);
            self.happened.push_back(Happened::Reachable(reachable));
        }
    }

    fn on_data(&mut self, data: &ChannelData) {
        // The peer's channels are up before this end's: what it has sent is the proof.
        self.is_up();
        let Some(number) = self.number(data.id) else {
            return self.end("the peer sent on a channel that was not agreed".to_owned());
        };
        // R19.2.2
        if data.data.len() > MESSAGE {
            return self.end(MuxError::TooLarge.to_string());
        }
        if let Err(error) = self.mux.receive_on(number, &data.data) {
            self.end(error.to_string());
        }
    }

    fn check_up(&mut self) {
        if self.secure && self.closed_yet == 0 {
            self.is_up();
        }
    }

    fn is_up(&mut self) {
        if !self.up {
            self.up = true;
            self.happened.push_back(Happened::Up);
        }
    }

    fn number(&self, id: ChannelId) -> Option<u32> {
        self.channels.iter().find(|(_, of)| *of == id).map(|(number, _)| *number)
    }

    fn id(&self, number: u32) -> Option<ChannelId> {
        self.channels.iter().find(|(of, _)| *of == number).map(|(_, id)| *id)
    }

    /// Writes one message; `false` if none can be written now.
    fn write_one(&mut self) -> bool {
        if self.writing.is_none() {
            self.writing = self.mux.next_write_on();
        }
        let Some((number, rest)) = &self.writing else { return false };
        let Some(id) = self.id(*number) else {
            self.end("a frame on a channel that was not agreed".to_owned());
            return false;
        };
        let piece = &rest[..rest.len().min(MESSAGE)];
        let Some(mut channel) = self.rtc.channel(id) else { return false };
        match channel.write(true, piece) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                self.end(error.to_string());
                return false;
            }
        }
        let length = piece.len();
        if let Some((_, rest)) = &mut self.writing {
            rest.advance(length);
            if rest.is_empty() {
                self.writing = None;
            }
        }
        true
    }

    /// Whether all that was given for channel 0 has been acknowledged.
    fn has_said_all(&mut self) -> bool {
        let Some(id) = self.id(0) else { return true };
        let writes = self.writing.as_ref().is_some_and(|(number, _)| *number == 0);
        let waits = self.rtc.channel(id).is_some_and(|mut channel| channel.buffered_amount() > 0);
        self.mux.has_sent(0) && !writes && !waits
    }

    fn end_when_closed(&mut self, now: Instant) {
        let Some(until) = self.closing else { return };
        if self.over || now < until && self.up && !self.has_said_all() {
            return;
        }
        self.abort();
    }
}

/// The core's form of an address.
pub(super) fn candidate(kind: CandidateKind, address: SocketAddr) -> Candidate {
    let ip = match address.ip() {
        IpAddr::V4(ip) => IpAddress::V4(ip.octets()),
        IpAddr::V6(ip) => IpAddress::V6(ip.octets()),
    };
    Candidate { kind, ip, port: address.port().into() }
}

/// The address of a candidate; `None` if its port is none.
pub(super) fn address_of(candidate: &Candidate) -> Option<SocketAddr> {
    let port = u16::try_from(candidate.port).ok().filter(|port| *port > 0)?;
    let ip = match &candidate.ip {
        IpAddress::V4(octets) => IpAddr::from(*octets),
        IpAddress::V6(octets) => IpAddr::from(*octets),
    };
    let address = SocketAddr::from((ip, port));
    // As addresses of records: no packet goes on another's word to where nobody can be. R5.4.4
    let scope = to_core(&Form::WebRtc.address(address)).scope();
    (scope > Scope::None).then_some(address)
}

fn ice_candidate(candidate: &Candidate) -> Option<str0m::Candidate> {
    let address = address_of(candidate)?;
    let unspecified = SocketAddr::new(
        if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) },
        0,
    );
    match candidate.kind {
        CandidateKind::Host => str0m::Candidate::host(address, Protocol::Udp).ok(),
        CandidateKind::Reflexive => {
            str0m::Candidate::server_reflexive(address, unspecified, Protocol::Udp).ok()
        }
        CandidateKind::Relayed => {
            str0m::Candidate::relayed(address, unspecified, Protocol::Udp).ok()
        }
        CandidateKind::Quic => None,
    }
}

#[cfg(test)]
mod tests;
