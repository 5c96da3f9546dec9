//! Keeps the kernel from choosing a held port for a socket that asks for any port. The programs at
//! bind(2) do not see this choice; the list `net.ipv4.ip_local_reserved_ports` excludes ports from
//! it.
//!
//! The list belongs to the host. A file in the run directory records which ports are ours, so that
//! the next daemon and `down` remove these and leave all others.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use crate::kernel::sysctl::{self, SysctlError};

const LIST: [&str; 3] = ["net", "ipv4", "ip_local_reserved_ports"];

/// The list of excluded ports could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum EphemeralError {
    /// The list.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The record of our ports.
    #[error("cannot write {path}: {source}", path = path.display())]
    Record {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Excludes exactly these ports, and those that were not excluded by us.
pub(super) fn exclude(ports: &BTreeSet<u16>, record: &Path) -> Result<(), EphemeralError> {
    let recorded = fs::read_to_string(record).unwrap_or_default();
    let before = parse(&recorded);
    if ports.is_empty() && before.is_empty() {
        return Ok(());
    }
    let present = parse(&sysctl::read_long(&LIST)?);
    let foreign: BTreeSet<u16> = present.difference(&before).copied().collect();
    let ours: BTreeSet<u16> = ports.difference(&foreign).copied().collect();
    let wanted: BTreeSet<u16> = foreign.union(&ours).copied().collect();
    if wanted != present {
        // If the daemon dies in between, no port of ours is taken for a foreign one.
        write(record, &before.union(&ours).copied().collect())?;
        sysctl::write_long(&LIST, &format(&wanted))?;
    }
    if ours != before || wanted != present {
        write(record, &ours)?;
    }
    Ok(())
}

fn write(record: &Path, ports: &BTreeSet<u16>) -> Result<(), EphemeralError> {
    fs::write(record, format(ports)).map_err(|source| EphemeralError::Record { path: record.to_owned(), source })
}

/// Parses `8080,9000-9010`.
fn parse(text: &str) -> BTreeSet<u16> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

fn format(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == port => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let text = |(first, last): (u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_the_form_of_the_kernel() {
        for text in ["", "8080", "1-65535", "53,8080-8090,9000,65535"] {
            assert_eq!(format(&parse(text)), text);
        }
        assert_eq!(parse("1,2,x,9-8,3\n").into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }
}
