//! The first byte picks a message, the rest are bytes that may be one: what decodes encodes to the
//! same bytes, nothing is allocated beyond the frame, and pieces read like the whole.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/tidegate-proto/tests/fuzzed/codec.rs"]
mod codec;

#[global_allocator]
static ALLOCATOR: codec::Counting = codec::Counting;

fuzz_target!(|bytes: &[u8]| codec::check(bytes));
