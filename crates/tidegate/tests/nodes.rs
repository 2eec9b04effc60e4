//! Whole nodes, by their public interface, in memory and over QUIC and TCP on the loopback interface.

#[cfg(feature = "quic")]
#[allow(dead_code, reason = "these tests need a part of it")]
#[path = "transports/relay.rs"]
mod relay;

mod nodes {
    pub(crate) mod application;
    #[cfg(feature = "quic")]
    mod cuts;
    mod identity;
    #[cfg(feature = "quic")]
    mod listening;
    mod meeting;
    #[cfg(feature = "offers")]
    mod offers;
    #[cfg(feature = "threads")]
    mod overload;
    mod panicking;
    mod publishing;
    #[cfg(feature = "threads")]
    mod sharing;
    mod staying;
}
