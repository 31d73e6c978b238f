//! The table, and how it stays in its place on a terminal.

use super::row::{Line, Row, number};

const HEAD: [&str; 9] = [
    "CONTAINER",
    "CPU %",
    "MEM USAGE / LIMIT",
    "MEM %",
    "NET I/O",
    "BLOCK I/O",
    "PIDS",
    "HOST CPU %",
    "HOST MEM",
];

/// What there is nothing to say of.
const NOTHING: &str = "--";

/// To the upper left corner, and all from there on empty.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// To the upper left corner.
const HOME: &str = "\x1b[H";
/// The rest of a line is empty.
const END_OF_LINE: &str = "\x1b[K\n";
/// All that is below.
const BELOW: &str = "\x1b[J";

/// As it goes into a file.
pub(super) fn text(lines: &[Line<'_>]) -> String {
    let head = [HEAD.map(str::to_owned)].into_iter();
    let cells = lines.iter().map(|line| match line {
        Line::Row(row) => cells(row),
        Line::Silent { id, .. } => {
            let mut cells = [NOTHING; HEAD.len()].map(str::to_owned);
            cells[0].clone_from(id);
            cells
        }
    });
    super::super::aligned(&head.chain(cells).collect::<Vec<_>>())
}

/// As it is written over the one before.
pub(super) fn screen(lines: &[Line<'_>], is_first: bool) -> String {
    let begin = if is_first { CLEAR } else { HOME };
    format!("{begin}{}{BELOW}", text(lines).replace('\n', END_OF_LINE))
}

fn cells(row: &Row<'_>) -> [String; 9] {
    let percent =
        |share: Option<f64>| share.map_or_else(|| NOTHING.to_owned(), |share| format!("{share:.2}%"));
    let limit = row.memory_limit_bytes.map_or_else(|| NOTHING.to_owned(), binary);
    [
        row.id.to_owned(),
        percent(row.cpu_percent),
        format!("{} / {limit}", binary(row.memory_bytes)),
        percent(row.memory_percent),
        format!("{} / {}", decimal(row.network_received_bytes), decimal(row.network_sent_bytes)),
        format!("{} / {}", decimal(row.block_read_bytes), decimal(row.block_written_bytes)),
        row.pids.to_string(),
        percent(row.sandbox.cpu_percent),
        binary(row.sandbox.memory_bytes),
    ]
}

/// Memory comes in powers of two.
fn binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// What passes by in powers of ten.
fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// Four digits, as Docker has them.
fn scaled(bytes: u64, base: f64, units: &[&str]) -> String {
    let mut value = number(bytes);
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    // What would be rounded to the next unit is of that one.
    while value >= base - 0.5
        && let Some(next) = units.next()
    {
        value /= base;
        unit = next;
    }
    let digits = match value {
        _ if unit == "B" => 0,
        ..10.0 => 3,
        ..100.0 => 2,
        ..1000.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::row::tests::look;
    use super::*;

    #[test]
    fn sizes_have_four_digits_and_a_unit() {
        for (bytes, binary_text, decimal_text) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1000B", "1kB"),
            (1024, "1KiB", "1.024kB"),
            (1_572_864, "1.5MiB", "1.573MB"),
            (104_857_600, "100MiB", "104.9MB"),
            (1_072_693_248, "1023MiB", "1.073GB"),
            (1 << 34, "16GiB", "17.18GB"),
            (u64::MAX, "16EiB", "18.45EB"),
        ] {
            assert_eq!((binary(bytes).as_str(), decimal(bytes).as_str()), (binary_text, decimal_text));
        }
    }

    #[test]
    fn table_has_a_line_for_each_container_and_says_what_it_does_not_know() {
        let begin = Instant::now();
        let before = look(begin, 0, None);
        let now = look(begin + Duration::from_secs(1), 123_456, Some(64 << 20));
        let free = look(begin, 0, None);
        let silent = Line::Silent { id: "old".to_owned(), error: "why".to_owned() };
        let answers = [Row::of("web", &now, Some(&before)), Row::of("new", &free, None)].map(Line::Row);
        let shown = text(&answers.into_iter().chain([silent]).collect::<Vec<_>>());
        let lines: Vec<Vec<_>> = shown
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(lines[0], HEAD);
        assert_eq!(
            lines[1],
            ["web", "12.35%", "50MiB / 64MiB", "78.12%", "10B / 14B", "3B / 0B", "3", "24.69%", "90MiB"]
        );
        assert_eq!(lines[2], ["new", "--", "50MiB / --", "--", "10B / 14B", "3B / 0B", "3", "--", "90MiB"]);
        assert_eq!(lines[3], ["old", "--", "--", "--", "--", "--", "--", "--", "--"]);
        assert!(!shown.contains('\x1b'));
    }

    #[test]
    fn table_on_a_terminal_leaves_nothing_of_the_one_before() {
        let now = look(Instant::now(), 0, None);
        let rows = [Line::Row(Row::of("web", &now, None))];
        assert!(screen(&rows, true).starts_with(CLEAR));
        let later = screen(&rows, false);
        assert!(later.starts_with(HOME) && !later.contains(CLEAR) && later.ends_with(BELOW), "{later:?}");
        assert_eq!(later.matches(END_OF_LINE).count(), 2);
    }
}
