//! Charts as SVG: no script, so that the file shows the same wherever it is opened.

use std::fmt::Write;

use super::{PhaseSummary, Side, count, duration};

/// Width of every chart, in its own units.
const WIDTH: f64 = 900.0;
/// Where names end and bars begin.
const LEFT: f64 = 200.0;
/// Where bars end and figures begin.
const RIGHT: f64 = 780.0;
/// Height of a row.
const ROW: f64 = 34.0;

/// Text that stands for itself.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A row for each command: a dot for each run, a bar to the median.
pub(super) fn times(sides: &[&Side]) -> String {
    let longest = sides.iter().flat_map(|side| side.seconds.iter()).copied().fold(0.0, f64::max);
    let x = scale(longest);
    let mut body = String::new();
    for (row, side) in sides.iter().enumerate() {
        let Some(time) = &side.time else { continue };
        let middle = at(row) + ROW / 2.0;
        let color = row % COLORS;
        body.push_str(&name(&side.name, middle));
        body.push_str(&bar(
            LEFT,
            x(time.median) - LEFT,
            middle - 9.0,
            18.0,
            &format!("c{color} soft"),
            &duration(time.median),
        ));
        for seconds in &side.seconds {
            let _ =
                write!(body, r#"<circle class="c{color}" cx="{:.1}" cy="{middle:.1}" r="3"/>"#, x(*seconds));
        }
        body.push_str(&figure(&duration(time.median), middle));
    }
    svg("Time of a run", at(sides.len()), &body)
}

/// One bar, in which each phase has its part.
pub(super) fn phases(side: &str, phases: &[PhaseSummary]) -> String {
    let whole: f64 = phases.iter().map(|phase| phase.time.median).sum();
    let width = |seconds: f64| if whole > 0.0 { seconds / whole * WIDTH } else { 0.0 };
    let mut left = 0.0;
    let mut body = String::new();
    for phase in phases {
        let wide = width(phase.time.median);
        let class = format!("lane-{} part", super::lane(phase.lane));
        let text = format!("{}: {}", phase.name, duration(phase.time.median));
        body.push_str(&bar(left, wide, 4.0, 44.0, &class, &text));
        // A name that fits, by the width of its letters.
        #[allow(clippy::cast_precision_loss, reason = "a name has few letters")]
        let letters = phase.name.chars().count() as f64 * 6.6;
        if letters < wide {
            let _ = write!(
                body,
                r#"<text class="inside" x="{:.1}" y="30">{}</text>"#,
                left + wide / 2.0,
                escape(&phase.name)
            );
        }
        left += wide;
    }
    svg(&format!("Phases of {side}"), 52.0, &body)
}

/// Which share of the runs took no longer: a line for each command.
pub(super) fn distribution(sides: &[&Side]) -> String {
    const HEIGHT: f64 = 260.0;
    const FLOOR: f64 = 230.0;
    let longest = sides.iter().flat_map(|side| side.seconds.iter()).copied().fold(0.0, f64::max);
    let x = |seconds: f64| 50.0 + if longest > 0.0 { seconds / longest * (WIDTH - 110.0) } else { 0.0 };
    let mut body = String::new();
    for (share, label) in [(0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (1.0, "100 %")] {
        let y = FLOOR - share * (FLOOR - 14.0);
        let _ = write!(body, r#"<line class="grid" x1="50" x2="{WIDTH}" y1="{y:.1}" y2="{y:.1}"/>"#);
        let _ = write!(body, r#"<text class="axis" x="44" y="{:.1}">{label}</text>"#, y + 4.0);
    }
    for part in 0..=4 {
        let seconds = longest * f64::from(part) / 4.0;
        let place = x(seconds);
        let _ = write!(
            body,
            r#"<text class="tick" x="{place:.1}" y="{:.1}">{}</text>"#,
            FLOOR + 20.0,
            duration(seconds)
        );
    }
    for (row, side) in sides.iter().enumerate() {
        let _ = write!(
            body,
            r#"<path class="line l{}" d="{}"><title>{}</title></path>"#,
            row % COLORS,
            steps(side, x, FLOOR),
            escape(&side.name)
        );
    }
    svg("Distribution: share of runs that took no longer", HEIGHT, &body)
}

#[allow(clippy::cast_precision_loss, reason = "runs are some thousand")]
fn steps(side: &Side, x: impl Fn(f64) -> f64, floor: f64) -> String {
    let mut sorted = side.seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let all = sorted.len() as f64;
    let mut path = String::new();
    for (number, seconds) in sorted.iter().enumerate() {
        let (place, y) = (x(*seconds), floor - (number + 1) as f64 / all * (floor - 14.0));
        let start = if number == 0 { format!("M{place:.1},{floor}") } else { format!("H{place:.1}") };
        let _ = write!(path, "{start}V{y:.1}");
    }
    path
}

/// A group of rows for each figure, a row in it for each command. Every group has its own scale, but for parts
/// of another figure (`VM exits: cpuid`), which have that of the whole.
pub(super) fn counts(sides: &[&Side], names: &[String]) -> String {
    let mut body = String::new();
    let mut row = 0;
    for figure_name in names {
        let whole = figure_name.split_once(": ").map_or(figure_name.as_str(), |(whole, _)| whole);
        let x = scale(most(sides, whole).max(most(sides, figure_name)));
        let y = at(row) + 22.0;
        let _ = write!(body, r#"<text class="group" x="0" y="{y:.1}">{}</text>"#, escape(figure_name));
        row += 1;
        for (number, side) in sides.iter().enumerate() {
            let Some(value) = side.figures.get(figure_name).map(|figure| figure.median) else { continue };
            let middle = at(row) + ROW / 2.0;
            let class = format!("c{}", number % COLORS);
            body.push_str(&name(&side.name, middle));
            body.push_str(&bar(LEFT, x(value) - LEFT, middle - 9.0, 18.0, &class, &count(value)));
            body.push_str(&figure(&count(value), middle));
            row += 1;
        }
    }
    svg("What the kernel counts of a run", at(row), &body)
}

fn most(sides: &[&Side], figure: &str) -> f64 {
    sides.iter().filter_map(|side| Some(side.figures.get(figure)?.median)).fold(0.0, f64::max)
}

/// Colours that the page has for commands.
const COLORS: usize = 6;

#[allow(clippy::cast_precision_loss, reason = "a chart has few rows")]
fn at(row: usize) -> f64 {
    row as f64 * ROW
}

fn scale(most: f64) -> impl Fn(f64) -> f64 {
    move |value| LEFT + if most > 0.0 { value / most * (RIGHT - LEFT) } else { 0.0 }
}

fn name(text: &str, middle: f64) -> String {
    const MOST: usize = 26;
    let short: String = if text.chars().count() > MOST {
        text.chars().take(MOST - 1).chain(['…']).collect()
    } else {
        text.to_owned()
    };
    format!(r#"<text class="name" x="{:.1}" y="{:.1}">{}</text>"#, LEFT - 10.0, middle + 4.0, escape(&short))
}

fn figure(text: &str, middle: f64) -> String {
    format!(r#"<text class="figure" x="{:.1}" y="{:.1}">{}</text>"#, RIGHT + 12.0, middle + 4.0, escape(text))
}

fn bar(left: f64, width: f64, top: f64, height: f64, class: &str, title: &str) -> String {
    format!(
        r#"<rect class="{class}" x="{left:.1}" y="{top:.1}" width="{:.1}" height="{height:.1}"><title>{}</title></rect>"#,
        width.max(0.5),
        escape(title)
    )
}

fn svg(title: &str, height: f64, body: &str) -> String {
    format!(
        r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{}">{body}</svg>"#,
        escape(title)
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(escape(r#"<a b="c">&"#), "&lt;a b=&quot;c&quot;&gt;&amp;");
    }

    #[test]
    fn each_run_has_a_dot_and_each_phase_its_part() {
        let report = report();
        let sides: Vec<&Side> = report.sides.iter().filter(|side| side.time.is_some()).collect();
        assert_eq!(times(&sides).matches("<circle").count(), 6);
        let bar = phases("vmrun", &report.sides[0].phases);
        assert_eq!(bar.matches("<rect").count(), 3);
        // Half of the time is half of the width.
        assert!(bar.contains(r#"width="450.0""#), "{bar}");
        assert_eq!(distribution(&sides).matches("<path").count(), 2);
        assert_eq!(counts(&sides, &["page faults".to_owned()]).matches("<rect").count(), 2);
    }

    #[test]
    fn nothing_makes_no_nonsense() {
        for chart in [times(&[]), phases("x", &[]), distribution(&[]), counts(&[], &[])] {
            assert!(!chart.contains("NaN") && !chart.contains("inf"), "{chart}");
        }
    }
}
