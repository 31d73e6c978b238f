//! One file a verb: its options, and the call that they become.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod checkpoint;
pub(crate) mod create;
pub(crate) mod delete;
mod event;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod features;
pub(crate) mod kill;
mod launch;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod pause;
pub(crate) mod ps;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod spec;
pub(crate) mod start;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod template;
pub(crate) mod update;
pub(crate) mod version;

use std::io::{self, Write};

use vmrun_runtime::{HookError, chain, log};

/// Tells of hooks that failed where a failure changes nothing.
pub(crate) fn warn_of(errors: &[HookError]) {
    for error in errors {
        log::warn(&chain(error));
    }
}

/// A table, each column as wide as its widest cell.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(8) + 3);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

/// The same for data that goes on coming; whether anybody still reads.
pub(crate) fn is_read(text: &str) -> bool {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// Writes data to standard output. A reader that has left is no error of ours.
pub(crate) fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// Data as indented JSON; our own types always have it.
pub(crate) fn json(data: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(data).map(|text| text + "\n").unwrap_or_default()
}
