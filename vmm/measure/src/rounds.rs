//! Rounds: each command once, the first one another each time.

use std::collections::BTreeMap;
use std::time::Duration;

use vmrun_spec::{Lane, Phase};

use crate::counters::{Counters, Figures};
use crate::error::MeasureError;
use crate::report::{self, Comparison, PhaseSummary, Report};
use crate::side::Side;
use crate::stats::{Summary, ratio};

/// What is to be measured.
#[derive(Debug)]
pub struct Request {
    /// The kind of the measurement, as `boot`.
    pub kind: &'static str,
    /// The commands; what is said of two is said of the first and another.
    pub sides: Vec<Side>,
    /// Timed runs of each, one at least.
    pub runs: usize,
    /// Runs before those.
    pub warmups: usize,
    /// The longest that a run may take.
    pub limit: Duration,
    /// Further runs, in which is counted; they are not timed, since counting takes time.
    pub counted: usize,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Runs that are done.
    pub done: usize,
    /// All of them.
    pub all: usize,
}

/// The samples of a side so far.
#[derive(Debug, Default)]
struct Samples {
    seconds: Vec<f64>,
    phases: Vec<Vec<Phase>>,
    figures: Vec<Figures>,
    failure: Option<String>,
}

/// Measures. A command that fails is left out from then on, and the report says so; the first one must not.
///
/// # Errors
/// The first command failed, or nothing can be run at all.
pub fn measure(request: &Request, mut progress: impl FnMut(Progress)) -> Result<Report, MeasureError> {
    if request.runs == 0 {
        return Err(MeasureError::Number("there are no runs to measure; ask for at least one with --runs"));
    }
    let mut counters = if request.counted > 0 { Counters::open() } else { Counters::none() };
    let rounds = request.warmups + request.runs + request.counted;
    let mut samples: Vec<Samples> = request.sides.iter().map(|_| Samples::default()).collect();
    let mut at = Progress { done: 0, all: rounds * request.sides.len() };
    for round in 0..rounds {
        let part = Part::of(round, request);
        for turn in 0..request.sides.len() {
            let place = (round + turn) % request.sides.len();
            let (Some(side), Some(samples)) = (request.sides.get(place), samples.get_mut(place)) else {
                continue;
            };
            if samples.failure.is_none()
                && let Err(error) = samples.add(side, round, part, request.limit, &mut counters)
            {
                if place == 0 {
                    return Err(error);
                }
                *samples = Samples { failure: Some(error.to_string()), ..Samples::default() };
            }
            at.done += 1;
            progress(at);
        }
    }
    Ok(report(request, &samples, counters.missing))
}

/// What a round is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    WarmUp,
    Time,
    Count,
}

impl Part {
    fn of(round: usize, request: &Request) -> Self {
        if round < request.warmups {
            Self::WarmUp
        } else if round < request.warmups + request.runs {
            Self::Time
        } else {
            Self::Count
        }
    }
}

impl Samples {
    fn add(
        &mut self,
        side: &Side,
        round: usize,
        part: Part,
        limit: Duration,
        counters: &mut Counters,
    ) -> Result<(), MeasureError> {
        if part == Part::Count {
            let (_, figures) = counters.during(|| side.run(round, limit))?;
            self.figures.push(figures);
            return Ok(());
        }
        let shown = side.run(round, limit)?;
        if part == Part::Time {
            self.seconds.push(shown.time.as_secs_f64());
            self.phases.push(shown.phases);
        }
        Ok(())
    }
}

fn report(request: &Request, samples: &[Samples], missing: BTreeMap<String, String>) -> Report {
    let sides = request.sides.iter().zip(samples).map(|(side, samples)| report::Side {
        name: side.name.clone(),
        command: side.line(),
        seconds: samples.seconds.clone(),
        time: Summary::of(&samples.seconds),
        phases: phases(&samples.phases),
        figures: figures(&samples.figures),
        failure: samples.failure.clone(),
    });
    let others = request.sides.iter().zip(samples).skip(1);
    let first = request.sides.first().zip(samples.first());
    let comparisons = others.filter_map(|(side, theirs)| {
        let (ours, samples) = first?;
        let ratio = ratio(&samples.seconds, &theirs.seconds)?;
        Some(Comparison { of: ours.name.clone(), against: side.name.clone(), ratio })
    });
    Report {
        sides: sides.collect(),
        comparisons: comparisons.collect(),
        missing,
        ..Report::here(request.kind)
    }
}

