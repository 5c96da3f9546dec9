//! Output: tables for people, JSON for programs, plain names for shell loops.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::failure::Failure;
use crate::api::ErrorDocument;

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for reading
    #[default]
    Table,
    /// One JSON document for programs
    Json,
}

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Table or JSON.
    pub format: Format,
    /// Print only names or ids.
    pub quiet: bool,
}

impl Output {
    /// Prints a document, as JSON or as the text that `text` makes from it.
    pub fn print<T: Serialize>(self, document: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Json => print_json(document),
            Format::Table => print_text(&text(document)),
        }
    }

    /// Prints rows, as JSON, as plain names or as a table.
    pub fn rows<T: Serialize, const N: usize>(
        self,
        rows: &[T],
        name: impl Fn(&T) -> String,
        header: [&str; N],
        cells: impl Fn(&T) -> [String; N],
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => print_json(&rows),
            Format::Table if self.quiet => print_text(&rows.iter().map(|row| name(row) + "\n").collect::<String>()),
            Format::Table => print_text(&table(header, rows.iter().map(cells))),
        }
    }

    /// Prints the error of a failed command on stderr.
    pub fn print_failure(self, failure: &Failure) {
        let error = failure.error.clone();
        let line = match self.format {
            Format::Json => serde_json::to_string(&ErrorDocument { error }).unwrap_or_default(),
            Format::Table => format!("vswitch: {}", error.message),
        };
        // There is no other place to report a failed write to stderr.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Prints a document as JSON.
pub fn print_json<T: Serialize>(document: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document);
    print_text(&(text.map_err(|error| Failure::new("output", &format!("cannot print: {error}")))? + "\n"))
}

/// Prints text on stdout. A reader that closed the pipe is not an error.
pub fn print_text(text: &str) -> Result<(), Failure> {
    print_unless_closed(text).map(drop)
}

/// Prints text on stdout. Returns false if the reader closed the pipe.
pub fn print_unless_closed(text: &str) -> Result<bool, Failure> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new("output", &format!("cannot print: {error}")))
        }
        outcome => Ok(outcome.is_ok()),
    }
}

/// Formats a table with a header.
pub fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    lines(table)
}

/// Formats a list of properties, one name and value per line.
pub fn properties<const N: usize>(rows: [(&str, String); N]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.add_rows(rows.into_iter().map(|(name, value)| [name.to_owned(), value]));
    lines(table)
}

fn lines(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.trim_fmt();
    if text.is_empty() { text } else { text + "\n" }
}

/// Formats a value, or a dash if there is none.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Formats a list with commas, or a dash if it is empty.
pub fn list(values: &[impl ToString]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    if values.is_empty() { "-".to_owned() } else { values.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_plain_columns() {
        let rows = [["web".to_owned(), "10.201.0.2".to_owned()], ["a-long-name".to_owned(), String::new()]];
        let text = table(["NAME", "IPV4"], rows.into_iter());
        assert_eq!(text, "NAME         IPV4\nweb          10.201.0.2\na-long-name\n");
        assert_eq!(properties([("version", "1".to_owned())]), "version  1\n");
    }

    #[test]
    fn missing_values_are_shown_as_a_dash() {
        assert_eq!((or_dash(None::<u8>), or_dash(Some(3)), list(&[0_u8; 0])), ("-".into(), "3".into(), "-".into()));
    }
}
