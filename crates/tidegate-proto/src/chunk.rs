//! Bodies larger than a frame: BLAKE3 verified streaming (specification section 6).
//!
//! Each chunk is a slice of the body with the hashes that bind it to the root given first. So it is
//! checked on arrival, and memory is allocated chunk by chunk, never by an announced size.

use std::io::Cursor;

use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges};
use bao_tree::io::{BaoContentItem, round_up_to_chunks};
use bao_tree::{BaoTree, BlockSize, ByteRanges, ChunkRanges};
use bytes::Bytes;

use crate::id::Digest;
use crate::permit::Issuer;
use crate::violation::Violation;
use crate::wire::{Body, Chunked, MAX_WHOLE};

/// Body bytes in a chunk: two groups of the hash tree.
pub(crate) const CHUNK: usize = 32 * 1024;
/// Groups of 16 KiB: hashes cost 0.4 %, and smaller groups hash slower.
const GROUPS: BlockSize = BlockSize::from_chunk_log(4);

fn ranges(from: usize, size: usize) -> ChunkRanges {
    let to = size.min(from + CHUNK) as u64;
    round_up_to_chunks(&ByteRanges::from(from as u64..to))
}

/// An outgoing body whose first chunk has been sent.
#[derive(Debug)]
pub(crate) struct Sending {
    body: Bytes,
    outboard: PreOrderMemOutboard,
    sent: usize,
}

/// The first message of a body, and the rest of it if it is larger than a frame.
pub(crate) fn start(body: &Bytes) -> (Body, Option<Sending>) {
    // R6.4.1
    if body.len() <= MAX_WHOLE {
        return (Body::Whole(body.clone()), None);
    }
    let outboard = PreOrderMemOutboard::create(body, GROUPS);
    let root = Digest(*outboard.root.as_bytes());
    let mut sending = Sending { body: body.clone(), outboard, sent: 0 };
    let chunk = sending.next().expect("it is larger than a frame");
    let size = body.len() as u32;
    (Body::Chunked(Chunked { size, root, chunk }), Some(sending))
}

impl Sending {
    /// The bytes sent.
    pub(crate) fn sent(&self) -> usize {
        self.sent.min(self.body.len())
    }

    /// Whether all bytes have been sent.
    pub(crate) fn is_done(&self) -> bool {
        self.sent >= self.body.len()
    }

    /// The next chunk; `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if self.is_done() {
            return None;
        }
        let mut chunk = Vec::with_capacity(CHUNK + 1024);
        let ranges = ranges(self.sent, self.body.len());
        // R6.4.3
        encode_ranges(&self.body[..], &self.outboard, &ranges, &mut chunk)
            .expect("body and hashes are in memory");
        self.sent += CHUNK;
        Some(chunk.into())
    }
}

/// The outgoing body of an instance: one at a time.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    rest: Option<Sending>,
    /// For an answer: what the peer's request is charged with.
    answers: Option<u32>,
}

impl Outgoing {
    /// Begins a body whose first message leaves now. If it is an answer, the peer's request counts
    /// as answered after the last chunk.
    pub(crate) fn begin(
        &mut self,
        rest: Option<Sending>,
        answers: Option<u32>,
        issuer: &mut Issuer,
    ) {
        *self = Self { rest, answers };
        self.end(issuer);
    }

    /// The next chunk.
    pub(crate) fn next(&mut self, issuer: &mut Issuer) -> Option<Bytes> {
        let chunk = self.rest.as_mut()?.next();
        self.end(issuer);
        chunk
    }

    fn end(&mut self, issuer: &mut Issuer) {
        if self.rest.as_ref().is_none_or(Sending::is_done) {
            self.rest = None;
            self.answers.take().into_iter().for_each(|bytes| issuer.answered(bytes));
        }
    }
}

/// Reserves room for `more` bytes of a body of `size`, at most a quarter ahead: `Vec` by itself
/// would double its capacity, and keep that as long as the body lives.
fn reserve(body: &mut Vec<u8>, more: usize, size: usize) {
    let free = body.capacity() - body.len();
    if free < more {
        let ahead = more.max(body.len() / 4);
        body.reserve_exact(ahead.min(size.saturating_sub(body.len()).max(more)));
    }
}

/// An incoming body.
#[derive(Debug)]
pub(crate) struct Receiving {
    root: Digest,
    size: usize,
    body: Vec<u8>,
}

impl Receiving {
    /// Starts a body of at most `bound` bytes that is larger than a frame.
    pub(crate) fn new(start: &Chunked, bound: usize) -> Result<Self, Violation> {
        let size = start.size as usize;
        // R6.4.2
        if size > bound {
            return Err(Violation::ItemTooLarge);
        }
        // R6.4.1
        if size <= MAX_WHOLE {
            return Err(Violation::WrongChunk);
        }
        let mut receiving = Self { root: start.root, size, body: Vec::new() };
        receiving.push(&start.chunk)?;
        Ok(receiving)
    }

