//! A report against one of another time.

use std::fs;
use std::path::Path;

use crate::error::MeasureError;
use crate::report::{Report, Side};

/// What came of the comparison.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// A line for each figure, for people.
    pub lines: Vec<String>,
    /// What grew by more than was allowed, a line each.
    pub worse: Vec<String>,
}

/// Compares medians with those of an earlier report: times where both were measured on one machine, and what was
/// counted anyway. `percent` more is allowed; with `None` anything is.
///
/// # Errors
/// The file is no report that can be compared with this one.
pub fn against(report: &Report, path: &Path, percent: Option<f64>) -> Result<Verdict, MeasureError> {
    let failed = |why: String| MeasureError::Baseline { path: path.to_owned(), why };
    let text = fs::read_to_string(path).map_err(MeasureError::file("read the baseline", path))?;
    let baseline: Report =
        serde_json::from_str(&text).map_err(|error| failed(format!("it is not a report: {error}")))?;
    if baseline.schema != report.schema || baseline.kind != report.kind {
        return Err(failed(format!(
            "it is a report of kind {:?}, schema {}; this one is of kind {:?}, schema {}",
            baseline.kind, baseline.schema, report.kind, report.schema
        )));
    }
    let mut verdict = Verdict::default();
    let same_machine = baseline.host == report.host;
    if !same_machine {
        verdict.lines.push(format!(
            "the baseline is of another machine ({}, {} CPUs, Linux {}): times are not compared",
            baseline.host.processor, baseline.host.processors, baseline.host.kernel
        ));
    }
    let known = |name: &str| baseline.sides.iter().find(|side| side.name == name);
    for side in &report.sides {
        let Some(earlier) = known(&side.name) else {
            verdict.lines.push(format!("{}: not in the baseline", side.name));
            continue;
        };
        for (name, before, now) in pairs(earlier, side, same_machine) {
            verdict.add(&format!("{}: {name}", side.name), before, now, percent);
        }
    }
    Ok(verdict)
}

fn pairs<'r>(earlier: &'r Side, now: &'r Side, times: bool) -> Vec<(&'r str, f64, f64)> {
    let seconds = earlier.time.as_ref().zip(now.time.as_ref()).filter(|_| times);
    let seconds = seconds.map(|(before, now)| ("time", before.median, now.median));
    let counted = now.figures.iter().filter_map(|(name, now)| {
        let before = earlier.figures.get(name)?;
        Some((name.as_str(), before.median, now.median))
    });
    seconds.into_iter().chain(counted).collect()
}

impl Verdict {
    fn add(&mut self, name: &str, before: f64, now: f64, percent: Option<f64>) {
        let growth = if before > 0.0 { (now / before - 1.0) * 100.0 } else { 0.0 };
        let line = format!("{name}: {now:.3} (baseline {before:.3}, {growth:+.1} %)");
        if percent.is_some_and(|percent| growth > percent) {
            self.worse.push(line.clone());
        }
        self.lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    fn compared(change: impl Fn(&mut Report), percent: Option<f64>) -> Verdict {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("baseline.json");
        let mut baseline = report();
        change(&mut baseline);
        fs::write(&path, serde_json::to_string(&baseline).unwrap()).unwrap();
        against(&report(), &path, percent).unwrap()
    }

    #[test]
    fn growth_beyond_what_is_allowed_is_worse() {
        assert_eq!(compared(|_| {}, Some(0.0)).worse, [""; 0]);
        let faster = |baseline: &mut Report| {
            baseline.sides[0].time.as_mut().unwrap().median /= 2.0;
        };
        assert_eq!(compared(faster, Some(50.0)).worse.len(), 1);
        assert_eq!(compared(faster, Some(101.0)).worse.len(), 0);
        assert_eq!(compared(faster, None).worse.len(), 0);
    }

    #[test]
    fn times_of_another_machine_are_not_compared_but_counts_are() {
        let other = |baseline: &mut Report| {
            baseline.host.processors += 1;
            baseline.sides[0].time.as_mut().unwrap().median /= 2.0;
            for figure in baseline.sides[0].figures.values_mut() {
                figure.median /= 2.0;
            }
        };
        let verdict = compared(other, Some(3.0));
        assert!(verdict.lines[0].contains("another machine"));
        assert!(!verdict.worse.is_empty() && verdict.worse.iter().all(|line| !line.contains(": time:")));
    }

    #[test]
    fn what_is_no_report_of_this_kind_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x");
        assert!(against(&report(), &path, None).is_err());
        fs::write(&path, "{}").unwrap();
        assert!(against(&report(), &path, None).is_err());
        let other = Report { kind: "exec".to_owned(), ..report() };
        fs::write(&path, serde_json::to_string(&other).unwrap()).unwrap();
        assert!(against(&report(), &path, None).unwrap_err().to_string().contains("kind"));
    }
}
