//! Results as tables for a terminal.

use std::ops::RangeInclusive;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

use super::labels::label;
use crate::{
    goals::Verdict,
    measure::cost::Cost,
    results::{Figure, Results},
    statistics::Summary,
};

/// Returns an empty table with a line below its header.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    let line = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(line)).set_header(header.to_vec());
    table
}

/// Aligns columns of numbers to the right.
pub fn align_right(table: &mut Table, columns: RangeInclusive<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Returns a table of medians, spread and ratios.
pub fn figures(results: &Results) -> Table {
    let mut table = table(&["", "", "median", "min .. max", "/ direct", "/ bridge", "/ docker", "/ own"]);
    for figure in &results.figures {
        for (number, (key, samples)) in figure.rows.iter().enumerate() {
            let Some(summary) = Summary::of(samples) else { continue };
            let title = if number == 0 { figure.kind.title } else { "" };
            table.add_row([
                title.to_owned(),
                label(figure.kind, key).to_owned(),
                format!("{} {}", short(summary.median), figure.kind.unit),
                format!("{} .. {}", short(summary.min), short(summary.max)),
                ratio(figure, key, "direct"),
                ratio(figure, key, "bridge"),
                ratio(figure, key, "docker"),
                figure.kind.baseline.map(|baseline| ratio(figure, key, baseline)).unwrap_or_default(),
            ]);
        }
    }
    align_right(&mut table, 2..=7);
    table
}

/// Returns a table of the costs of the programs.
pub fn costs(costs: &[Cost]) -> Table {
    let mut table = table(&[
        "program",
        "ns/frame, traffic",
        "ns/frame, test run",
        "insns visited by verifier",
        "insns loaded",
        "bytes jited",
    ]);
    for cost in costs {
        table.add_row([
            cost.program.to_owned(),
            format!("{:.0}", cost.ns_under_traffic),
            format!("{:.0}", cost.ns_test_run),
            cost.instructions_visited_by_verifier.to_string(),
            cost.instructions_loaded.to_string(),
            cost.bytes_jited.to_string(),
        ]);
    }
    align_right(&mut table, 1..=5);
    table
}

/// Returns a table of the goals and results.
pub fn goals(verdicts: &[Verdict]) -> Table {
    let mut table = table(&["goal", "wanted", "got", ""]);
    for verdict in verdicts {
        let met = if verdict.met { "met" } else { "MISSED" };
        table.add_row([verdict.goal.to_owned(), verdict.wanted.clone(), format!("{:.2}", verdict.got), met.to_owned()]);
    }
    align_right(&mut table, 2..=2);
    table
}

/// Formats the ratio of a row to a baseline. The ratio of the baseline to itself is printed as 1.
fn ratio(figure: &Figure, row: &str, baseline: &str) -> String {
    if row == baseline {
        return "1".to_owned();
    }
    figure.ratio(row, baseline).map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
}

/// Formats a number with three significant digits.
fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_shows_median_spread_and_ratios() {
        let mut results = Results::default();
        for (direct, bridge) in [(20.0, 10.0), (21.0, 10.5), (22.0, 11.0)] {
            results.record("tcp1", "bridge", bridge);
            results.record("tcp1", "direct", direct);
        }
        let shown = figures(&results).to_string();
        let bridge = shown.lines().find(|line| line.contains("Linux bridge")).unwrap();
        assert!(
            bridge.contains("10.5 Gbit/s") && bridge.contains("10.0 .. 11.0") && bridge.contains("0.50"),
            "{bridge}"
        );
    }

    #[test]
    fn numbers_have_three_significant_digits() {
        assert_eq!(short(1234.5), "1234");
        assert_eq!(short(34.56), "34.6");
        assert_eq!(short(1.634), "1.63");
    }
}
