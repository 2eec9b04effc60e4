//! The honest peers, and how the attacks affect them.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate::{Multiaddr, Node, accept_all};

use super::attack::ALL;
use super::victim::{HUNDRED, NAME, PLACES, POOL, node, worst_case};
use crate::helper::{Helper, Priority, dropped, mib, processor, resident};
use crate::items::{Member, Watch, item, met, percentile, until, within};

/// The interval of items: 50 a second.
const PACE: Duration = Duration::from_millis(20);
const SIZE: usize = 1 << 10;
/// How long to wait for the last items of a phase.
const LAST: Duration = Duration::from_secs(10);
/// The interval of measurements of the victim's memory.
const SAMPLE: Duration = Duration::from_millis(50);
/// The largest acceptable ratio to the delay in the quiet phase.
const TARGET: f64 = 2.0;
/// The time between the start of an attack and the first item that counts.
const RUN_UP: Duration = Duration::from_millis(500);

/// Durations and counts.
struct Scale {
    phase: Duration,
    datagrams: usize,
    identities: usize,
}

impl Scale {
    fn of(quick: bool) -> Self {
        if quick {
            Self { phase: Duration::from_secs(3), datagrams: 2000, identities: 200 }
        } else {
            Self { phase: Duration::from_secs(10), datagrams: 10_000, identities: 1000 }
        }
    }

    fn size_of(&self, attack: &str) -> usize {
        match attack {
            "half-open" | "storm" | "flood" => self.datagrams,
            "hostile" => HUNDRED as usize - 2,
            _ => self.identities,
        }
    }
}

/// The results of a phase.
struct Figures {
    p50: f64,
    p99: f64,
    worst: f64,
    items: usize,
    missing: usize,
    /// How many processors the victim kept busy.
    processors: f64,
    /// Datagrams lost at its full socket.
    dropped: u64,
}

/// The peak of the victim's resident memory since the last call.
struct Memory {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Memory {
    /// On a separate thread, so that it never waits for its turn.
    fn watch(process: u32) -> Self {
        let (most, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (told, stopped) = (most.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                told.fetch_max(resident(process), Ordering::Relaxed);
                std::thread::sleep(SAMPLE);
            }
        });
        Self { most, stop }
    }

