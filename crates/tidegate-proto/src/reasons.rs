//! Why connections are refused and end: in a word for counters, and in words for people.

use std::fmt;

use crate::io::Disconnect;
use crate::violation::Violation;
use crate::wire::{Goodbye, GoodbyeKind, Refusal, RefusalKind};

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongNetwork => f.write_str("of another network: compare the ids of the two, or their genesis"),
            Self::NoCommonVersion => f.write_str("no version of the protocol that both know"),
            Self::Full(_) => f.write_str("no room for another peer"),
            Self::SelfDial => f.write_str("a node cannot be its own peer: its key is at both ends"),
            Self::Duplicate => f.write_str(
                "connected already: if this repeats, another process has the same node key; give each \
                 node a key of its own",
            ),
            Self::NotAllowed => f.write_str("not among the peers that are allowed"),
            Self::Banned(seconds) => write!(f, "banned for another {seconds} s"),
            Self::ShuttingDown => f.write_str("shutting down"),
            Self::BadSignature => f.write_str("what is said of the peer is not signed by it"),
            Self::Busy(ms) => write!(f, "busy: free again in {ms} ms"),
            Self::WrongTarget => f.write_str("the offer is for another node"),
        }
    }
}

impl fmt::Display for Goodbye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShuttingDown => f.write_str("shutting down"),
            Self::Requested => f.write_str("not wanted any more"),
            Self::Duplicate => f.write_str("another connection of the two stays"),
            Self::Silent => f.write_str("no answer"),
            Self::Violation(code) => match Violation::from_code(*code) {
                Some(violation) => write!(f, "a violation, {violation}"),
                None => write!(f, "violation {code}"),
            },
            Self::Internal => f.write_str("an error in the node"),
        }
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("the connection was lost"),
            Self::Remote(goodbye) => write!(f, "the peer ended it: {goodbye}"),
            Self::Local(goodbye) => write!(f, "this node ended it: {goodbye}"),
            Self::Violation(violation) => write!(f, "the peer broke the rules: {violation}"),
        }
    }
}

impl Refusal {
    /// Its reason, without what goes with it.
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::WrongNetwork => RefusalKind::WrongNetwork,
            Self::NoCommonVersion => RefusalKind::NoCommonVersion,
            Self::Full(_) => RefusalKind::Full,
            Self::SelfDial => RefusalKind::SelfDial,
            Self::Duplicate => RefusalKind::Duplicate,
            Self::NotAllowed => RefusalKind::NotAllowed,
            Self::Banned(_) => RefusalKind::Banned,
            Self::ShuttingDown => RefusalKind::ShuttingDown,
            Self::BadSignature => RefusalKind::BadSignature,
            Self::Busy(_) => RefusalKind::Busy,
            Self::WrongTarget => RefusalKind::WrongTarget,
        }
    }
}

impl Goodbye {
    /// Its reason, without what goes with it.
    pub fn kind(&self) -> GoodbyeKind {
        match self {
            Self::ShuttingDown => GoodbyeKind::ShuttingDown,
            Self::Requested => GoodbyeKind::Requested,
            Self::Duplicate => GoodbyeKind::Duplicate,
            Self::Silent => GoodbyeKind::Silent,
            Self::Violation(_) => GoodbyeKind::Violation,
            Self::Internal => GoodbyeKind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was `Remote(Violation(17))`.
    #[test]
    fn reasons_for_disconnecting_are_readable() {
        let remote = Disconnect::Remote(Goodbye::Violation(17)).to_string();
        assert_eq!(remote, "the peer ended it: a violation, an item that proves misbehaviour");
        let unknown = Disconnect::Remote(Goodbye::Violation(999)).to_string();
        assert_eq!(unknown, "the peer ended it: violation 999");
        assert!(Refusal::Duplicate.to_string().contains("a key of its own"));
        assert_eq!(Refusal::Banned(7).to_string(), "banned for another 7 s");
    }
}
