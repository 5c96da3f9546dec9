//! Names of networks, endpoints, instances and interfaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name of a network, an endpoint or an instance.
const LONGEST: usize = 63;
/// The longest name of an interface: IFNAMSIZ with its final zero is 16.
const LONGEST_INTERFACE: usize = 15;

/// A string that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid {what} name `{name}` (letters, digits, `_`, `.` and `-`, at most 63, and a letter or digit to begin with)"
)]
pub struct InvalidName {
    /// Of what it should have been the name.
    pub what: &'static str,
    /// The string.
    pub name: String,
}

/// A string that is no name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInterfaceName {
    /// Longer than the kernel allows.
    #[error("interface name `{0}` is too long (at most 15 bytes)")]
    TooLong(String),
    /// Empty, `.` or `..`, or with a character that the kernel refuses or reads as a pattern.
    #[error("invalid interface name `{0}` (no blanks, no `/`, `:` or `%`, and not empty, `.` or `..`)")]
    Character(String),
}

fn is_name(text: &str) -> bool {
    let follows = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    text.len() <= LONGEST
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(follows)
}

fn interface_name(text: &str) -> Result<(), InvalidInterfaceName> {
    if text.len() > LONGEST_INTERFACE {
        return Err(InvalidInterfaceName::TooLong(text.to_owned()));
    }
    let refused = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if matches!(text, "" | "." | "..") || text.contains(refused) {
        return Err(InvalidInterfaceName::Character(text.to_owned()));
    }
    Ok(())
}

fn checked_name(what: &'static str, text: &str) -> Result<(), InvalidName> {
    if is_name(text) { Ok(()) } else { Err(InvalidName { what, name: text.to_owned() }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $error:ty, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                $check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The name of a network.
    NetworkName, InvalidName, |text| checked_name("network", text)
}
name! {
    /// The name of an endpoint; one in an instance.
    EndpointName, InvalidName, |text| checked_name("endpoint", text)
}
name! {
    /// The name of an instance of vswitch.
    InstanceName, InvalidName, |text| checked_name("instance", text)
}
name! {
    /// The name of a network interface, as the kernel allows it.
    InterfaceName, InvalidInterfaceName, interface_name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_command_line_promises() {
        for good in ["a", "0", "web-1", "web_1.example", &"x".repeat(63)] {
            assert!(good.parse::<EndpointName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "_a", "a b", "a/b", "ä", "a:b", &"x".repeat(64)] {
            assert!(bad.parse::<EndpointName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_are_what_the_kernel_takes() {
        for good in ["eth0", "a.b-c_d", "0", "fünf0", &"x".repeat(15)] {
            assert!(good.parse::<InterfaceName>().is_ok(), "{good}");
        }
        let too_long = "x".repeat(16);
        assert_eq!(too_long.parse::<InterfaceName>(), Err(InvalidInterfaceName::TooLong(too_long)));
        for bad in ["", ".", "..", "a b", "a/b", "a\t", "eth%d", "eth0:1"] {
            assert_eq!(bad.parse::<InterfaceName>(), Err(InvalidInterfaceName::Character(bad.to_owned())));
        }
    }

    #[test]
    fn an_invalid_name_cannot_come_in_by_json() {
        assert!(serde_json::from_str::<NetworkName>("\"front\"").is_ok());
        assert!(serde_json::from_str::<NetworkName>("\"../front\"").is_err());
    }
}
