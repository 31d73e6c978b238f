//! Samples and what is said of them.

use std::time::Duration;

use vmrun_measure::Summary;

/// Durations of one side, in seconds.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, duration: Duration) {
        self.0.push(duration.as_secs_f64());
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.0)
    }

    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }
}

/// The one in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    Summary::of(values).map_or(f64::NAN, |summary| summary.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_even_and_odd_counts() {
        let mut samples = Samples::default();
        for seconds in [3, 1, 2] {
            samples.add(Duration::from_secs(seconds));
        }
        assert!((samples.median() - 2.0).abs() < 1e-9);
        samples.add(Duration::from_secs(10));
        assert!((samples.median() - 2.5).abs() < 1e-9);
        assert!((samples.min() - 1.0).abs() < 1e-9 && (samples.max() - 10.0).abs() < 1e-9);
    }
}
