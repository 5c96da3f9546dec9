//! Ports that follow each other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One or more ports that follow each other, none of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// What is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPortRange {
    /// Not numbers of ports.
    #[error("invalid port range: `{0}` (a port from 1 to 65535, or two as in 8000-8010)")]
    Syntax(String),
    /// Its end is before its beginning.
    #[error("invalid port range: {first}-{last} (the first port must not be above the last)")]
    Backwards {
        /// The port it begins with.
        first: u16,
        /// The port it ends with.
        last: u16,
    },
}

impl PortRange {
    /// From the first port to the last.
    ///
    /// # Errors
    /// [`InvalidPortRange`] if one is 0, or the last is below the first.
    pub fn new(first: u16, last: u16) -> Result<Self, InvalidPortRange> {
        if first > last {
            return Err(InvalidPortRange::Backwards { first, last });
        }
        if first == 0 {
            return Err(InvalidPortRange::Syntax(Self { first, last }.to_string()));
        }
        Ok(Self { first, last })
    }

    /// The first.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last; the first again if there is one alone.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many.
    pub const fn count(self) -> u32 {
        (self.last - self.first) as u32 + 1
    }

    /// Whether the port is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Each of them.
    pub fn ports(self) -> impl Iterator<Item = u16> + use<> {
        self.first..=self.last
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, InvalidPortRange> {
        let invalid = || InvalidPortRange::Syntax(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(port(first).ok_or_else(invalid)?, port(last).ok_or_else(invalid)?)
    }
}

/// A number of a port, in digits alone: `parse` takes a plus sign too.
pub(super) fn port(text: &str) -> Option<u16> {
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
    fn ranges_are_read() {
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
