//! The time and the outcome of each test: read from what the test programs print. The times are kept in a file, and the
//! slowest are printed at the end.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result};

/// How many of the slowest tests are printed.
const SHOWN: usize = 30;

/// The arguments with which a test program prints the time of each test. They are unstable: the
/// program accepts them only with `RUSTC_BOOTSTRAP=1` in its environment.
pub const REPORT: [&str; 2] = ["-Zunstable-options", "--report-time"];

/// The environment variable that [`REPORT`] needs.
pub const REPORT_ENVIRONMENT: &str = "RUSTC_BOOTSTRAP=1";

/// The tests that ran, with their times.
#[derive(Debug, Default)]
pub struct Times {
    tests: Vec<Test>,
    /// The program whose output is being read.
    program: String,
    /// The tests that failed since [`Times::begin`].
    failed: Vec<String>,
    /// The test programs since [`Times::begin`] that have printed no result yet.
    unfinished: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Test {
    /// The program and where it ran.
    program: String,
    name: String,
    seconds: f64,
}

impl Times {
    /// Reads a line of the output of cargo, a test program or a virtual machine. Other lines are
    /// ignored.
    pub fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(program) = line.strip_prefix("Running ").or_else(|| line.strip_prefix("Doc-tests ")) {
            self.program = short(program);
            self.unfinished += 1;
        } else if line.starts_with("test result: ") {
            self.unfinished = self.unfinished.saturating_sub(1);
        } else if let Some((name, seconds)) = timed(line) {
            if line.contains(" ... FAILED") {
                self.failed.push(name.to_owned());
            }
            self.tests.push(Test { program: self.program.clone(), name: name.to_owned(), seconds });
        }
    }

    /// Begins a run.
    pub fn begin(&mut self) {
        self.failed.clear();
        self.unfinished = 0;
    }

    /// Returns the tests that failed since [`Times::begin`]; `None` if a test program ended without
    /// a result.
    pub fn failed(&self) -> Option<&[String]> {
        (self.unfinished == 0).then_some(&self.failed)
    }

    /// Writes the times to a file, the slowest test first: seconds, program and test, separated by
    /// tabs.
    pub fn write(&mut self, file: &Path) -> Result<()> {
        self.tests.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        let lines = self.tests.iter().map(|test| format!("{:.3}\t{}\t{}\n", test.seconds, test.program, test.name));
        fs::write(file, lines.collect::<String>()).with_context(|| format!("writing {}", file.display()))
    }
}

impl fmt::Display for Times {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Test { program, name, seconds } in self.tests.iter().take(SHOWN) {
            writeln!(formatter, "{seconds:>8.1} s  {program}  {name}")?;
        }
        Ok(())
    }
}

/// Shortens the title of a program: `tests/e2e/main.rs (target/debug/deps/e2e-0123)` to e2e,
/// `unittests src/lib.rs (target/debug/deps/vswitch-0123)` to vswitch. Other titles stay.
fn short(program: &str) -> String {
    let file = program.rsplit_once('(').map(|(_, path)| path.trim_end_matches(')'));
    let name = file.and_then(|path| path.rsplit('/').next()).and_then(|name| name.rsplit_once('-'));
    name.map_or(program, |(name, _hash)| name).to_owned()
}

/// Parses a line like `test attach::three_containers ... ok <1.234s>`.
fn timed(line: &str) -> Option<(&str, f64)> {
    let (name, ending) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let seconds = ending.split_once('<')?.1.split_once("s>")?.0;
    Some((name, seconds.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_the_program_that_printed_them_and_sorted() {
        let mut times = Times::default();
        let output = "     Running unittests src/lib.rs (target/debug/deps/vswitch-00ff)\n\
                      test model::mac::tests::is_parsed ... ok <0.001s>\n\
                      test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
                      \u{20}    Running tests/e2e/main.rs (/w/target/debug/deps/e2e-1234)\n\
                      test attach::three_containers ... FAILED <12.500s>\n\
                      test attach::ignored ... ignored\n\
                      \u{20}    Running tests of e2e on Linux 6.1.0-1\n\
                      test attach::three_containers ... ok <2.000s>\n";
        output.lines().for_each(|line| times.read(line));
        let file = std::env::temp_dir().join(format!("vswitch-xtask-times-{}", std::process::id()));
        assert_eq!(times.failed(), None, "the last program has no result");
        times.write(&file).expect("write them");
        let written = fs::read_to_string(&file).expect("read them");
        fs::remove_file(&file).expect("remove the file");
        let expected = "12.500\te2e\tattach::three_containers\n\
                        2.000\ttests of e2e on Linux 6.1.0-1\tattach::three_containers\n\
                        0.001\tvswitch\tmodel::mac::tests::is_parsed\n";
        assert_eq!(written, expected);
        assert!(times.to_string().starts_with("    12.5 s  e2e  attach::three_containers\n"), "{times}");
    }

    #[test]
    fn failed_tests_are_known_if_every_program_has_a_result() {
        let mut times = Times::default();
        times.read("     Running tests/e2e/main.rs (/w/target/debug/deps/e2e-1234)");
        times.read("test attach::three_containers ... FAILED <12.500s>");
        times.read("test attach::two ... ok <1.500s>");
        assert_eq!(times.failed(), None);
        times.read("test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(times.failed(), Some(&["attach::three_containers".to_owned()][..]));
        times.begin();
        assert_eq!(times.failed(), Some(&[][..]));
    }
}
