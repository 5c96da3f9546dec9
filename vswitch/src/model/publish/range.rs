//! Ranges of ports.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One or more consecutive ports, none of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A text that is not a port range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPortRange {
    /// Not port numbers.
    #[error("invalid port range: `{0}` (a port from 1 to 65535, or two as in 8000-8010)")]
    Syntax(String),
    /// The last port is below the first.
    #[error("invalid port range: {first}-{last} (the first port must not be above the last)")]
    Backwards {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
}

impl PortRange {
    /// Creates a range.
    ///
    /// # Errors
    /// [`InvalidPortRange`] if a port is 0, or the last port is below the first.
    pub fn new(first: u16, last: u16) -> Result<Self, InvalidPortRange> {
        if first > last {
            return Err(InvalidPortRange::Backwards { first, last });
        }
        if first == 0 {
            return Err(InvalidPortRange::Syntax(Self { first, last }.to_string()));
        }
        Ok(Self { first, last })
    }

    /// Returns the first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Returns the last port, which equals the first in a range of one.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Returns the number of ports.
    pub const fn count(self) -> u32 {
        (self.last - self.first) as u32 + 1
    }

    /// Reports whether the range contains the port.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Iterates over the ports.
    pub fn ports(self) -> impl Iterator<Item = u16> + use<> {
        self.first..=self.last
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, InvalidPortRange> {
        let invalid = || InvalidPortRange::Syntax(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(parse_port(first).ok_or_else(invalid)?, parse_port(last).ok_or_else(invalid)?)
    }
}

/// Parses a port number of digits only: `parse` would also accept a plus sign.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|digit| digit.is_ascii_digit()))
}

impl TryFrom<String> for PortRange {
    type Error = InvalidPortRange;

    fn try_from(text: String) -> Result<Self, InvalidPortRange> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parsed() {
        let read = |text: &str| text.parse::<PortRange>().map(|range| (range.first(), range.last(), range.count()));
        assert_eq!(read("80"), Ok((80, 80, 1)));
        assert_eq!(read("80-80"), Ok((80, 80, 1)));
        assert_eq!(read("1-65535"), Ok((1, 65535, 65535)));
        for text in ["", "-", "80-", "-80", "0", "0-80", "65536", "80-81-82", "+80", "80 ", "a"] {
            assert_eq!(read(text), Err(InvalidPortRange::Syntax(text.to_owned())));
        }
        assert_eq!(read("81-80"), Err(InvalidPortRange::Backwards { first: 81, last: 80 }));
    }
}
