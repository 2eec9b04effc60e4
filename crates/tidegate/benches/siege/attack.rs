//! An attacking process, at the lowest priority: it prepares, reports that it is ready, and starts
//! when it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{half_open, hostile, peers};
use crate::raw;

/// The attacks, in the order of the phases.
pub(crate) const ALL: [&str; 7] =
    ["half-open", "storm", "flood", "beyond", "garbage", "silence", "hostile"];

/// Counters of an attack.
#[derive(Default)]
pub(crate) struct Done {
    /// Datagrams sent, or handshakes started.
    pub(crate) begun: AtomicU64,
    /// Handshakes that were completed.
    pub(crate) met: AtomicU64,
    /// Refusals and goodbyes of the victim.
    pub(crate) answered: AtomicU64,
}

impl Done {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// With the attack's name, the victim's socket, and the number of datagrams or identities.
pub(crate) async fn in_process(with: &[String]) {
    let [name, victim, size] = with else { panic!("three arguments") };
    let victim: SocketAddr = victim.parse().expect("a socket");
    let size: usize = size.parse().expect("a number");
    let done = Arc::new(Done::default());
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let mut begin = async || {
        println!("prepared");
        let _ = input.next_line().await;
    };
    let since;
    match name.as_str() {
        "half-open" | "storm" | "flood" => {
            let rate = match name.as_str() {
                "half-open" => Some(10_000),
                "storm" => Some(50_000),
                _ => None,
            };
            let datagrams = raw::first_datagrams(size).await;
            begin().await;
            since = Instant::now();
            let done = done.clone();
            std::thread::spawn(move || half_open::fire(victim, &datagrams, rate, &done));
        }
        "hostile" => {
            let configs = peers::prepare(size);
            begin().await;
            since = Instant::now();
            hostile::begin(victim, configs, &done);
        }
        name => {
            let conduct = peers::Conduct::of(name);
            let configs = peers::prepare(size);
            begin().await;
            since = Instant::now();
            peers::begin(victim, conduct, configs, &done);
        }
    }
    let _ = input.next_line().await;
    let rate = |counter: &AtomicU64| {
        let count = counter.load(Ordering::Relaxed);
        format!("{count} ({:.0}/s)", count as f64 / since.elapsed().as_secs_f64())
    };
    let (begun, met, answered) = (rate(&done.begun), rate(&done.met), rate(&done.answered));
    println!("begun {begun}, handshakes {met}, answered {answered}");
    let _ = input.next_line().await;
    // Tasks in progress are dropped.
    std::process::exit(0);
}
