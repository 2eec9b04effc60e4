//! Decides whether a link gets the body of a new entry, an announcement, or nothing (specification
//! section 7.4).
//!
//! This is the only place that decides it, for pools and for blocks. Today every link gets every
//! entry, and small bodies are pushed; learned push will decide by the reports that come back with
//! the permits.

/// What to send on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Body,
    Announcement,
    Nothing,
}

/// What the decision depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// The peer announced the entry or sent it.
    pub(crate) has_it: bool,
    /// The entry is older than the link: its peer probably has it.
    pub(crate) old: bool,
    /// The body is small enough to be pushed.
    pub(crate) small: bool,
    /// A body permit is available.
    pub(crate) body_permit: bool,
}

/// Decides for one entry and one link.
pub(crate) fn decide(candidate: Candidate) -> Delivery {
    match candidate {
        // R7.2.1
        Candidate { has_it: true, .. } => Delivery::Nothing,
        // R7.2.2, R7.4.2
        Candidate { old: false, small: true, body_permit: true, .. } => Delivery::Body,
        _ => Delivery::Announcement,
    }
}
