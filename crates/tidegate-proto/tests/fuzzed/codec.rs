//! What must hold of any bytes that may be a message. The fuzzer and the tests share it.

// A counting allocator is unsafe code, and the only way to measure what decoding allocates.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use tidegate_proto::wire::{
    BlockBody, DecodeError, Description, Encode, EncodeError, Frame, MAX_FRAME, RecordPayload,
    Said, SignedStatement, Statement,
};
use tidegate_proto::{Kind, Message};

thread_local! {
    /// The bytes of this thread, and their maximum since [`peak`] began.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, counting bytes by thread.
pub(crate) struct Counting;

fn count(bytes: isize) {
    // A thread that is ending has lost its counters.
    let _ = HELD.try_with(|cell| {
        let (held, most) = cell.get();
        cell.set((held + bytes, most.max(held + bytes)));
    });
}

// SAFETY: it does what the system's allocator does, and counts; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

/// The most that `f` holds, beyond what was held before.
fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|cell| {
        let (held, _) = cell.get();
        cell.set((held, held));
        held
    });
    let result = f();
    let (_, most) = HELD.with(Cell::get);
    (result, (most - before) as usize)
}

/// The bytes that decoding may allocate for each byte of a frame. The most expensive list elements
/// are opaque and may be empty, such as the items of a block: 4 bytes on the wire, 32 in memory,
/// and at most 4,096 of them. One more for strings, which are copied, and one for opaque data that
/// spans the head and the body of a frame.
const PER_BYTE: usize = size_of::<Bytes>().div_ceil(size_of::<u32>()) + 2;
/// Sixteen addresses of 32 bytes, which may be empty on the wire, and the counters of shared bytes.
const BESIDE: usize = 1024;

/// Checks one input: the first byte picks the message, the rest is the frame.
pub(crate) fn check(input: &[u8]) {
    let Some((kind, frame)) = input.split_first() else { return };
    match usize::from(*kind) % (Kind::ALL.len() + 6) {
        0 => check_as(frame, Frame::decode::<RecordPayload>, Encode::to_frame),
        1 => check_as(frame, Frame::decode::<BlockBody>, Encode::to_frame),
        2 => check_as(frame, Frame::decode::<Description>, Encode::to_frame),
        3 => check_as(frame, Frame::decode::<Said>, Encode::to_frame),
        4 => check_as(frame, Frame::decode::<Statement>, Encode::to_frame),
        5 => check_as(frame, Frame::decode::<SignedStatement>, Encode::to_frame),
        n => check_as(frame, |frame| Message::decode(Kind::ALL[n - 6], frame), Message::to_frame),
    }
}

/// The first byte of an input for messages of this name in the schema.
pub(crate) fn selector(name: &str) -> u8 {
    let kind = Kind::ALL.iter().position(|kind| kind.message() == name);
    match name {
        "RecordPayload" => 0,
        "BlockBody" => 1,
        "Description" => 2,
        "Said" => 3,
        "Statement" => 4,
        "SignedStatement" => 5,
        _ => kind.map(|kind| kind as u8 + 6).unwrap_or_else(|| panic!("no channel has {name}")),
    }
}

fn check_as<T: PartialEq + std::fmt::Debug>(
    input: &[u8],
    decode: impl Fn(&Frame) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Result<Frame, EncodeError>,
) {
    let bytes = Bytes::copy_from_slice(input);
    let whole = Frame::from(bytes.clone());
    let most = PER_BYTE * input.len() + BESIDE;
    let (decoded, took) = peak(|| decode(&whole));
    assert!(took <= most, "{took} bytes to decode {}", input.len());
    if let Ok(message) = &decoded
        && input.len() <= MAX_FRAME
    {
        let encoded = encode(message).expect("what was decoded has a wire form");
        assert_eq!(encoded.len(), input.len());
        assert_eq!(encoded.to_bytes(), input, "another wire form of {message:?}");
    }
    // A frame whose length is not a multiple of four is padded when it is in pieces.
    if !input.len().is_multiple_of(4) {
        assert!(decoded.is_err());
        return;
    }
    // All cuts of a small frame, some of a large one, chosen by its content.
    let step = (input.len() / 64).max(1);
    let first = input.iter().fold(0, |sum, byte| sum + usize::from(*byte)) % step;
    for cut in (first..=input.len()).step_by(step) {
        let pieces = Frame::from_pieces(bytes.slice(..cut), bytes.slice(cut..));
        let (again, took) = peak(|| decode(&pieces));
        assert_eq!(again, decoded, "cut at {cut}");
        assert!(took <= most, "{took} bytes to decode {}, cut at {cut}", input.len());
    }
}
