//! What one pool, one peer or one permit costs the others: over QUIC on the loopback interface.
//!
//! `cargo bench -p tidegate --bench isolation`; with `-- --quick` fewer and shorter of everything.
//! `-- --only turns` runs one part. Each part prints what it found beside its target.
//!
//! - `turns`: a pool whose permits are all out, whose verdicts take a second each, while its sender
//!   has more to send; beside it a pool whose items are accepted at once. How long those take on
//!   the same link, with the full pool and without it, with the workers and permits that a node has
//!   by default and with more workers than the slow pool has permits. Target: 2 ms more at p99.
//! - `bodies`: 1,000 items of 256 KiB and 1,000 of 1 MiB to a peer that takes its time for each,
//!   with room for all and with room for a few. Each is in the pool at the end, was displaced (an
//!   event told of it) or was refused (its fate told of it), and both pools are equal. Target: none
//!   has vanished, and both nodes together, in a process of their own, stay below what
//!   `Config::worst_case_bytes` says of each. Their publisher waits for each fate: what waits to be
//!   published is the application's memory.
//! - `idle`: the resident memory of a node with four idle links, in a process of its own, with
//!   permits for 8 and for 100,000 of everything; medians. Target: at most 1 MiB apart.

#[path = "shared/helper.rs"]
#[allow(dead_code, reason = "each bench needs a part of it")]
mod helper;
#[path = "shared/items.rs"]
#[allow(dead_code, reason = "each bench needs a part of it")]
mod items;

mod isolation {
    pub(crate) mod bodies;
    pub(crate) mod idle;
    pub(crate) mod turns;
}

use isolation::{bodies, idle, turns};

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Some((role, with)) = helper::role() {
        match role.as_str() {
            "bodies" => runtime.block_on(bodies::in_process(&with)),
            "idle" => runtime.block_on(idle::in_process(&with)),
            other => panic!("{other}: no such role"),
        }
        return;
    }
    // `cargo test` runs benches too, to check that they build.
    if !helper::flag("--bench") {
        return;
    }
    let quick = helper::flag("--quick");
    let only = std::env::args().skip_while(|argument| argument != "--only").nth(1);
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only == part);
    if wanted("turns") {
        runtime.block_on(turns::run(quick));
    }
    if wanted("bodies") {
        bodies::run(quick);
    }
    if wanted("idle") {
        runtime.block_on(idle::run(quick));
    }
}
