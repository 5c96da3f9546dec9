//! Names of networks, endpoints, instances and interfaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Maximum length of the name of a network, an endpoint or an instance.
const MAX_LENGTH: usize = 63;
/// Maximum length of an interface name: IFNAMSIZ is 16 with the terminating zero.
const MAX_INTERFACE_LENGTH: usize = 15;

/// An invalid name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid {what} name `{name}` (at most 63 letters, digits, `_`, `.` and `-`, and the first must be a letter or digit)"
)]
pub struct InvalidName {
    /// Kind of the name.
    pub what: &'static str,
    /// The invalid name.
    pub name: String,
}

/// An invalid name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInterfaceName {
    /// Longer than the kernel allows.
    #[error("interface name `{0}` is too long (at most 15 bytes)")]
    TooLong(String),
    /// Empty, `.` or `..`, or contains a character that the kernel rejects or treats as a pattern.
    #[error("invalid interface name `{0}` (no blanks, no `/`, `:` or `%`, and not empty, `.` or `..`)")]
    Character(String),
    /// `all` or `default`.
    #[error("invalid interface name `{0}` (the kernel has the settings of all interfaces under it; choose another)")]
    Settings(String),
}

fn is_name(text: &str) -> bool {
    let is_allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    text.len() <= MAX_LENGTH
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(is_allowed)
}

fn check_interface_name(text: &str) -> Result<(), InvalidInterfaceName> {
    if text.len() > MAX_INTERFACE_LENGTH {
        return Err(InvalidInterfaceName::TooLong(text.to_owned()));
    }
    let is_refused = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if matches!(text, "" | "." | "..") || text.contains(is_refused) {
        return Err(InvalidInterfaceName::Character(text.to_owned()));
    }
    // The kernel refuses a device with the name of a directory in /proc/sys/net/ipv4/conf.
    if matches!(text, "all" | "default") {
        return Err(InvalidInterfaceName::Settings(text.to_owned()));
    }
    Ok(())
}

fn check_name(what: &'static str, text: &str) -> Result<(), InvalidName> {
    if is_name(text) { Ok(()) } else { Err(InvalidName { what, name: text.to_owned() }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $error:ty, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the name as text.
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
    /// Name of a network.
    NetworkName, InvalidName, |text| check_name("network", text)
}
name! {
    /// Name of an endpoint, unique in an instance.
    EndpointName, InvalidName, |text| check_name("endpoint", text)
}
name! {
    /// Name of an instance of vswitch.
    InstanceName, InvalidName, |text| check_name("instance", text)
}
name! {
    /// Name of a network interface that the kernel accepts.
    InterfaceName, InvalidInterfaceName, check_interface_name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_documented_rules() {
        for good in ["a", "0", "web-1", "web_1.example", &"x".repeat(63)] {
            assert!(good.parse::<EndpointName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "_a", "a b", "a/b", "ä", "a:b", &"x".repeat(64)] {
            assert!(bad.parse::<EndpointName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_follow_the_rules_of_the_kernel() {
        for good in ["eth0", "a.b-c_d", "0", "fünf0", &"x".repeat(15)] {
            assert!(good.parse::<InterfaceName>().is_ok(), "{good}");
        }
        let too_long = "x".repeat(16);
        assert_eq!(too_long.parse::<InterfaceName>(), Err(InvalidInterfaceName::TooLong(too_long)));
        for bad in ["all", "default"] {
            assert_eq!(bad.parse::<InterfaceName>(), Err(InvalidInterfaceName::Settings(bad.to_owned())));
        }
        for bad in ["", ".", "..", "a b", "a/b", "a\t", "eth%d", "eth0:1"] {
            assert_eq!(bad.parse::<InterfaceName>(), Err(InvalidInterfaceName::Character(bad.to_owned())));
        }
    }

    #[test]
    fn an_invalid_name_in_json_is_refused() {
        assert!(serde_json::from_str::<NetworkName>("\"front\"").is_ok());
        assert!(serde_json::from_str::<NetworkName>("\"../front\"").is_err());
    }
}
