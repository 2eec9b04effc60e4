//! Plain counters.
//!
//! # Not guaranteed
//!
//! That counters survive a restart, or that two of them were read at the same moment of a peer's
//! life: they are those of one node at one step.

use std::collections::BTreeMap;

use crate::violation::Violation;
use crate::wire::{RefusalKind, Report};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Count {
    /// Connections that came up.
    Connections,
    /// Verdicts that were given.
    Verdicts,
    /// Verdicts that came after the time for them.
    LateVerdicts,
    /// Blocks that were put together from a compact block.
    CompactBlocks,
    /// Blocks that were fetched whole, to catch up.
    FetchedBlocks,
    /// Items of those blocks.
    BlockItems,
    /// Items of those blocks that were not in the pools.
    BlockItemsLacked,
    /// Bytes of what came from peers and was new here: accepted items, items of blocks that were
    /// not in the pools, headers of those blocks. What is received beyond them is the price.
    UsefulBytes,
    /// Steps over what peers can pile up, such as waiting headers and peers to look at: what messages
    /// cost in time, counted.
    Work,
    /// Tips that the application set and this node does not know.
    UnknownTips,
    /// Messages that could not be encoded: a bug of this node.
    Internal,
}

/// Frames of one kind of channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frames {
    /// Frames that came in.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames that went out.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}

/// Counters since the start of the node.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    counts: BTreeMap<Count, u64>,
    frames: BTreeMap<&'static str, Frames>,
    reports: [u64; 6],
    refused: BTreeMap<(bool, u32), u64>,
    violations: BTreeMap<Violation, u64>,
}

impl Stats {
    /// How often, or how much.
    pub fn of(&self, count: Count) -> u64 {
        self.counts.get(&count).copied().unwrap_or(0)
    }

    /// Frames by kind of channel.
    pub fn frames(&self) -> impl Iterator<Item = (&'static str, Frames)> {
        self.frames.iter().map(|(channel, frames)| (*channel, *frames))
    }

    /// Reports that this node gave.
    pub fn reports(&self, report: Report) -> u64 {
        self.reports[report as usize]
    }

    /// Connections that this node (or, if not `by_us`, a peer of this node) refused.
    pub fn refused(&self, by_us: bool, kind: RefusalKind) -> u64 {
        self.refused.get(&(by_us, kind as u32)).copied().unwrap_or(0)
    }

    /// Violations by peers, those that happened.
    pub fn violations(&self) -> impl Iterator<Item = (Violation, u64)> {
        self.violations.iter().map(|(violation, count)| (*violation, *count))
    }

    pub(crate) fn frame_in(&mut self, channel: &'static str, bytes: usize) {
        let frames = self.frames.entry(channel).or_default();
        frames.received += 1;
        frames.received_bytes += bytes as u64;
    }

    pub(crate) fn frame_out(&mut self, channel: &'static str, bytes: usize) {
        let frames = self.frames.entry(channel).or_default();
        frames.sent += 1;
        frames.sent_bytes += bytes as u64;
    }

    /// Counts steps over what peers can pile up: what a message costs in time.
    pub(crate) fn worked(&mut self, steps: u64) {
        self.add(Count::Work, steps);
    }

    pub(crate) fn count(&mut self, count: Count) {
        self.add(count, 1);
    }

    pub(crate) fn add(&mut self, count: Count, n: u64) {
        *self.counts.entry(count).or_default() += n;
    }

    pub(crate) fn report(&mut self, report: Report) {
        self.reports[report as usize] += 1;
    }

    pub(crate) fn refusal(&mut self, by_us: bool, kind: RefusalKind) {
        *self.refused.entry((by_us, kind as u32)).or_default() += 1;
    }

    pub(crate) fn violation(&mut self, violation: Violation) {
        *self.violations.entry(violation).or_default() += 1;
    }
}
