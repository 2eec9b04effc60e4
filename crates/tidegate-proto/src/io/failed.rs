//! Why something that a transport or the application wanted came to nothing.

use serde::{Deserialize, Serialize};

/// Why a dial came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No transport of this node knows such addresses.
    #[error("no transport for this kind of address")]
    UnsupportedAddress,
    /// This node has dialed as many as [`Limits::max_outbound`](crate::Limits) allows.
    #[error("`max_outbound` connections are dialed already")]
    Full,
    /// Nobody answered in time.
    #[error("no answer in time")]
    TimedOut,
    /// The name in the address stands for no IP address of the kind that is asked for.
    #[error("the name has no address: look at its spelling, and at this machine's name service")]
    UnknownName,
    /// The network or the other side refused.
    #[error("nobody accepts connections there")]
    Unreachable,
    /// Somebody else answered than was dialed.
    #[error("another peer answered than the one that was dialed")]
    WrongPeer,
    /// What the transport says of it, at most [`DialError::LONGEST`] bytes: see [`DialError::because`].
    #[error("{0}")]
    Because(Box<str>),
}

impl DialError {
    /// Bytes of a transport's reason: what peers may have a part in must not pile up in events and logs.
    pub const LONGEST: usize = 256;

    /// A dial failed for a reason of the transport's own; what is too long of it is cut off.
    pub fn because(reason: impl std::fmt::Display) -> Self {
        let mut reason = reason.to_string();
        reason.truncate(reason.floor_char_boundary(Self::LONGEST));
        Self::Because(reason.into())
    }
}

/// Why a signal did not reach its receiver, as far as this node knows: one that was on its way when a connection
/// ended may have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SignalError {
    /// It has more than [`MAX_SIGNAL`](crate::wire::MAX_SIGNAL) bytes.
    #[error("the signal has more than {} bytes", crate::wire::MAX_SIGNAL)]
    TooLong,
    /// This node has no connection to the peer that is to carry it, or that peer carries none, or the connection
    /// ended on the way.
    #[error("no connection to a peer that carries signals there")]
    NoRelay,
    /// The peer that is to carry it has no connection to the receiver.
    #[error("the relay has no connection to the receiver")]
    NotConnected,
    /// The receiver takes none.
    #[error("the receiver takes no signals")]
    Unwanted,
    /// The receiver, or the peer that is to carry it, has others to do first, and did not come to this one in time.
    #[error("the relay or the receiver is busy with signals of others")]
    Busy,
}
