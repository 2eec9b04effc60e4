//! What attackers who hold no permit can do to a node and to the honest peers it serves.
//!
//! `cargo bench -p tidegate --bench siege`; with `-- --quick` shorter phases and fewer attackers,
//! and with `-- --only silence` (or the name of another below) one attack.
//!
//! The victim is a node in a process of its own. Two honest peers, A and B, in this process, are
//! connected through it alone: A publishes items of 1 KiB at 50 a second, and each is timed from
//! there to its event at B. One attack after the other, each behind a quiet time that it is
//! compared with, and a time in which the same attack is aimed at a closed port or another node:
//!
//! - `half-open`: 10,000 first datagrams of QUIC connections, made beforehand, each with a
//!   connection id of its own, all of them every second, from 64 sockets. Nobody hears the answers.
//! - `storm`: the same, 50,000 a second.
//! - `flood`: the same, as fast as they can be sent: more than the victim's socket can be read.
//! - `beyond`: all inbound places are taken. 1,000 identities complete TLS, say hello, are refused
//!   as full, and come again at once.
//! - `garbage`: peers complete TLS and send frames that are too large, cut off or no message, on
//!   channels that are read and on others, with a new identity after each ban.
//! - `silence`: 1,000 identities complete TLS, say nothing, and come again when they are cut off.
//! - `hostile`: 100 peers that take part, at a victim with places for them: each uses all that its
//!   permits allow, names ever new parents, tips and items, answers nothing, takes requests back and
//!   stops in the middle of frames. `-- --only hostile --minutes 10` takes ten minutes.
//!
//! For each: p50 and p99 at B beside those of the quiet time (target: below twice as much), the
//! victim's largest resident memory beside `Config::worst_case_bytes` (target: never above), that
//! the victim lives and nothing panicked, and that A and B stayed connected.
//!
//! All is on one machine: **the attackers run at the lowest priority, but share processor, sockets
//! and loopback interface with the victim and the honest peers, and the figures include that.** On
//! two cores what the kernel does to carry the attack counts for more than what the victim does.

#[path = "shared/helper.rs"]
#[allow(dead_code, reason = "each bench needs a part of it")]
mod helper;
#[path = "shared/items.rs"]
#[allow(dead_code, reason = "each bench needs a part of it")]
mod items;
#[path = "../tests/transports/raw.rs"]
#[allow(dead_code, reason = "the tests of transports need the rest")]
mod raw;

mod siege {
    pub(crate) mod attack;
    pub(crate) mod half_open;
    pub(crate) mod honest;
    pub(crate) mod hostile;
    pub(crate) mod peers;
    pub(crate) mod victim;
}

use siege::{attack, honest, victim};

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Some((role, with)) = helper::role() {
        match role.as_str() {
            "victim" => runtime.block_on(victim::in_process(&with)),
            "attack" => runtime.block_on(attack::in_process(&with)),
            other => panic!("{other}: no such role"),
        }
        return;
    }
    // `cargo test` runs benches too, to see that they build.
    if helper::flag("--bench") {
        runtime.block_on(honest::run(helper::flag("--quick")));
    }
}
