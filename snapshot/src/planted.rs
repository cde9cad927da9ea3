//! A bug to plant in the store, for tests that must find it. It holds for the thread that sets it.

use std::cell::Cell;

thread_local! {
    static UNCHECKED: Cell<bool> = const { Cell::new(false) };
}

/// Plants the bug on this thread, or takes it away: values are taken without a look at their
/// checksum.
pub fn plant_unchecked_values(on: bool) {
    UNCHECKED.set(on);
}

pub(crate) fn unchecked_values() -> bool {
    UNCHECKED.get()
}
