//! Plain counters.
//!
//! # Not guaranteed
//!
//! That counters survive a restart, or that counters of two nodes were read at the same moment:
//! they are those of one node at one step.

use std::collections::BTreeMap;

use crate::violation::Violation;
use crate::wire::{RefusalKind, Report};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Count {
    /// Connections that were established.
    Connections,
    /// Verdicts that were given.
    Verdicts,
    /// Verdicts that came after their timeout.
    LateVerdicts,
    /// Blocks reconstructed from a compact block.
    CompactBlocks,
    /// Blocks fetched whole, to catch up.
    FetchedBlocks,
    /// Items of those blocks.
    BlockItems,
    /// Items of those blocks that were not in the pools.
    BlockItemsLacked,
    /// Received bytes that were new here: accepted items, items of blocks that the pools lacked,
    /// and headers of those blocks. The rest of the received bytes is overhead.
    UsefulBytes,
    /// Steps of work over things that peers can pile up, such as orphan headers and peers to choose
    /// from: a count that stands for time.
    Work,
    /// Tips set by the application that this node does not know.
    UnknownTips,
    /// Messages that could not be encoded: a bug of this node.
    Internal,
}

/// Frames of one kind of channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frames {
    /// Frames received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames sent.
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
    /// The value of a counter.
    pub fn of(&self, count: Count) -> u64 {
        self.counts.get(&count).copied().unwrap_or(0)
    }

    /// Frames by kind of channel.
    pub fn frames(&self) -> impl Iterator<Item = (&'static str, Frames)> {
        self.frames.iter().map(|(channel, frames)| (*channel, *frames))
    }

    /// Reports that this node has sent.
    pub fn reports(&self, report: Report) -> u64 {
        self.reports[report as usize]
    }

    /// Connections refused by this node (or, if not `by_us`, by its peers).
    pub fn refused(&self, by_us: bool, kind: RefusalKind) -> u64 {
        self.refused.get(&(by_us, kind as u32)).copied().unwrap_or(0)
    }

    /// Violations by peers; only kinds that have occurred.
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

    /// Counts steps of work over things that peers can pile up.
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