/// Each phase by its name, in the order in which they come.
fn phases(runs: &[Vec<Phase>]) -> Vec<PhaseSummary> {
    let mut known: Vec<(&str, Lane)> = Vec::new();
    for phase in runs.iter().flatten() {
        if !known.iter().any(|(name, _)| *name == phase.name) {
            known.push((&phase.name, phase.lane));
        }
    }
    let summary = |(name, lane): (&str, Lane)| {
        let mine = runs.iter().flatten().filter(|phase| phase.name == name);
        let seconds: Vec<f64> =
            mine.map(|phase| Duration::from_nanos(phase.duration_ns).as_secs_f64()).collect();
        Some(PhaseSummary { name: name.to_owned(), lane, time: Summary::of(&seconds)? })
    };
    known.into_iter().filter_map(summary).collect()
}

#[allow(clippy::cast_precision_loss, reason = "counts of a start are far from 2^52")]
fn figures(runs: &[Figures]) -> BTreeMap<String, Summary> {
    let names = runs.iter().flat_map(|figures| figures.keys());
    names
        .filter_map(|name| {
            let values: Vec<f64> =
                runs.iter().filter_map(|figures| figures.get(name)).map(|value| *value as f64).collect();
            Some((name.clone(), Summary::of(&values)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::CommandLine;

    fn request(lines: &[&str], runs: usize) -> Request {
        let sides =
            lines.iter().map(|line| Side::command(*line, CommandLine::parse(line).unwrap())).collect();
        Request { kind: "boot", sides, runs, warmups: 1, limit: Duration::from_secs(600), counted: 0 }
    }

    #[test]
    fn commands_take_turns_and_are_compared_with_the_first() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        let line = |name: &str| format!("sh -c 'echo {name} >>{}'", log.display());
        let mut seen = Vec::new();
        let report = measure(&request(&[&line("a"), &line("b")], 2), |progress| {
            seen.push((progress.done, progress.all));
        })
        .unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "a\nb\nb\na\na\nb\n");
        assert_eq!(seen.last(), Some(&(6, 6)));
        assert_eq!(report.sides[1].time.as_ref().unwrap().count, 2);
        assert_eq!(report.comparisons.len(), 1);
        assert_eq!(report.comparisons[0].of, line("a"));
    }

    #[test]
    fn other_that_fails_is_said_and_not_counted() {
        let report = measure(&request(&["true", "false"], 2), |_| {}).unwrap();
        assert!(report.sides[1].failure.as_ref().unwrap().contains("ended with code 1"));
        assert_eq!((report.sides[1].time.clone(), report.comparisons.len()), (None, 0));
        assert_eq!(report.sides[0].seconds.len(), 2);
    }

    #[test]
    fn first_that_fails_ends_it_and_no_runs_are_refused() {
        assert!(measure(&request(&["false", "true"], 2), |_| {}).is_err());
        assert!(measure(&request(&["true"], 0), |_| {}).is_err());
    }

    #[test]
    fn phases_that_some_runs_lack_are_kept_in_their_order() {
        let phase = |name: &str, duration_ns| Phase {
            name: name.to_owned(),
            lane: Lane::Guest,
            begin_ns: 0,
            duration_ns,
        };
        let found =
            phases(&[vec![phase("a", 1_000_000_000)], vec![phase("a", 3_000_000_000), phase("b", 5)]]);
        let names: Vec<_> = found.iter().map(|phase| (phase.name.as_str(), phase.time.count)).collect();
        assert_eq!(names, [("a", 2), ("b", 1)]);
        assert_eq!(found[0].time.median, 2.0);
    }
}
