//! For a terminal.

use super::{Report, Side, count, duration, lane};
use crate::density::Density;
use crate::stats::Summary;

/// Tables of times, phases and counts.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    out.push_str(&times(report));
    for side in &report.sides {
        out.push_str(&phases(side));
    }
    out.push_str(&counts(report));
    for side in report.sides.iter().filter_map(|side| Some((&side.name, side.failure.as_ref()?))) {
        out.push_str(&format!("\n{} was left out: {}\n", side.0, side.1));
    }
    for (name, why) in &report.missing {
        out.push_str(&format!("\nnot counted: {name}: {why}"));
    }
    if !report.missing.is_empty() {
        out.push('\n');
    }
    out
}

fn times(report: &Report) -> String {
    let head = ["", "runs", "min", "median", "p90", "p99", "max", "ratio (95 %)"].map(str::to_owned);
    let rows = report.sides.iter().filter_map(|side| {
        let time = side.time.as_ref()?;
        let of = report.comparisons.iter().find(|comparison| comparison.against == side.name);
        let ratio = of.map_or(String::new(), |of| {
            let ratio = of.ratio;
            format!(
                "{} takes {:.2} times as long ({:.2} to {:.2})",
                of.of, ratio.value, ratio.low, ratio.high
            )
        });
        let mut row = vec![side.name.clone(), time.count.to_string()];
        row.extend(five(time, duration));
        row.push(ratio);
        Some(row)
    });
    table(std::iter::once(head.to_vec()).chain(rows).collect())
}

fn five(summary: &Summary, show: fn(f64) -> String) -> [String; 5] {
    [summary.min, summary.median, summary.p90, summary.p99, summary.max].map(show)
}

fn phases(side: &Side) -> String {
    if side.phases.is_empty() {
        return String::new();
    }
    let head = ["phase", "where", "min", "median", "p90", "p99", "max", "share"].map(str::to_owned).to_vec();
    let whole: f64 = side.phases.iter().map(|phase| phase.time.median).sum();
    let rows = side.phases.iter().map(|phase| {
        let mut row = vec![phase.name.clone(), lane(phase.lane).to_owned()];
        row.extend(five(&phase.time, duration));
        row.push(format!("{:.1} %", phase.time.median / whole * 100.0));
        row
    });
    format!("\n{}\n{}", side.name, table(std::iter::once(head).chain(rows).collect()))
}

fn counts(report: &Report) -> String {
    let names: std::collections::BTreeSet<&String> =
        report.sides.iter().flat_map(|side| side.figures.keys()).collect();
    if names.is_empty() {
        return String::new();
    }
    let counted: Vec<&Side> = report.sides.iter().filter(|side| !side.figures.is_empty()).collect();
    let head =
        std::iter::once("counted, medians".to_owned()).chain(counted.iter().map(|side| side.name.clone()));
    let rows = names.into_iter().map(|name| {
        let figure =
            |side: &&Side| side.figures.get(name).map_or("–".to_owned(), |figure| count(figure.median));
        std::iter::once(name.clone()).chain(counted.iter().map(figure)).collect()
    });
    format!("\n{}", table(std::iter::once(head.collect()).chain(rows).collect()))
}

/// Columns as wide as they must be: the first to the left, numbers to the right.
fn table(rows: Vec<Vec<String>>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: Vec<String>| {
        let cells = row.into_iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    rows.into_iter().map(line).collect()
}

/// What a measurement of density came to.
pub fn density_text(density: &Density) -> String {
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
    let row = |name: &str, summary: &Option<Summary>, show: &dyn Fn(f64) -> String| {
        let summary = summary.clone().unwrap_or_default();
        let mut row = vec![name.to_owned()];
        row.extend([summary.min, summary.median, summary.p90, summary.max].map(show));
        row
    };
    let head = ["", "min", "median", "p90", "max"].map(str::to_owned).to_vec();
    let rows = vec![
        head,
        row("private memory", &density.private, &mib),
        row("shared memory", &density.shared, &mib),
        row("proportional (PSS)", &density.proportional, &mib),
        row("start", &density.starts, &duration),
    ];
    let mut out =
        format!("{} of {} sandboxes side by side\n\n{}", density.sandboxes.len(), density.asked, table(rows));
    #[allow(clippy::cast_precision_loss, reason = "a size for a human")]
    let taken = density.taken_each as f64;
    out.push_str(&format!("\nstarts: {:.2} a second, one after another\n", density.rate));
    out.push_str(&format!("taken from the host's available memory by each: {}\n", mib(taken)));
    if let Some(why) = &density.limited_by {
        out.push_str(&format!("stopped there: {why}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn everything_is_said() {
        let said = text(&report());
        for part in [
            "vmrun takes 3.00 times as long (2.50 to 3.50)",
            "guest kernel",
            "300.0 ms",
            "50.0 %",
            "1,500",
            "runc was left out: runc <x> ended with code 1",
            "not counted: guest instructions: no such counter",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "1"], ["long", "22"]].map(|row| row.map(str::to_owned).to_vec()).to_vec();
        assert_eq!(table(rows), "a      1\nlong  22\n");
    }
}
