//! The steps of a verb that goes on after a failure, and one line for each at the end.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it should, with a word about it.
    Passed(String),
    /// Badly.
    Failed(String),
    /// It could not be run at all.
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

/// The steps so far.
#[derive(Default)]
pub struct Summary {
    lines: Vec<(String, Ending, Duration)>,
}

impl Summary {
    /// Takes a step, and says so.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Ending) {
        eprintln!("==> {name}");
        let started = Instant::now();
        let ending = work();
        if let Ending::Failed(reason) | Ending::NotRun(reason) = &ending {
            eprintln!("==> {name}: {reason}");
        }
        self.lines.push((name.to_owned(), ending, started.elapsed()));
    }

    /// Prints them all; an error if one failed.
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
            // One line each: a longer story was told when it happened.
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
