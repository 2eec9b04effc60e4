//! The stacks, one in each module.

mod commonware;
mod iroh;
mod libp2p;
mod node;
mod pipe;
mod quinn;
mod tcp;
mod tip;
mod transport;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::stack::Stack;

/// All stacks, in the order of the table.
pub(crate) static ALL: [&dyn Stack; 11] = [
    &transport::Transport,
    &node::PUSHED,
    &node::ANNOUNCED,
    &tip::Tip,
    &quinn::SAME,
    &quinn::DEFAULTS,
    &libp2p::QUIC,
    &libp2p::TCP,
    &iroh::Iroh,
    &commonware::COMMONWARE,
    &tcp::Tcp,
];

pub(crate) fn find(name: &str) -> Option<&'static dyn Stack> {
    ALL.iter().copied().find(|stack| stack.name() == name)
}

/// Bytes of a request's header: the lengths of its body and of the answer.
const HEAD: usize = 12;
/// The largest piece to write or send at once.
const PIECE: usize = 64 << 10;
/// The content of bodies and answers.
static ZEROS: Bytes = Bytes::from_static(&[0; PIECE]);

/// The start of a request: its header, and as much of its body as fits into one piece.
fn opening(body: u64, answer: u32) -> (Bytes, u64) {
    let first = usize::try_from(body).unwrap_or(usize::MAX).min(PIECE - HEAD);
    let mut piece = BytesMut::with_capacity(HEAD + first);
    piece.put_u64(body);
    piece.put_u32(answer);
    piece.extend_from_slice(&ZEROS[..first]);
    (piece.freeze(), body - first as u64)
}

/// The lengths of a request's body and of its answer.
fn head(bytes: &[u8]) -> Option<(u64, u32)> {
    let (body, rest) = bytes.split_first_chunk::<8>()?;
    let answer = rest.first_chunk::<4>()?;
    Some((u64::from_be_bytes(*body), u32::from_be_bytes(*answer)))
}

/// The next piece of the remaining bytes.
fn piece(left: &mut u64) -> Option<Bytes> {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(PIECE);
    *left -= length as u64;
    (length > 0).then(|| ZEROS.slice(..length))
}

/// A request received in several messages.
#[derive(Default)]
struct Incoming {
    left: u64,
    answer: u32,
}

impl Incoming {
    /// Adds a message; returns the answer's length once the request is complete.
    fn take(&mut self, message: &[u8]) -> Option<u32> {
        let mut arrived = message.len() as u64;
        if self.left == 0 {
            (self.left, self.answer) = head(message)?;
            arrived -= HEAD as u64;
        }
        self.left = self.left.saturating_sub(arrived);
        (self.left == 0).then_some(self.answer)
    }
}
