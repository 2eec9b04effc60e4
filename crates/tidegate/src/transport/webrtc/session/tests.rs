//! Two ends and a network between them, in virtual time.

use std::collections::BTreeMap;

use super::*;

/// Packets on their way, by arrival; sent from one end to the other.
struct Net {
    start: Instant,
    now: Instant,
    ends: [Session; 2],
    way: BTreeMap<(Instant, u64), (usize, Packet)>,
    sent: u64,
    delay: Duration,
    /// One in that many packets is lost.
    loss: Option<u64>,
    seed: u64,
    happened: [Vec<Happened>; 2],
    frames: [Vec<(u32, Frame)>; 2],
}

fn socket(end: usize) -> SocketAddr {
    ([10, 0, 0, 1 + end as u8], 4000).into()
}

fn common() -> Common {
    Common::new(8)
}

impl Net {
    fn new(delay: Duration) -> Self {
        Self::between([common(), common()], delay)
    }

    fn between(common: [Common; 2], delay: Duration) -> Self {
        let now = Instant::now();
        let [a, b] = common;
        let mut ends = [
            Session::new(&a, Role::Offers, "offerer1".into(), now).unwrap(),
            Session::new(&b, Role::Answers, "answerer".into(), now).unwrap(),
        ];
        for (at, end) in ends.iter_mut().enumerate() {
            end.add_local(CandidateKind::Host, socket(at), socket(at));
        }
        Self {
            start: now,
            now,
            ends,
            way: BTreeMap::new(),
            sent: 0,
            delay,
            loss: None,
            seed: 1,
            happened: Default::default(),
            frames: Default::default(),
        }
    }

    /// The offer arrives, and then the answer.
    fn describe(&mut self) {
        let offer = self.ends[0].description();
        self.ends[1].accept(&offer).unwrap();
        let answer = self.ends[1].description();
        self.ends[0].accept(&answer).unwrap();
    }

