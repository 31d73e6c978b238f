//! What is said at the end.

mod chart;
mod html;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vmrun_spec::Lane;

use crate::stats::{Interval, Summary};

pub use html::html;
pub use text::{density_text, text};

/// A measurement, whole. Times are in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`Report::SCHEMA`] of who wrote it.
    pub schema: u32,
    /// What was measured, as `boot`.
    pub kind: String,
    /// On which machine.
    pub host: Host,
    /// The commands.
    pub sides: Vec<Side>,
    /// The first against each other.
    pub comparisons: Vec<Comparison>,
    /// What could not be counted here, and why.
    pub missing: BTreeMap<String, String>,
}

/// A machine, as far as it decides what is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Release of its kernel.
    pub kernel: String,
    /// Its processor.
    pub processor: String,
    /// Processors that the measurement may use.
    pub processors: usize,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Its name in the report.
    pub name: String,
    /// Its words.
    pub command: String,
    /// Each timed run.
    pub seconds: Vec<f64>,
    /// What they come to; nothing where it failed.
    pub time: Option<Summary>,
    /// What its own timeline says, in the order of time.
    pub phases: Vec<PhaseSummary>,
    /// What the kernel has counted of a run.
    pub figures: BTreeMap<String, Summary>,
    /// Why it was left out.
    pub failure: Option<String>,
}

/// A part of each run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseSummary {
    /// Its name.
    pub name: String,
    /// Whose work it is.
    pub lane: Lane,
    /// Its time.
    pub time: Summary,
}

/// Of two commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The one.
    pub of: String,
    /// The other.
    pub against: String,
    /// Median of the ratios of runs side by side, with its 95 % interval.
    pub ratio: Interval,
}

impl Report {
    /// Grows when a reader of an older one would misunderstand it.
    pub const SCHEMA: u32 = 1;

    /// Of this kind, on this machine, still empty.
    pub(crate) fn here(kind: &str) -> Self {
        Self {
            schema: Self::SCHEMA,
            kind: kind.to_owned(),
            host: Host::here(),
            sides: Vec::new(),
            comparisons: Vec::new(),
            missing: BTreeMap::new(),
        }
    }
}

/// Seconds for a reader: `1.234 s`, `56.7 ms`, `890 µs`.
fn duration(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{seconds:.3} s")
    } else if seconds >= 0.001 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{:.0} µs", seconds * 1e6)
    }
}

/// A count for a reader: `21,500,000`.
fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let places = digits.len();
    let grouped = digits.chars().enumerate().map(|(at, digit)| match places - at {
        rest if at > 0 && rest % 3 == 0 => format!(",{digit}"),
        _ => digit.to_string(),
    });
    grouped.collect()
}

fn lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Launcher => "launcher",
        Lane::Monitor => "monitor",
        Lane::Guest => "guest",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// With everything in it.
    pub(crate) fn report() -> Report {
        let time = |values: &[f64]| Summary::of(values);
        let side = |name: &str, values: &[f64], faults: f64| Side {
            name: name.to_owned(),
            command: format!("{name} <run> & \"x\""),
            seconds: values.to_vec(),
            time: time(values),
            phases: Vec::new(),
            figures: [("page faults".to_owned(), Summary::of(&[faults]).unwrap())].into(),
            failure: None,
        };
        let mut first = side("vmrun", &[0.5, 0.6, 0.7], 1500.0);
        for (name, lane, seconds) in [
            ("plan", Lane::Launcher, 0.1),
            ("guest kernel", Lane::Guest, 0.3),
            ("teardown", Lane::Launcher, 0.2),
        ] {
            let time = Summary::of(&[seconds]).unwrap();
            first.phases.push(PhaseSummary { name: name.to_owned(), lane, time });
        }
        let failed = Side {
            seconds: Vec::new(),
            time: None,
            figures: BTreeMap::new(),
            failure: Some("runc <x> ended with code 1".to_owned()),
            ..side("runc", &[], 0.0)
        };
        let ratio = Interval { value: 3.0, low: 2.5, high: 3.5 };
        Report {
            sides: vec![first, side("crun", &[0.2, 0.2, 0.25], 800.0), failed],
            comparisons: vec![Comparison { of: "vmrun".to_owned(), against: "crun".to_owned(), ratio }],
            missing: [("guest instructions".to_owned(), "no such counter".to_owned())].into(),
            ..Report::here("boot")
        }
    }

    #[test]
    fn numbers_are_for_readers() {
        assert_eq!(
            [0.0, 7.0, 999.0, 1000.0, 21_500_000.0].map(count),
            ["0", "7", "999", "1,000", "21,500,000"]
        );
        assert_eq!([1.5, 0.0567, 0.00089].map(duration), ["1.500 s", "56.7 ms", "890 µs"]);
    }

    #[test]
    fn report_reads_back() {
        let text = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report());
    }
}
