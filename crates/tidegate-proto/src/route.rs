//! Body, announcement or nothing: what a link gets of a new entry (specification section 7.4).
//!
//! This is the one place that decides it, for pools and for blocks. Today every link is told of
//! everything, and small bodies ride along; learned push will decide by the reports that come
//! back with the permits.

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
    /// The link announced the entry, or it came from there.
    pub(crate) has_it: bool,
    /// The entry is older than the link: its peer probably has it.
    pub(crate) old: bool,
    /// The body is small enough to ride along.
    pub(crate) small: bool,
    /// There is a permit for the body.
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
