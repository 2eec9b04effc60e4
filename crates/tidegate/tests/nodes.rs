//! Whole nodes by their public interface, in memory and over QUIC on the loopback interface.

mod nodes {
    pub(crate) mod app;
    mod identity;
    mod meeting;
    mod overload;
    mod publishing;
    mod staying;
}