    fn random(&mut self) -> u64 {
        // xorshift64
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    fn collect(&mut self, at: usize) {
        self.ends[at].drive(self.now);
        while let Some(packet) = self.ends[at].next_packet() {
            let lost = self.loss.is_some_and(|one_in| self.random().is_multiple_of(one_in));
            // Some are overtaken.
            let late = if self.loss.is_some() && self.random().is_multiple_of(20) { 2 } else { 1 };
            self.sent += 1;
            if !lost {
                self.way.insert((self.now + self.delay * late, self.sent), (1 - at, packet));
            }
        }
        while let Some(happened) = self.ends[at].next_happened() {
            self.happened[at].push(happened);
        }
        while let Some(frame) = self.ends[at].next_frame() {
            self.frames[at].push(frame);
        }
    }

    /// Runs until it holds; `false` if it does not within this time.
    fn until(&mut self, within: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + within;
        loop {
            (0..2).for_each(|at| self.collect(at));
            (0..2).for_each(|at| self.collect(at));
            if holds(self) {
                return true;
            }
            let arrival = self.way.keys().next().map(|(at, _)| *at);
            let timers = self.ends.iter().filter(|end| !end.is_over()).map(Session::timeout);
            let Some(next) = timers.chain(arrival).min() else { return false };
            // Time must pass, even if a timer is due at once.
            self.now = next.max(self.now + Duration::from_micros(1));
            if self.now > end {
                return false;
            }
            while let Some(entry) = self.way.first_entry().filter(|entry| entry.key().0 <= self.now)
            {
                let (to, packet) = entry.remove();
                if packet.destination == socket(to) {
                    let (from, at) = (packet.source, packet.destination);
                    self.ends[to].handle_packet(self.now, from, at, &packet.contents);
                }
            }
        }
    }

    fn up(delay: Duration) -> Self {
        let mut net = Self::new(delay);
        net.describe();
        let up = net.until(Duration::from_secs(15), Self::are_up);
        let causes = [0, 1].map(|end: usize| net.ends[end].cause().map(str::to_owned));
        assert!(up, "{causes:?} after {:?}, {} packets", net.now - net.start, net.sent);
        net
    }

    fn are_up(&self) -> bool {
        self.happened.iter().all(|happened| happened.contains(&Happened::Up))
    }
}

fn frame(n: u8, size: usize) -> Frame {
    Bytes::from(vec![n; size]).into()
}

#[test]
fn two_ends_find_each_other_in_three_round_trips() {
    let mut net = Net::up(Duration::from_millis(25));
    let took = net.now - net.start;
    println!("{took:?}, {} packets", net.sent);
    assert!(took <= Duration::from_millis(250), "{took:?}");
    net.ends[0].send(0, frame(1, 60_000));
    net.ends[1].send(0, frame(2, 10));
    assert!(net.until(Duration::from_secs(5), |net| net.frames.iter().all(|f| f.len() == 1)));
    assert_eq!(net.frames[1], [(0, frame(1, 60_000))]);
    assert_eq!(net.frames[0], [(0, frame(2, 10))]);
}

/// The answer takes the way by a relay, and the first packets come before it.
#[test]
fn an_answer_that_comes_after_the_first_packets_costs_no_time() {
    for delay in [0, 1, 25] {
        for late in [0, 1, 2, 5, 10, 30, 60, 100, 200, 400] {
            let mut net = Net::new(Duration::from_millis(delay));
            let offer = net.ends[0].description();
            net.ends[1].accept(&offer).unwrap();
            let answer = net.ends[1].description();
            assert!(!net.until(Duration::from_millis(late), |_| false));
            net.now = net.start + Duration::from_millis(late);
            net.ends[0].accept(&answer).unwrap();
            assert!(net.until(Duration::from_secs(15), Net::are_up));
            let took = net.now - net.start - Duration::from_millis(late);
            println!("{delay} ms one way, {late} ms late: {took:?}");
            assert!(took <= Duration::from_millis(250), "{delay} ms, {late} ms late: {took:?}");
        }
    }
}

/// R19.2.1
#[test]
fn a_channel_that_is_not_open_holds_up_no_other() {
    let mut net = Net::up(Duration::from_millis(1));
    net.ends[0].send(16, frame(16, 1000));
    net.ends[0].send(0, frame(0, 1000));
    assert!(net.until(Duration::from_secs(5), |net| net.frames[1].len() == 1));
    assert_eq!(net.frames[1], [(0, frame(0, 1000))]);
    net.ends[1].open(16);
    assert!(net.until(Duration::from_secs(5), |net| net.frames[1].len() == 2));
    assert!(net.happened[0].contains(&Happened::Writable(16)));
}

#[test]
fn what_was_sent_before_the_close_arrives() {
    let mut net = Net::up(Duration::from_millis(20));
    net.ends[0].send(0, frame(7, 60_000));
    let now = net.now;
    net.ends[0].close(now);
    assert!(net.until(Duration::from_secs(2), |net| net.ends.iter().all(Session::is_over)));
    assert_eq!(net.frames[1], [(0, frame(7, 60_000))]);
    assert!(net.now - now < LAST_FRAMES, "{:?}", net.now - now);
}

/// Both ends stop checking after 22 s without packets, and str0m does not start again.
#[test]
fn a_connection_is_revived_when_the_network_is_back() {
    let mut net = Net::up(Duration::from_millis(20));
    net.loss = Some(1);
    assert!(net.until(Duration::from_secs(60), |net| {
        net.happened.iter().all(|happened| happened.contains(&Happened::Reachable(false)))
    }));
    // For a while longer: what is sent then is lost too.
    net.until(Duration::from_secs(20), |_| false);
    net.loss = None;
    let since = net.now;
    net.happened.iter_mut().for_each(Vec::clear);
    net.ends[0].send(0, frame(1, 100));
    assert!(net.until(Duration::from_secs(30), |net| net.frames[1].len() == 1));
    println!("{:?}", net.now - since);
    assert!(net.now - since < REVIVE * 2);
}

/// R19.1.1
#[test]
fn descriptions_that_cannot_be_used_are_refused() {
    let mut net = Net::new(Duration::ZERO);
    let good = net.ends[0].description();
    let mut bad = good.clone();
    bad.ufrag = "abc".into();
    assert_eq!(net.ends[1].accept(&bad), Err(Unusable::Credentials));
    let mut bad = good.clone();
    bad.password.truncate(21);
    assert_eq!(net.ends[1].accept(&bad), Err(Unusable::Credentials));
    let mut bad = good.clone();
    bad.max_message = MESSAGE as u32 - 1;
    assert_eq!(net.ends[1].accept(&bad), Err(Unusable::Messages));
    assert_eq!(net.ends[1].accept(&good), Ok(()));
    assert_eq!(net.ends[1].accept(&good), Err(Unusable::Twice));
}

/// R5.4.4: nobody is made to send where nobody can be.
#[test]
fn candidates_where_nobody_can_be_are_left_out() {
    let of = |text: &str| address_of(&candidate(CandidateKind::Host, text.parse().unwrap()));
    for none in [
        "224.0.0.1:9",
        "255.255.255.255:9",
        "0.0.0.0:9",
        "192.0.2.1:9",
        "192.0.2.1:0",
        "[ff02::1]:9",
        "[fe80::1]:9",
        "[::]:9",
        "[2001:db8::1]:9",
    ] {
        assert_eq!(of(none), None, "{none}");
    }
    for some in ["8.8.8.8:9", "10.0.0.1:9", "127.0.0.1:9", "[2600::1]:9", "[::1]:9"] {
        assert_eq!(of(some), Some(some.parse().unwrap()));
    }
}

/// R19.1.2
#[test]
fn another_certificate_than_described_ends_it() {
    let mut net = Net::new(Duration::from_millis(1));
    let mut offer = net.ends[0].description();
    offer.fingerprint[0] ^= 1;
    net.ends[1].accept(&offer).unwrap();
    let answer = net.ends[1].description();
    net.ends[0].accept(&answer).unwrap();
    assert!(!net.until(Duration::from_secs(5), Net::are_up));
    assert!(net.ends[1].is_over());
    assert!(net.ends[1].cause().unwrap().contains("fingerprint"), "{:?}", net.ends[1].cause());
}

/// R19.1.3
#[test]
fn a_peer_without_an_init_of_sctp_is_met_by_sctps_own_handshake() {
    let mut net = Net::new(Duration::from_millis(25));
    let mut offer = net.ends[0].description();
    offer.sctp = Bytes::new();
    net.ends[1].accept(&offer).unwrap();
    let answer = net.ends[1].description();
    assert!(answer.sctp.is_empty());
    net.ends[0].accept(&answer).unwrap();
    assert!(net.until(Duration::from_secs(5), Net::are_up));
    assert!(net.now - net.start > Duration::from_millis(200), "{:?}", net.now - net.start);
    net.ends[0].send(0, frame(1, 60_000));
    assert!(net.until(Duration::from_secs(5), |net| net.frames[1].len() == 1));
}

/// Bytes that anybody may put into an offer.
#[test]
fn an_init_of_sctp_that_is_none_ends_it() {
    for init in [&[1][..], &[0; 20], &[0xff; 256]] {
        let mut net = Net::new(Duration::from_millis(1));
        let mut offer = net.ends[0].description();
        offer.sctp = Bytes::copy_from_slice(init);
        if net.ends[1].accept(&offer).is_ok() {
            let answer = net.ends[1].description();
            net.ends[0].accept(&answer).unwrap();
            assert!(!net.until(Duration::from_secs(3), Net::are_up));
        }
    }
}

/// With losses and packets that overtake others, all handshakes succeed. `HANDSHAKES` says how many there are for each
/// loss; of str0m's randomness (keys, ICE's tie breaker, SCTP's tags) nothing repeats, the losses do.
#[test]
fn handshakes_succeed_with_losses() {
    let given = std::env::var("HANDSHAKES").ok().and_then(|count| count.parse::<u64>().ok());
    let count = given.unwrap_or(40);
    for loss in [None, Some(100), Some(20)] {
        let mut took = Vec::new();
        for seed in 1..=count {
            let mut net = Net::new(Duration::from_millis(25));
            (net.loss, net.seed) = (loss, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            net.describe();
            assert!(net.until(Duration::from_secs(15), Net::are_up), "loss {loss:?}, seed {seed}");
            took.push(net.now - net.start);
        }
        took.sort();
        let at = |percent: usize| took[took.len() * percent / 100];
        let (p50, p99) = (at(50), at(99));
        println!(
            "{count}, one in {loss:?} lost: p50 {p50:?}, p99 {p99:?}, at most {:?}",
            took[took.len() - 1]
        );
    }
}

/// INITs that are nearly valid, from a peer that says what it likes.
#[test]
fn changed_inits_of_sctp_do_no_harm() {
    let good = Net::new(Duration::ZERO).ends[0].description();
    for seed in 1..300_u64 {
        let mut net = Net::new(Duration::from_millis(1));
        net.seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut bytes = good.sctp.to_vec();
        for _ in 0..=seed % 4 {
            let at = net.random() as usize % bytes.len();
            match net.random() % 3 {
                0 => bytes[at] ^= 1 << (net.random() % 8),
                1 => bytes[at] = [0, 1, 0x80, 0xff][net.random() as usize % 4],
                _ => bytes.truncate(at.max(1)),
            }
        }
        let offer = Description { sctp: bytes.into(), ..good.clone() };
        if net.ends[1].accept(&offer).is_ok() {
            let answer = net.ends[1].description();
            net.ends[0].accept(&answer).unwrap();
            if net.until(Duration::from_secs(2), Net::are_up) {
                (0..2).for_each(|end| net.ends[end].send(0, frame(1, 60_000)));
                net.until(Duration::from_secs(2), |_| false);
            }
        }
    }
}
