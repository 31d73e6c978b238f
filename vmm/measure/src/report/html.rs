//! One page that needs nothing but itself.

use std::collections::BTreeSet;
use std::fmt::Write;

use vmrun_spec::Lane;

use super::chart::{self, escape};
use super::{Report, Side, duration, lane};

const STYLE: &str = include_str!("page.css");

/// The report as a page: times, phases, distribution, counts, and the tables behind them.
pub fn html(report: &Report) -> String {
    let title = format!("vmrun bench {}", report.kind);
    let mut body = String::new();
    let _ = write!(body, "<h1>{}</h1>", escape(&title));
    body.push_str(&about(report));
    let timed: Vec<&Side> = report.sides.iter().filter(|side| side.time.is_some()).collect();
    section(
        &mut body,
        "times",
        "Time of a run",
        &[chart::times(&timed), ratios(report), times(&timed)].concat(),
    );
    for side in timed.iter().filter(|side| !side.phases.is_empty()) {
        let content = [chart::phases(&side.name, &side.phases), lanes(), phases(side)].concat();
        section(&mut body, "phases", &format!("Phases of {}", side.name), &content);
    }
    let lines = [chart::distribution(&timed), legend(&timed)].concat();
    section(&mut body, "distribution", "Distribution: the share of runs that took no longer", &lines);
    let names: BTreeSet<String> = report.sides.iter().flat_map(|side| side.figures.keys().cloned()).collect();
    let names: Vec<String> = names.into_iter().collect();
    let counted = if names.is_empty() { String::new() } else { chart::counts(&timed, &names) };
    section(
        &mut body,
        "counts",
        "Counts, which do not depend on the machine's speed",
        &[counted, missing(report)].concat(),
    );
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{}</title><style>{STYLE}</style></head>\n<body>{body}</body></html>\n",
        escape(&title)
    )
}

fn section(body: &mut String, id: &str, title: &str, content: &str) {
    let _ = writeln!(body, "<section id=\"{id}\"><h2>{}</h2>{content}</section>", escape(title));
}

fn about(report: &Report) -> String {
    let host = &report.host;
    let mut out = format!(
        "<p>{}, {} CPUs, Linux {}. Commands took turns, run by run.</p><ul>",
        escape(&host.processor),
        host.processors,
        escape(&host.kernel)
    );
    for side in &report.sides {
        let failure = side.failure.as_ref().map(|why| format!(" <em>left out: {}</em>", escape(why)));
        let (name, command) = (escape(&side.name), escape(&side.command));
        let _ = write!(out, "<li><b>{name}</b> <code>{command}</code>{}</li>", failure.unwrap_or_default());
    }
    out + "</ul>"
}

fn ratios(report: &Report) -> String {
    let lines = report.comparisons.iter().map(|comparison| {
        let ratio = comparison.ratio;
        format!(
            "<p class=\"ratio\"><b>{}</b> takes <b>{:.2}</b> times as long as <b>{}</b> (95 % interval: {:.2} to {:.2})</p>",
            escape(&comparison.of),
            ratio.value,
            escape(&comparison.against),
            ratio.low,
            ratio.high
        )
    });
    lines.collect()
}

fn times(sides: &[&Side]) -> String {
    let rows = sides.iter().filter_map(|side| {
        let time = side.time.as_ref()?;
        let five = [time.min, time.median, time.p90, time.p99, time.max].map(duration);
        Some([vec![side.name.clone(), time.count.to_string()], five.to_vec()].concat())
    });
    table(&["", "runs", "min", "median", "p90", "p99", "max"], rows)
}

fn phases(side: &Side) -> String {
    let whole: f64 = side.phases.iter().map(|phase| phase.time.median).sum();
    let rows = side.phases.iter().map(|phase| {
        let time = &phase.time;
        let five = [time.min, time.median, time.p90, time.p99, time.max].map(duration);
        let share = format!("{:.1} %", time.median / whole * 100.0);
        [vec![phase.name.clone(), lane(phase.lane).to_owned()], five.to_vec(), vec![share]].concat()
    });
    table(&["phase", "where", "min", "median", "p90", "p99", "max", "share"], rows)
}

fn lanes() -> String {
    let lanes = [Lane::Launcher, Lane::Monitor, Lane::Guest].map(lane);
    let spans = lanes.map(|lane| format!("<span class=\"of-{lane}\">{lane}</span>"));
    format!("<p class=\"legend\">{}</p>", spans.join(" "))
}

fn legend(sides: &[&Side]) -> String {
    let mut out = "<p class=\"legend\">".to_owned();
    for (number, side) in sides.iter().enumerate() {
        let _ = write!(out, "<span class=\"k{}\">{}</span> ", number % 6, escape(&side.name));
    }
    out + "</p>"
}

fn missing(report: &Report) -> String {
    let lines = report.missing.iter();
    lines.map(|(name, why)| format!("<p>Not counted: {}: {}.</p>", escape(name), escape(why))).collect()
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cells = |tag: &str, row: &[String]| -> String {
        row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let body: String = rows.map(|row| format!("<tr>{}</tr>", cells("td", &row))).collect();
    format!("<table><thead><tr>{}</tr></thead><tbody>{body}</tbody></table>", cells("th", &head))
}

#[cfg(test)]
mod tests {
    use super::super::count;
    use super::super::tests::report;
    use super::*;

    #[test]
    fn page_needs_nothing_but_itself_and_shows_what_was_typed_as_text() {
        let page = html(&report());
        for outside in ["http", "src=", "href=", "<script", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("vmrun &lt;run&gt; &amp; &quot;x&quot;") && !page.contains("<run>"));
        for id in ["times", "phases", "distribution", "counts"] {
            assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn counts_are_grouped() {
        assert!(html(&report()).contains(&count(1500.0)));
    }
}
