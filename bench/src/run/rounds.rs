//! The order of a round, and the recording of its samples.

use crate::{results::Results, topology::Variant};

/// Iterates over `all` with another first element in each round, so that none always comes first or
/// after the same neighbor.
pub fn rotated<T>(all: &[T], round: u32) -> impl Iterator<Item = &T> {
    let first = if all.is_empty() { 0 } else { round as usize % all.len() };
    all[first..].iter().chain(&all[..first])
}

/// Records and prints a sample of a variant.
pub fn record(results: &mut Results, figure: &str, variant: Variant, sample: f64) {
    eprintln!("  {figure:<11} {:<24} {sample:.2}", variant.label());
    results.record(figure, variant.key(), sample);
}

/// Records and prints a sample of a row that is not a variant.
pub fn record_row(results: &mut Results, figure: &str, row: &'static str, sample: f64) {
    eprintln!("  {figure:<11} {row:<24} {sample:.2}");
    results.record(figure, row, sample);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_starts_with_another_variant() {
        let order = |round| rotated(&['a', 'b', 'c'], round).collect::<String>();
        assert_eq!([order(0), order(1), order(2), order(3)], ["abc", "bca", "cab", "abc"]);
        assert_eq!(rotated::<u8>(&[], 3).count(), 0);
    }
}
