//! What is said of samples.

use serde::{Deserialize, Serialize};

/// So many resamples decide an interval.
const RESAMPLES: usize = 2000;
/// Any number would do; one that stays gives the same interval for the same samples.
const SEED: u64 = 0x0076_6d72_756e;

/// What some samples come to, in their unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many there are.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// The one in the middle.
    pub median: f64,
    /// Nine of ten are not above it.
    pub p90: f64,
    /// Ninety-nine of a hundred are not.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Of these samples; nothing of none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let at = |share| quantile(&sorted, share);
        Some(Self { count: sorted.len(), min, median: at(0.5), p90: at(0.9), p99: at(0.99), max })
    }
}

/// A value and the interval in which it is with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The value.
    pub value: f64,
    /// The interval's low end.
    pub low: f64,
    /// Its high end.
    pub high: f64,
}

/// The median of the ratios of `ours` to `theirs`, pair by pair, with its interval by the bootstrap (Efron:
/// "Bootstrap methods: another look at the jackknife", 1979; percentiles).
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> Option<Interval> {
    let ratios: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .filter(|(_, theirs)| **theirs > 0.0)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    let value = Summary::of(&ratios)?.median;
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let drawn: Vec<f64> = ratios.iter().filter_map(|_| random.choice(&ratios)).copied().collect();
            Some(Summary::of(&drawn)?.median)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Some(Interval { value, low: quantile(&medians, 0.025), high: quantile(&medians, 0.975) })
}

/// The value below which a share of the sorted values lies, by linear interpolation.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a position among some thousand samples"
)]
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * sorted.len().saturating_sub(1) as f64;
    let (below, part) = (position.floor() as usize, position.fract());
    let low = sorted.get(below).copied().unwrap_or(f64::NAN);
    let high = sorted.get(below + 1).copied().unwrap_or(low);
    low + (high - low) * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_a_hundred_and_one_numbers() {
        let samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!(summary, Summary { count: 101, min: 0.0, median: 50.0, p90: 90.0, p99: 99.0, max: 100.0 });
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[3.0]).unwrap().p99, 3.0);
        assert_eq!(Summary::of(&[1.0, 2.0]).unwrap().median, 1.5);
    }

    #[test]
    fn ratio_is_of_pairs_and_its_interval_holds_it() {
        let theirs: Vec<f64> = (1..=20).map(f64::from).collect();
        let ours: Vec<f64> = theirs.iter().map(|theirs| theirs * 2.0).collect();
        let interval = ratio(&ours, &theirs).unwrap();
        assert_eq!((interval.value, interval.low, interval.high), (2.0, 2.0, 2.0));
        let noisy: Vec<f64> = (0..20).map(|at| if at % 2 == 0 { 1.0 } else { 3.0 }).collect();
        let interval = ratio(&noisy, &[1.0; 20]).unwrap();
        assert!(interval.low <= interval.value && interval.value <= interval.high);
        assert!(interval.low >= 1.0 && interval.high <= 3.0 && interval.low < interval.high);
        // The same again.
        assert_eq!(ratio(&noisy, &[1.0; 20]).unwrap(), interval);
    }

    #[test]
    fn nothing_has_no_ratio() {
        assert_eq!(ratio(&[], &[]), None);
        assert_eq!(ratio(&[1.0], &[0.0]), None);
    }
}
