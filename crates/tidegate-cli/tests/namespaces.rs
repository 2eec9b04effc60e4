//! Nodes as processes on hosts of their own, in network namespaces. Where there are none to be had
//! `cargo xtask test` leaves these out, and its summary says so.
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "each test file needs a part of it")]
mod daemon;

/// The name is what `cargo xtask test` leaves them out by.
mod in_namespaces {
    mod alone;
    mod hosts;
    mod meeting;
    mod moving;
}
