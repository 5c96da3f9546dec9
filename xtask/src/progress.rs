//! Long runs of other programs: one moving line on a terminal, plain lines otherwise, and the end
//! of the log after a failure.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::programs;

/// Lines of the log that are printed after a failure.
const TAIL: usize = 15;

/// Runs a command whose output goes to a log file.
pub fn step(title: &str, mut command: Command, log: &Path) -> Result<()> {
    let started = Instant::now();
    let words = programs::words(&command);
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let mut file = File::create(log).with_context(|| format!("making {}", log.display()))?;
    let (reader, writer) = io::pipe().context("a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("a pipe")?).stderr(writer);

    let line = Line::new(title);
    let mut child = command.spawn().with_context(|| format!("{title}: cannot run `{words}`"))?;
    // The command holds the write end of the pipe. The loop ends when every write end is closed.
    drop(command);
    let mut tail = VecDeque::new();
    for text in BufReader::new(reader).split(b'\n') {
        let text = String::from_utf8_lossy(&text.context("reading what it prints")?).trim_end().to_owned();
        writeln!(file, "{text}").with_context(|| format!("writing {}", log.display()))?;
        line.says(&text);
        tail.push_back(text);
        if tail.len() > TAIL {
            tail.pop_front();
        }
    }
    let status = child.wait().with_context(|| format!("waiting for `{words}`"))?;
    if status.success() {
        line.done(started.elapsed());
        return Ok(());
    }
    line.failed();
    let tail: String = tail.iter().map(|text| format!("    {text}\n")).collect();
    bail!("{title}: `{words}` failed ({status}); the end of its log {}:\n{tail}", log.display())
}

/// The progress line of a step.
struct Line {
    title: String,
    bar: ProgressBar,
}

impl Line {
    fn new(title: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        if bar.is_hidden() {
            eprintln!("  {title} ...");
        } else {
            let style = ProgressStyle::with_template("  {spinner} {prefix} ({elapsed}) {wide_msg:.dim}");
            bar.set_style(style.expect("the template is well-formed"));
            bar.set_prefix(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { title: title.to_owned(), bar }
    }

    fn says(&self, text: &str) {
        if !text.trim().is_empty() {
            self.bar.set_message(text.trim().to_owned());
        }
    }

    fn done(self, elapsed: Duration) {
        self.bar.finish_and_clear();
        eprintln!("  {}: done in {} s", self.title, elapsed.as_secs_f32().ceil());
    }

    fn failed(self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    #[test]
    fn a_failing_step_names_the_command_and_shows_the_end_of_its_log() {
        let log = env::temp_dir().join(format!("vswitch-xtask-progress-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "seq 1 100; echo went wrong >&2; exit 7"]);
        let error = step("counting", command, &log).expect_err("it exits with 7").to_string();
        assert!(
            error.starts_with("counting: `sh -c seq 1 100; echo went wrong >&2; exit 7` failed (exit status: 7)"),
            "{error}"
        );
        assert!(error.ends_with("    99\n    100\n    went wrong\n"), "{error}");
        assert!(!error.contains("    85\n"), "{error}");
        assert_eq!(fs::read_to_string(&log).expect("the log is there").lines().count(), 101);
        fs::remove_file(&log).expect("the log can be removed");
    }
}
