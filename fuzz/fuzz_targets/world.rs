//! Three nodes and a hostile one, driven by bytes alone: nothing panics, memory is bounded, nobody
//! honest is punished, and the honest agree in the end.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(broken) = tidegate_sim::fuzzed(bytes).broken {
        panic!("{broken}\nagain: cargo run -- sim run fuzz --bytes FILE");
    }
});
