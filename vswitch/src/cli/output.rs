//! Printing: tables for people, JSON for programs, names alone for shell loops.

use std::io::{self, Write as _};

use comfy_table::{Table, presets};
use serde::Serialize;

use super::arguments::Format;
use super::failure::Failure;
use crate::api::ErrorDocument;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// The format.
    pub format: Format,
    /// Names or ids alone.
    pub quiet: bool,
}

impl Output {
    /// Prints a document: as JSON, or as text that is made of it.
    pub fn print<T: Serialize>(self, document: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Json => json(document),
            Format::Table => say(&text(document)),
        }
    }

    /// Prints rows: as JSON, as names alone, or as a table.
    pub fn rows<T: Serialize, const N: usize>(
        self,
        rows: &[T],
        name: impl Fn(&T) -> String,
        header: [&str; N],
        cells: impl Fn(&T) -> [String; N],
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => json(&rows),
            Format::Table if self.quiet => say(&rows.iter().map(|row| name(row) + "\n").collect::<String>()),
            Format::Table => say(&table(header, rows.iter().map(cells))),
        }
    }

    /// Says why a command failed.
    pub fn fail(self, failure: &Failure) {
        let error = failure.error.clone();
        let line = match self.format {
            Format::Json => serde_json::to_string(&ErrorDocument { error }).unwrap_or_default(),
            Format::Table => format!("vswitch: {}", error.message),
        };
        // Nobody to tell if that fails.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Prints a document as JSON.
pub fn json<T: Serialize>(document: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document);
    say(&(text.map_err(|error| Failure::new("output", &format!("cannot print: {error}")))? + "\n"))
}

/// Prints text. A reader that has gone has seen enough.
pub fn say(text: &str) -> Result<(), Failure> {
    tell(text).map(drop)
}

/// Prints text; false if the reader has gone.
pub fn tell(text: &str) -> Result<bool, Failure> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new("output", &format!("cannot print: {error}")))
        }
        told => Ok(told.is_ok()),
    }
}

/// A table with a header.
pub fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    lines(table)
}

/// A list of things with what is to be said of each.
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

/// What is there, or a dash.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The members of a list, or a dash.
pub fn list(values: &[impl ToString]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    if values.is_empty() { "-".to_owned() } else { values.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_columns() {
        let rows = [["web".to_owned(), "10.201.0.2".to_owned()], ["a-long-name".to_owned(), String::new()]];
        let text = table(["NAME", "IPV4"], rows.into_iter());
        assert_eq!(text, "NAME         IPV4\nweb          10.201.0.2\na-long-name\n");
        assert_eq!(properties([("version", "1".to_owned())]), "version  1\n");
    }

    #[test]
    fn nothing_is_a_dash() {
        assert_eq!((or_dash(None::<u8>), or_dash(Some(3)), list(&[0_u8; 0])), ("-".into(), "3".into(), "-".into()));
    }
}
