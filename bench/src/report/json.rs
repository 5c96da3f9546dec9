//! Results as JSON, including the raw samples.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::labels::label;
use crate::{
    goals::Verdict,
    machine::Machine,
    results::{Figure, Results},
};

/// Writes `result.json` into `directory`.
pub fn write(
    directory: &Path,
    started: OffsetDateTime,
    machine: &Machine,
    settings: &Value,
    results: &Results,
    goals: &[Verdict],
) -> Result<()> {
    let document = json!({
        "started": started.format(&Rfc3339)?,
        "machine": machine,
        "settings": settings,
        "figures": results.figures.iter().map(figure).collect::<Vec<_>>(),
        "costs": results.costs,
        "goals": goals,
    });
    let path = directory.join("result.json");
    fs::write(&path, serde_json::to_string_pretty(&document)?).with_context(|| format!("writing {}", path.display()))
}

fn figure(figure: &Figure) -> Value {
    let rows: Map<String, Value> = figure
        .rows
        .iter()
        .map(|(key, samples)| {
            let row = json!({
                "label": label(figure.kind, key),
                "samples": samples,
                "summary": figure.summary(key),
                "ratio_to_direct": figure.ratio(key, "direct"),
                "ratio_to_bridge": figure.ratio(key, "bridge"),
                "ratio_to_docker": figure.ratio(key, "docker"),
                "ratio_to_baseline": figure.ratio_to_own_baseline(key),
            });
            ((*key).to_owned(), row)
        })
        .collect();
    json!({
        "key": figure.kind.key,
        "title": figure.kind.title,
        "unit": figure.kind.unit,
        "more_is_better": figure.kind.more_is_better,
        "baseline": figure.kind.baseline,
        "rows": rows,
    })
}
