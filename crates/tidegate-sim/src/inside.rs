//! Tells which core is being called: for allocators that attribute memory.

use std::cell::Cell;

thread_local! {
    static INSIDE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The node whose core is being called on this thread, if one is.
///
/// Meant for a global allocator that counts what a core holds: it allocates nothing, and works while a
/// thread ends.
pub fn inside() -> Option<usize> {
    INSIDE.try_with(Cell::get).unwrap_or_default()
}

pub(crate) fn within<T>(node: usize, call: impl FnOnce() -> T) -> T {
    INSIDE.set(Some(node));
    let result = call();
    INSIDE.set(None);
    result
}
