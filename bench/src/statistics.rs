//! Median and spread of a few samples.

use serde::Serialize;

/// The summary of a row of samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Median.
    pub median: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
}

impl Summary {
    /// Returns `None` if there are no samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        Some(Self { median: middle(&sorted)?, min: *sorted.first()?, max: *sorted.last()? })
    }
}

/// Returns the median, or `None` if there are no samples.
pub fn median(samples: &[f64]) -> Option<f64> {
    middle(&sorted(samples))
}

/// Returns the median of `samples[i] / baseline[i]`. Samples of one round are close in time, so a
/// machine that slows down during the run affects both and does not change the ratio.
pub fn paired_ratio(samples: &[f64], baseline: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> =
        samples.iter().zip(baseline).filter(|(_, base)| **base > 0.0).map(|(sample, base)| sample / base).collect();
    median(&ratios)
}

/// Returns the value below which `fraction` of the sorted samples lie (nearest rank).
pub fn quantile(sorted: &[u64], fraction: f64) -> Option<u64> {
    let rank = (sorted.len() as f64 * fraction).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_number_is_the_mean_of_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn summary_includes_minimum_and_maximum() {
        assert_eq!(Summary::of(&[2.0, 9.0, 1.0]), Some(Summary { median: 2.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn ratio_pairs_the_samples_of_each_round() {
        // The machine halved its speed after the first round. The ratio stays the same.
        assert_eq!(paired_ratio(&[20.0, 10.0, 10.0], &[10.0, 5.0, 5.0]), Some(2.0));
        assert_eq!(paired_ratio(&[1.0], &[0.0]), None);
    }

    #[test]
    fn quantile_is_one_of_the_samples() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&sorted, 0.5), Some(50));
        assert_eq!(quantile(&sorted, 0.99), Some(99));
        assert_eq!(quantile(&[7], 0.99), Some(7));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