    /// Adds the next chunk; `true` if it was the last.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<bool, Violation> {
        let tree = BaoTree::new(self.size as u64, GROUPS);
        let ranges = ranges(self.body.len(), self.size);
        let mut encoded = Cursor::new(chunk);
        let items = DecodeResponseIter::new(self.root.0.into(), tree, &mut encoded, &ranges);
        for item in items {
            // R6.4.4
            if let BaoContentItem::Leaf(leaf) = item.map_err(|_| Violation::WrongChunk)? {
                reserve(&mut self.body, leaf.data.len(), self.size);
                self.body.extend_from_slice(&leaf.data);
            }
        }
        // R6.4.4
        if encoded.position() != chunk.len() as u64 {
            return Err(Violation::WrongChunk);
        }
        Ok(self.body.len() == self.size)
    }

    /// The size of the whole body.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The body, after the last chunk.
    pub(crate) fn finish(self) -> Bytes {
        debug_assert_eq!(self.body.len(), self.size, "only a whole body is finished");
        self.body.into_boxed_slice().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MAX_CHUNK;

    fn body(size: usize) -> Bytes {
        (0..size).map(|i| (i * 31 / 8) as u8).collect::<Vec<_>>().into()
    }

    fn chunked(body: &Bytes) -> (Chunked, Sending) {
        match start(body) {
            (Body::Chunked(start), Some(rest)) => (start, rest),
            other => panic!("{} bytes go whole: {other:?}", body.len()),
        }
    }

    #[test]
    fn bodies_of_every_shape_arrive() {
        for size in [MAX_WHOLE + 1, CHUNK * 2, CHUNK * 2 + 1, CHUNK * 3 + 16384, 1 << 20, 3_000_001]
        {
            let body = body(size);
            let (start, mut rest) = chunked(&body);
            assert!(start.chunk.len() <= MAX_CHUNK);
            let mut receiving = Receiving::new(&start, size).unwrap();
            let mut done = false;
            while let Some(chunk) = rest.next() {
                assert!(!done && chunk.len() <= MAX_CHUNK);
                done = receiving.push(&chunk).unwrap();
            }
            assert!(done);
            assert_eq!(receiving.finish(), body);
        }
        let whole = body(MAX_WHOLE);
        assert!(matches!(start(&whole), (Body::Whole(bytes), None) if bytes == whole));
    }

    /// The slice of R6.4.3, written as in the specification.
    fn slice(body: &[u8], range: &std::ops::Range<usize>, from: usize, to: usize) -> Vec<u8> {
        use blake3::hazmat::HasherExt as _;
        let cv = |from: usize, to: usize| {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(from as u64).update(&body[from..to]);
            hasher.finalize_non_root()
        };
        if from >= range.end || to <= range.start {
            return Vec::new();
        }
        if to - from <= 16_384 {
            return body[from..to].to_vec();
        }
        let mut left = 16_384;
        while left * 2 < to - from {
            left *= 2;
        }
        let mid = from + left;
        let (a, b) = (slice(body, range, from, mid), slice(body, range, mid, to));
        [&cv(from, mid)[..], &cv(mid, to), &a, &b].concat()
    }

    /// R6.4.3
    #[test]
    fn a_chunk_is_a_slice_of_the_hash_tree() {
        for size in [MAX_WHOLE + 1, 65_536, 65_537, 100_000, 1 << 18, 1_000_003] {
            let body = body(size);
            let (start, mut rest) = chunked(&body);
            let mut chunks = vec![start.chunk];
            chunks.extend(std::iter::from_fn(|| rest.next()));
            assert_eq!(chunks.len(), size.div_ceil(32_768));
            assert_eq!(start.root.0, *blake3::hash(&body).as_bytes());
            for (i, chunk) in chunks.iter().enumerate() {
                let range = i * 32_768..(i + 1) * 32_768;
                assert_eq!(*chunk, slice(&body, &range, 0, size), "chunk {i} of {size}");
            }
        }
    }

    /// R6.4.4
    #[test]
    fn a_liar_is_found_at_the_first_wrong_chunk() {
        let body = body(200_000);
        let (start, mut rest) = chunked(&body);
        let good = rest.next().unwrap();
        for at in [0, 40, good.len() - 1] {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            let mut receiving = Receiving::new(&start, 200_000).unwrap();
            assert_eq!(receiving.push(&bad), Err(Violation::WrongChunk));
        }
        let mut receiving = Receiving::new(&start, 200_000).unwrap();
        assert_eq!(receiving.push(&good[..good.len() - 1]), Err(Violation::WrongChunk));
        let longer = [&good[..], &[0]].concat();
        let mut receiving = Receiving::new(&start, 200_000).unwrap();
        assert_eq!(receiving.push(&longer), Err(Violation::WrongChunk));
        // The second chunk a second time, in place of the third.
        let mut receiving = Receiving::new(&start, 200_000).unwrap();
        assert_eq!(receiving.push(&good), Ok(false));
        assert_eq!(receiving.push(&good), Err(Violation::WrongChunk));
    }

    /// R6.4.1, R6.4.2
    #[test]
    fn sizes_are_checked_before_anything_is_kept() {
        let (start, _) = chunked(&body(100_000));
        assert!(Receiving::new(&start, 100_000).is_ok());
        assert_eq!(Receiving::new(&start, 99_999).unwrap_err(), Violation::ItemTooLarge);
        let small = Chunked { size: MAX_WHOLE as u32, ..start.clone() };
        assert_eq!(Receiving::new(&small, 1 << 20).unwrap_err(), Violation::WrongChunk);
        let huge = Chunked { size: u32::MAX, ..start };
        assert_eq!(Receiving::new(&huge, u32::MAX as usize).unwrap_err(), Violation::WrongChunk);
    }
}
