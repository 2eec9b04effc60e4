//! Stories of a few nodes, told through the six methods alone.

mod app;
mod blame;
mod blocks;
mod charged;
mod claims;
mod dialing;
mod finding;
mod hello;
mod hostile;
mod least;
mod limits;
mod net;
mod permits;
mod pools;
mod reaching;
mod recording;
mod replacing;
mod script;
mod seconds;
mod serving;
mod storing;
mod syncing;
mod twisted;
mod verdicts;
mod violations;
mod worked;
