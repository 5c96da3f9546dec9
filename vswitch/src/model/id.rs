//! Ids of networks, endpoints and hosts: 32 random bytes, written as 64 hex digits.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number of digits that tables show, and the fewest that commands take which change something.
pub const SHORT_DIGITS: usize = 12;

/// A string that is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid id `{0}` (an id is 64 hex digits)")]
pub struct InvalidId(pub String);

/// Formats the error message for a failure of the kernel's random numbers.
pub fn random_error(error: &io::Error) -> String {
    format!("cannot read random bytes from /dev/urandom: {error}")
}

fn random_bytes() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn parse_id(text: &str) -> Result<[u8; 32], InvalidId> {
    let invalid = || InvalidId(text.to_owned());
    if text.len() != 64 || !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(invalid());
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| invalid())?;
    }
    Ok(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// Returns a random id from the kernel's random numbers.
            pub fn random() -> io::Result<Self> {
                random_bytes().map(Self)
            }

            /// Creates an id from its bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the bytes.
            pub const fn bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns the first twelve digits, as tables show them.
            pub fn short(&self) -> String {
                self.digits(SHORT_DIGITS)
            }

            /// Returns the first `count` digits.
            pub fn digits(&self, count: usize) -> String {
                let mut text = self.to_string();
                text.truncate(count);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.short())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_id(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

id! {
    /// Id of a network.
    NetworkId
}
id! {
    /// Id of an endpoint.
    EndpointId
}
id! {
    /// Id of an address pool.
    PoolId
}
id! {
    /// Id of a host in a cluster.
    HostId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing_a_displayed_id_returns_the_id() {
        let id = EndpointId::random().expect("random bytes");
        assert_eq!(id.to_string().len(), 64);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with(&id.short()));
        assert_ne!(Ok(id), EndpointId::random().map_err(drop));
    }

    #[test]
    fn only_64_lower_case_hex_digits_are_an_id() {
        for bad in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(63), &"ä".repeat(32)] {
            assert!(bad.parse::<NetworkId>().is_err(), "{bad}");
        }
    }
}