    fn take(&self) -> u64 {
        self.most.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Siege {
    victim: Helper,
    address: Multiaddr,
    memory: Memory,
    a: Member,
    b: Member,
    watch: Arc<Watch>,
    next: u64,
    scale: Scale,
    places: u32,
    missed: Vec<String>,
}

impl Siege {
    async fn start(scale: Scale, places: u32) -> Self {
        let victim = Helper::start("victim", &[places.to_string()], Priority::Same);
        let address: Multiaddr = victim.hear().parse().expect("an address");
        let watch = Arc::new(Watch::default());
        // They reconnect by themselves if they are cut off.
        let a = Member::start(node(accept_all, places).peer(&address), &Arc::default());
        let b = Member::start(node(accept_all, places).peer(&address), &watch);
        until("both are connected", || a.seen().connected + b.seen().connected == 2).await;
        let memory = Memory::watch(victim.id());
        Self { victim, address, memory, a, b, watch, next: 0, scale, places, missed: Vec::new() }
    }

    /// Publishes for the duration of a phase.
    async fn measure(&mut self) -> Figures {
        self.watch.forget();
        self.b.take_delays();
        let (since, before) = (Instant::now(), self.cost());
        let (mut pace, end) = (tokio::time::interval(PACE), Instant::now() + self.scale.phase);
        let mut items = 0;
        while Instant::now() < end {
            pace.tick().await;
            // The newest are the best, so that a full pool always has room for them.
            self.next += 1;
            items += 1;
            self.watch.publish(&self.a.node, POOL, NAME, item(self.next, SIZE)).await;
        }
        within(LAST, || self.watch.missing() == 0).await;
        let missing = self.watch.missing();
        let cost = self.cost();
        let processors = (cost.0 - before.0).as_secs_f64() / since.elapsed().as_secs_f64();
        let dropped = cost.1 - before.1;
        let mut delays = self.b.take_delays();
        let mut at = |percent| percentile(&mut delays, percent);
        let (p50, p99, worst) = (at(50), at(99), at(100));
        Figures { p50, p99, worst, items, missing, processors, dropped }
    }

    /// The victim's processor time so far, and its lost datagrams.
    fn cost(&self) -> (Duration, u64) {
        let port = socket_of(&self.address).port();
        (processor(self.victim.id()), dropped(port))
    }

    fn line(&self, what: &str, figures: &Figures) {
        let Figures { p50, p99, worst, items, missing, processors, dropped } = figures;
        println!(
            "  {what}: {items} items, {missing} missing, p50 {p50:.2} ms, p99 {p99:.2} ms, \
             worst {worst:.2} ms; victim at most {:.1} MiB, {processors:.2} processors, {dropped} \
             datagrams dropped",
            mib(self.memory.take()),
        );
    }

    /// Peers that take all places but those of A and B.
    async fn fill(&self) -> Vec<Node> {
        let mut fillers = Vec::new();
        for _ in 2..PLACES {
            let filler = Member::start(node(accept_all, PLACES), &Arc::default());
            filler.node.dial(&self.address).expect("a running node");
            until("a place is taken", || filler.seen().connected == 1).await;
            fillers.push(filler.node);
        }
        fillers
    }

    /// The attack on a target, until the returned value is dropped.
    async fn begin(&self, name: &str, at: SocketAddr) -> Helper {
        let size = self.scale.size_of(name).to_string();
        let with = [name.to_owned(), at.to_string(), size];
        let mut attacker = Helper::start("attack", &with, Priority::Low);
        assert_eq!(attacker.hear(), "prepared");
        attacker.say("begin");
        tokio::time::sleep(RUN_UP).await;
        attacker
    }

    /// The machine's share of the effect: the same attack on another target.
    async fn control(&mut self, name: &str) -> Figures {
        let (decoy, address) = match name {
            "half-open" | "storm" | "flood" => (None, closed_port()),
            _ => {
                let places = self.places.to_string();
                let decoy = Helper::start("victim", &[places], Priority::Low);
                let address = decoy.hear().parse().expect("an address");
                (Some(decoy), socket_of(&address))
            }
        };
        let attacker = self.begin(name, address).await;
        let figures = self.measure().await;
        self.line("another is attacked", &figures);
        drop((attacker, decoy));
        figures
    }

    async fn attack(&mut self, name: &str) {
        println!("{name}");
        let fillers = if name == "beyond" { self.fill().await } else { Vec::new() };
        let lost = self.lost();
        self.memory.take();
        let quiet = self.measure().await;
        self.line("quiet", &quiet);
        let control = self.control(name).await;
        let mut attacker = self.begin(name, socket_of(&self.address)).await;
        let busy = self.measure().await;
        let most = self.memory.take();
        self.memory.most.fetch_max(most, Ordering::Relaxed);
        self.line("attacked", &busy);
        println!("  attackers: {}", attacker.ask("so far"));
        drop(attacker);
        println!("  victim: {}", self.victim.ask("seen"));
        for (what, base) in [("quiet", &quiet), ("another", &control)] {
            let (p50, p99) = (busy.p50 / base.p50, busy.p99 / base.p99);
            self.judge(
                name,
                &format!("delay against {what}"),
                p50 < TARGET && p99 < TARGET,
                &format!("p50 {p50:.2}×, p99 {p99:.2}×, target < {TARGET}×"),
            );
        }
        let bound = worst_case(self.places);
        let share = format!("{:.1} MiB of {:.1} MiB", mib(most), mib(bound));
        self.judge(name, "memory", most <= bound, &share);
        let lost = self.lost() - lost;
        self.judge(name, "honest connections", lost == 0, &format!("{lost} lost"));
        self.judge(name, "items", busy.missing == 0, &format!("{} missing", busy.missing));
        let lives = self.victim.lives();
        self.judge(name, "victim", lives, if lives { "lives" } else { "is gone" });
        for filler in fillers {
            filler.shutdown().await;
        }
    }

    fn judge(&mut self, attack: &str, what: &str, good: bool, how: &str) {
        println!("    {what}: {how}: {}", met(good));
        if !good {
            self.missed.push(format!("{attack}: {what} ({how})"));
        }
    }

    /// Connections that A and B have lost.
    fn lost(&self) -> u64 {
        self.a.seen().disconnected + self.b.seen().disconnected
    }
}

/// A closed port.
fn closed_port() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.local_addr().expect("it is bound")
}

fn socket_of(address: &Multiaddr) -> SocketAddr {
    let text = address.to_string();
    let parts: Vec<_> = text.split('/').collect();
    format!("{}:{}", parts[2], parts[4]).parse().expect("an IP address and a port")
}

pub(crate) async fn run(quick: bool) {
    let only = std::env::args().skip_while(|argument| argument != "--only").nth(1);
    let mut missed = Vec::new();
    for (places, attacks) in [(PLACES, &ALL[..6]), (HUNDRED, &ALL[6..])] {
        let wanted = |name: &&&str| only.as_ref().is_none_or(|only| only == **name);
        let attacks = attacks.iter().filter(wanted).collect::<Vec<_>>();
        if !attacks.is_empty() {
            missed.extend(besiege(quick, places, &attacks).await);
        }
    }
    match missed.as_slice() {
        [] => println!("all targets met"),
        missed => println!("missed: {}", missed.join("; ")),
    }
}

/// One victim, and one attack after the other; returns the missed targets.
async fn besiege(quick: bool, places: u32, attacks: &[&&str]) -> Vec<String> {
    let mut scale = Scale::of(quick);
    let minutes = std::env::args().skip_while(|argument| argument != "--minutes").nth(1);
    if let Some(minutes) = minutes.and_then(|minutes| minutes.parse::<u64>().ok()) {
        scale.phase = Duration::from_secs(60 * minutes);
    }
    let mut siege = Siege::start(scale, places).await;
    println!("the victim's worst case is {:.1} MiB", mib(worst_case(places)));
    for name in attacks {
        siege.attack(name).await;
    }
    let Siege { victim, a, b, mut missed, .. } = siege;
    a.node.shutdown().await;
    b.node.shutdown().await;
    let (status, errors) = victim.end();
    let panics = errors.matches("panicked").count();
    println!(
        "the victim ended with {status}, {panics} panics, {} bytes of complaints",
        errors.len()
    );
    if !status.success() || panics > 0 {
        missed.push(format!("the victim: {errors}"));
    }
    missed
}
