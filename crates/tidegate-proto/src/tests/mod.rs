//! Stories of a few nodes, told through the six methods alone.

mod app;
mod blocks;
mod net;
mod pools;
