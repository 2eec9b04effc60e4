//! Every way a peer can break the rules, with its code on the wire (specification section 11).

use std::time::Duration;

use serde::{Deserialize, Serialize};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// What a peer did that no peer following the protocol does.
///
/// The connection ends with a goodbye that carries the code, and the peer is refused for the
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
pub enum Violation {
    /// A frame that is no message of its channel (section 3).
    #[error("a frame that is no message of its channel")]
    Malformed = 1,
    /// A frame larger than its channel allows (section 4).
    #[error("a frame larger than its channel allows")]
    FrameTooLarge = 2,
    /// A frame on an instance that was not agreed on (section 5.7).
    #[error("a frame on a channel that is not open")]
    UnknownChannel = 3,
    /// A message that the state of the channel does not allow, such as a second hello (section 5).
    #[error("a message out of turn")]
    OutOfTurn = 4,
    /// An announcement without a permit (section 6).
    #[error("an announcement without a permit")]
    AnnouncementPermit = 5,
    /// A body without a permit, or larger than the permit for bytes allows (section 6).
    #[error("a body without a permit")]
    BodyPermit = 6,
    /// More requests than allowed without an answer (section 6).
    #[error("a request without a permit")]
    RequestPermit = 7,
    /// A header or a held tip before the last one was returned (section 8).
    #[error("a tip without a permit")]
    TipPermit = 8,
    /// A permit given back that was not spent (section 6).
    #[error("a permit given back that was not spent")]
    FalseReturn = 9,
    /// A second ping before the first was answered, or a pong to no ping (section 5).
    #[error("a ping or pong out of turn")]
    Ping = 10,
    /// A grant below the one before (section 6).
    #[error("a grant that takes permits away")]
    GrantShrunk = 11,
    /// A body, an answer or a chunk that was not asked for (section 6).
    #[error("something that was not asked for")]
    Unasked = 12,
    /// A request for an announcement whose permit is not out (section 7).
    #[error("a request for something that is not announced")]
    UnknownNumber = 13,
    /// A body that is not what was announced (section 7).
    #[error("a body that is not what was announced")]
    WrongBody = 14,
    /// An item larger than its pool allows (section 7).
    #[error("an item larger than its pool allows")]
    ItemTooLarge = 15,
    /// Bytes that are no item of the pool (section 7).
    #[error("bytes that are no item of the pool")]
    MalformedItem = 16,
    /// A body whose item the application rejected (section 7).
    #[error("an item that proves misbehaviour")]
    RejectedItem = 17,
    /// A chunk that does not belong to the root given at first (section 6).
    #[error("a chunk that does not fit its root")]
    WrongChunk = 18,
    /// Bytes that are no header (section 8).
    #[error("bytes that are no header")]
    MalformedHeader = 19,
    /// A header that the application rejected (section 8).
    #[error("a header that proves misbehaviour")]
    RejectedHeader = 20,
    /// Another block's header than was asked for (section 9).
    #[error("an answer about another block")]
    WrongHeader = 21,
    /// A compact block that contradicts itself or its header (section 9).
    #[error("a compact block that contradicts its header")]
    MalformedCompact = 22,
    /// A second body, unasked, for one producer and slot (section 9).
    #[error("a second block unasked for one producer and slot")]
    SecondBody = 23,
    /// An item of a block that its proof does not bind to the header (section 9).
    #[error("an item that is not in the block")]
    WrongItem = 24,
    /// Full ids that do not make the header's item root (section 9).
    #[error("ids that are not the block's")]
    WrongIds = 25,
    /// An offer list that is not sorted, or that names an instance twice (section 5).
    #[error("offers out of order")]
    Offers = 26,

    /// A message that says nothing, such as an empty list or a grant that raises nothing: without a
    /// permit to pay for it, it could be repeated for ever (section 6).
    #[error("a message that says nothing")]
    Empty = 27,
    /// A peer record that its peer has not signed (section 15).
    #[error("a record that its peer has not signed")]
    WrongRecord = 28,
}

impl Violation {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 28] = [
        Self::Malformed,
        Self::FrameTooLarge,
        Self::UnknownChannel,
        Self::OutOfTurn,
        Self::AnnouncementPermit,
        Self::BodyPermit,
        Self::RequestPermit,
        Self::TipPermit,
        Self::FalseReturn,
        Self::Ping,
        Self::GrantShrunk,
        Self::Unasked,
        Self::UnknownNumber,
        Self::WrongBody,
        Self::ItemTooLarge,
        Self::MalformedItem,
        Self::RejectedItem,
        Self::WrongChunk,
        Self::MalformedHeader,
        Self::RejectedHeader,
        Self::WrongHeader,
        Self::MalformedCompact,
        Self::SecondBody,
        Self::WrongItem,
        Self::WrongIds,
        Self::Offers,
        Self::Empty,
        Self::WrongRecord,
    ];

    /// The number that stands for it on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The violation with this code, if there is one.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(code.checked_sub(1)? as usize).copied()
    }

    /// For how long the peer is refused.
    ///
    /// An hour for what no implementation does by accident; a minute for what a peer of another
    /// make or age may do by mistake, so that a mistake costs little and is still not repeated
    /// at the speed of the network.
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
        for (i, violation) in Violation::ALL.into_iter().enumerate() {
            assert_eq!(violation.code() as usize, i + 1);
            assert_eq!(Violation::from_code(violation.code()), Some(violation));
        }
        assert_eq!(Violation::from_code(0), None);
        assert_eq!(Violation::from_code(Violation::ALL.len() as u32 + 1), None);
    }
}
