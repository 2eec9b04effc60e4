//! All violations of the protocol, with their codes on the wire (specification section 11).

use std::time::Duration;

use serde::{Deserialize, Serialize};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Generates the enum and the list of all violations.
macro_rules! violations {
    ($($(#[$doc:meta])+ $code:literal => $name:ident: $text:literal),+ $(,)?) => {
        /// Something that no peer does that follows the protocol.
        ///
        /// The connection ends with a goodbye that carries the code, and the peer is banned for the
        /// time of [`Violation::penalty`].
        #[derive(
            Clone,
            Copy,
            Debug,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            Serialize,
            Deserialize,
            thiserror::Error,
        )]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum Violation {
            $($(#[$doc])+ #[error($text)] $name = $code),+
        }

        impl Violation {
            /// All violations, in the order of their codes.
            pub const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

violations! {
    /// A frame that is not a message of its channel (section 3).
    1 => Malformed: "a frame that is no message of its channel",
    /// A frame larger than its channel allows (section 4).
    2 => FrameTooLarge: "a frame larger than its channel allows",
    /// A frame on an instance that was not negotiated (section 5.7).
    3 => UnknownChannel: "a frame on a channel that is not open",
    /// A message that the state of the channel does not allow, such as a second hello (section 5).
    4 => OutOfTurn: "a message out of turn",
    /// An announcement without a permit (section 6).
    5 => AnnouncementPermit: "an announcement without a permit",
    /// A body without a permit, or larger than the byte permits allow (section 6).
    6 => BodyPermit: "a body without a permit",
    /// More requests than allowed without an answer (section 6).
    7 => RequestPermit: "a request without a permit",
    /// A header or a held tip before the last one was returned (section 8).
    8 => TipPermit: "a tip without a permit",
    /// The return of a permit that was not spent (section 6).
    9 => FalseReturn: "a permit given back that was not spent",
    /// A second ping before the first was answered, or a pong to no ping (section 5).
    10 => Ping: "a ping or pong out of turn",
    /// A grant lower than the one before (section 6).
    11 => GrantShrunk: "a grant that takes permits away",
    /// A body, an answer or a chunk that was not requested (section 6).
    12 => Unasked: "something that was not asked for",
    /// A request for an announcement whose permit is not outstanding (section 7).
    13 => UnknownNumber: "a request for something that is not announced",
    /// A body that is not the announced item (section 7).
    14 => WrongBody: "a body that is not what was announced",
    /// An item larger than its pool allows (section 7).
    15 => ItemTooLarge: "an item larger than its pool allows",
    /// Bytes that are not an item of the pool (section 7).
    16 => MalformedItem: "bytes that are no item of the pool",
    /// A body whose item the application rejected (section 7).
    17 => RejectedItem: "an item that proves misbehaviour",
    /// A chunk that does not match the root given first (section 6).
    18 => WrongChunk: "a chunk that does not fit its root",
    /// Bytes that are not a header (section 8).
    19 => MalformedHeader: "bytes that are no header",
    /// A header that the application rejected (section 8).
    20 => RejectedHeader: "a header that proves misbehaviour",
    /// A header of another block than requested (section 9).
    21 => WrongHeader: "an answer about another block",
    /// A compact block that contradicts itself or its header (section 9).
    22 => MalformedCompact: "a compact block that contradicts its header",
    /// A second unrequested body for one producer and slot (section 9).
    23 => SecondBody: "a second block unasked for one producer and slot",
    /// An item of a block whose proof does not match the header (section 9).
    24 => WrongItem: "an item that is not in the block",
    /// Full ids that do not match the header's item root (section 9).
    25 => WrongIds: "ids that are not the block's",
    /// An offer list that is not sorted, or names an instance twice (section 5).
    26 => Offers: "offers out of order",
    /// An empty message, such as an empty list, or a grant that raises nothing: no permit pays for
    /// it, so it could be repeated for ever (section 6).
    27 => Empty: "a message that says nothing",
    /// A peer record that its peer has not signed (section 15).
    28 => WrongRecord: "a record that its peer has not signed",
}

impl Violation {
    /// The code on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The violation with this code, if there is one.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(code.checked_sub(1)? as usize).copied()
    }

    /// How long the peer is banned.
    ///
    /// An hour for what no implementation does by accident; a minute for what another
    /// implementation or version may do by mistake, so that a mistake costs little, but cannot be
    /// repeated at the speed of the network.
    pub fn penalty(self) -> Duration {
        match self {
            Self::RejectedItem
            | Self::RejectedHeader
            | Self::WrongChunk
            | Self::WrongBody
            | Self::WrongItem
            | Self::WrongIds
            | Self::WrongRecord => HOUR,
            _ => MINUTE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dense_and_come_back() {
        for (i, violation) in Violation::ALL.iter().copied().enumerate() {
            assert_eq!(violation.code() as usize, i + 1);
            assert_eq!(Violation::from_code(violation.code()), Some(violation));
        }
        assert_eq!(Violation::from_code(0), None);
        assert_eq!(Violation::from_code(Violation::ALL.len() as u32 + 1), None);
    }
}
