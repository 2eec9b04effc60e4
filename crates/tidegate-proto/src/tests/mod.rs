//! Scenarios with a few nodes, through the six methods alone.

/// What a test answers when something is to be opened that is no statement: the node counts it as one.
pub(crate) const TAKEN: bytes::Bytes = bytes::Bytes::from_static(b"taken");

mod application;
mod blame;
mod blocks;
mod charged;
mod claims;
mod dialing;
mod duplicates;
mod finding;
mod hello;
mod hostile;
mod least;
mod limits;
mod net;
mod offering;
mod permits;
mod pools;
mod reaching;
mod recording;
mod replacing;
mod script;
mod serving;
mod signaling;
mod storing;
mod syncing;
mod twisted;
mod vectors;
mod verdicts;
mod violations;
