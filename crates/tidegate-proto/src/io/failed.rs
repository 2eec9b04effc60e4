//! Why something failed that a transport or the application wanted.

use serde::{Deserialize, Serialize};

use crate::wire::Refusal;

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
    /// The address leads by way of a common peer, and does not name whom to look for there.
    #[error("such an address must say whom to look for: /webrtc/p2p/12D3KooW…")]
    NoIdentity,
    /// No peer of this node is connected to that one, and carries offers to it.
    #[error(
        "no peer of this node is connected to it: connect to one of its peers first, or wait until it is back"
    )]
    NoCommonPeer,
    /// A peer of this node is connected to that one, which takes no offers.
    #[error("it takes no offers: it has no transport that connects by way of a common peer")]
    TakesNoOffers,
    /// The peers in common, or the peer itself, have too many offers.
    #[error("the peers in common, or the peer itself, are busy with offers of others")]
    Busy,
    /// It could not open what was sealed to it: its key is another by now.
    #[error("it could not open the offer: its record here is an old one")]
    Unreadable,
    /// It refused the offer.
    #[error("refused: {0}")]
    Refused(Refusal),
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

/// Why something did not reach its receiver by way of a peer, as far as this node knows: if a
/// connection ended on the way, it may have arrived all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalError {
    /// This node has no connection to the relay, the relay carries no signals, or the connection
    /// ended on the way.
    NoRelay,
    /// The relay has no connection to the receiver.
    NotConnected,
    /// The receiver takes no offers.
    Unwanted,
    /// The receiver or the relay is busy, and did not handle this one in time.
    Busy,
    /// The receiver could not open it.
    Unreadable,
}
