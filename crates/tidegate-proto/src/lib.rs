//! The protocol.
mod chunk;
pub mod id;
pub mod merkle;
mod permit;
pub mod rng;
pub mod rules;
pub mod time;
pub mod violation;
pub mod wire;
