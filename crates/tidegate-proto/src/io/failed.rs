//! Why something failed that a transport or the application wanted.

use serde::{Deserialize, Serialize};

/// Why a dial failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No transport of this node handles such addresses.
    #[error("no transport for this kind of address")]
    UnsupportedAddress,
    /// [`Limits::max_outbound`](crate::Limits) connections are already dialed or being dialed.
    #[error("`max_outbound` connections are dialed already")]
    Full,
    /// No answer before the timeout.
    #[error("no answer in time")]
    TimedOut,
    /// The name resolves to no IP address of the requested kind.
    #[error("the name has no address: look at its spelling, and at this machine's name service")]
    UnknownName,
    /// The network or the other side refused.
    #[error("nobody accepts connections there")]
    Unreachable,
    /// Another peer answered than the expected one.
    #[error("another peer answered than the one that was dialed")]
    WrongPeer,
    /// A reason of the transport's own, of at most [`DialError::LONGEST`] bytes: see
    /// [`DialError::because`].
    #[error("{0}")]
    Because(Box<str>),
}

impl DialError {
    /// The longest reason in bytes: peers may have influence on it, and it must not pile up in
    /// events and logs.
    pub const LONGEST: usize = 256;

    /// A failure for a reason of the transport's own, which is truncated if it is too long.
    pub fn because(reason: impl std::fmt::Display) -> Self {
        let mut reason = reason.to_string();
        reason.truncate(reason.floor_char_boundary(Self::LONGEST));
        Self::Because(reason.into())
    }
}

/// Why a signal did not reach its receiver, as far as this node knows: if a connection ended on the
/// way, it may have arrived all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SignalError {
    /// It has more than [`MAX_SIGNAL`](crate::wire::MAX_SIGNAL) bytes.
    #[error("the signal has more than {} bytes", crate::wire::MAX_SIGNAL)]
    TooLong,
    /// This node has no connection to the relay, the relay carries no signals, or the connection
    /// ended on the way.
    #[error("no connection to a peer that carries signals there")]
    NoRelay,
    /// The relay has no connection to the receiver.
    #[error("the relay has no connection to the receiver")]
    NotConnected,
    /// The receiver takes no signals.
    #[error("the receiver takes no signals")]
    Unwanted,
    /// The receiver or the relay is busy with other signals, and did not handle this one in time.
    #[error("the relay or the receiver is busy with signals of others")]
    Busy,
}
