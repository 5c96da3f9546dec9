//! The steps of a verb that continues after a failure, with one line for each at the end.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Outcome of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// Success, with a remark.
    Passed(String),
    /// Failure, with the reason.
    Failed(String),
    /// The step could not run, with the reason.
    NotRun(String),
}

impl From<Result<()>> for Ending {
    fn from(outcome: Result<()>) -> Self {
        match outcome {
            Ok(()) => Self::Passed(String::new()),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

/// The completed steps.
#[derive(Default)]
pub struct Summary {
    lines: Vec<(String, Ending, Duration)>,
}

impl Summary {
    /// Announces and runs a step.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Ending) {
        eprintln!("==> {name}");
        let started = Instant::now();
        let ending = work();
        if let Ending::Failed(reason) | Ending::NotRun(reason) = &ending {
            eprintln!("==> {name}: {reason}");
        }
        self.lines.push((name.to_owned(), ending, started.elapsed()));
    }

    /// Prints all steps. Fails if one of them failed.
    pub fn close(self) -> Result<()> {
        eprint!("\n{self}");
        let failed: Vec<_> = self
            .lines
            .iter()
            .filter(|(_, ending, _)| matches!(ending, Ending::Failed(_)))
            .map(|(name, ..)| name.as_str())
            .collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.lines.iter().map(|(name, ..)| name.len()).max().unwrap_or_default();
        for (name, ending, elapsed) in &self.lines {
            let (word, detail) = match ending {
                Ending::Passed(detail) => ("ok", detail),
                Ending::Failed(detail) => ("FAILED", detail),
                Ending::NotRun(detail) => ("NOT RUN", detail),
            };
            // One line for each step: the full reason was printed when the step ended.
            let detail = detail.lines().next().unwrap_or_default();
            let line = format!("{name:width$}  {word:7}  {:>5} s  {detail}", elapsed.as_secs());
            writeln!(formatter, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_line_and_one_failure_fails_all() {
        let mut summary = Summary::default();
        summary.step("fmt", || Ending::Passed(String::new()));
        summary.step("tests", || Err(anyhow::anyhow!("`cargo test` failed\nmuch more")).into());
        summary.step("Linux 6.1", || Ending::NotRun("no kernel".to_owned()));
        let lines = "fmt        ok           0 s\n\
                     tests      FAILED       0 s  `cargo test` failed\n\
                     Linux 6.1  NOT RUN      0 s  no kernel\n";
        assert_eq!(summary.to_string(), lines);
        assert_eq!(summary.close().expect_err("one failed").to_string(), "failed: tests");
    }
}
