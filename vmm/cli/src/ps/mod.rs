//! A table of processes as `ps` of procps prints it: runc calls that program on the host, and what
//! runs in a guest is not there.
//!
//! ```text
//!   words ─▶ request: which processes, which columns ─▶ rows ─▶ text
//! ```

mod columns;
mod formats;
pub(crate) mod names;
mod request;
mod row;
mod times;

use std::time::SystemTime;

use vmrun_runtime::ProcessInfo;

use self::columns::Side;
use self::names::Names;
use self::request::Request;
use self::row::Row;

/// Why options of ps are not carried out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The option.
    pub(crate) option: String,
    /// Why.
    pub(crate) why: &'static str,
}

/// The lines for these options; without any those of `ps -ef`.
pub(crate) fn table(processes: &[ProcessInfo], words: &[String]) -> Result<String, Refusal> {
    let facts = Facts { users: Names::users(), groups: Names::groups(), now: SystemTime::now() };
    table_with(processes, words, &facts)
}

/// What of the host goes into a table.
#[derive(Debug)]
struct Facts {
    users: Names,
    groups: Names,
    now: SystemTime,
}

fn table_with(processes: &[ProcessInfo], words: &[String], facts: &Facts) -> Result<String, Refusal> {
    let default = ["-ef".to_owned()];
    let request = Request::read(if words.is_empty() { &default } else { words }, facts)?;
    let mut rows: Vec<_> = processes
        .iter()
        .map(|info| Row::new(info, facts, request.numeric))
        .filter(|row| request.wants(row))
        .collect();
    request.sort(&mut rows);
    let mut text = String::new();
    let headers: Vec<_> = request.columns.iter().map(|chosen| chosen.header.clone()).collect();
    if request.header && headers.iter().any(|header| !header.is_empty()) {
        text += &line(&request, &headers);
    }
    for row in &rows {
        let cells: Vec<_> = request.columns.iter().map(|chosen| plain(&(chosen.column.value)(row))).collect();
        text += &line(&request, &cells);
    }
    Ok(text)
}

/// Cells as wide as their columns; the last one as long as it is.
fn line(request: &Request, cells: &[String]) -> String {
    let mut text = String::new();
    for (index, (chosen, cell)) in request.columns.iter().zip(cells).enumerate() {
        let last = index + 1 == request.columns.len();
        let width = chosen.column.width.max(chosen.header.len());
        let cell = fitting(cell, width, chosen.column.side, last);
        match chosen.column.side {
            Side::Left if last => text += &cell,
            Side::Left => text += &format!("{cell:<width$} "),
            Side::Right if last => text += &format!("{cell:>width$}"),
            Side::Right => text += &format!("{cell:>width$} "),
        }
    }
    text.push('\n');
    text
}

/// A name that is too long would push the columns behind it away.
fn fitting(cell: &str, width: usize, side: Side, last: bool) -> String {
    if last || side == Side::Right || cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['+']).collect()
}

/// The guest wrote it: nothing in it may move the reader's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

#[cfg(test)]
mod tests;
