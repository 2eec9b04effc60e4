//! Nodes as processes on separate hosts, in network namespaces. Where these are not available
//! `cargo xtask test` skips these tests, and its summary says so.
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "each test file needs a part of it")]
mod daemon;

/// `cargo xtask test` skips them by this name.
mod in_namespaces {
    mod alone;
    mod hosts;
    mod meeting;
    mod moving;
}
