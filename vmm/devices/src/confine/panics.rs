//! How a panic of a confined thread is told.
//!
//! The standard library's way may open files, for a backtrace (`RUST_BACKTRACE`). A confined
//! thread would end the process by it, where the panic alone ends a device or the machine.

use std::cell::Cell;
use std::io::{self, Write};
use std::panic;
use std::sync::Once;

thread_local! {
    static CONFINED: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic of the calling thread is one line on standard error.
pub(super) fn tell_in_one_line() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CONFINED.get() {
                // Nobody may be left who reads it.
                let _ = writeln!(io::stderr(), "vmrun: {}", info.to_string().replace('\n', " "));
            } else {
                usual(info);
            }
        }));
    });
    CONFINED.set(true);
}
