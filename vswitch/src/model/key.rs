//! Public keys of hosts, and the inner address that is derived from one.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vswitch_common::packet::address::Address;
use x25519_dalek::StaticSecret;

/// Length of a private or public key in bytes (RFC 7748, section 5).
pub const KEY_LENGTH: usize = 32;

/// A text is not a valid public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 with padding (RFC 4648, section 4).
    #[error("`{0}` is no key: a key is 44 characters of base64, as `wg pubkey` prints it")]
    NotBase64(String),
    /// Not the length of a key.
    #[error("`{text}` is no key: it encodes {length} bytes, and a key has {KEY_LENGTH}")]
    Length {
        /// The text.
        text: String,
        /// Number of bytes that it encodes.
        length: usize,
    },
    /// A low-order point, which makes the shared secret predictable (RFC 7748, section 6.1).
    #[error(
        "`{0}` is no key that a host can have: it is a low-order point, which makes the encryption readable for everyone"
    )]
    LowOrder(String),
}

/// Public key of a host, which identifies it to its peers. Displayed as 44 characters of base64, as
/// `wg pubkey` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; KEY_LENGTH]);

impl PublicKey {
    /// Creates a key from bytes without a check, for keys that the kernel lists: they were checked
    /// when they were set.
    pub const fn from_bytes(bytes: [u8; KEY_LENGTH]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes (RFC 7748, section 5: little-endian).
    pub const fn bytes(&self) -> &[u8; KEY_LENGTH] {
        &self.0
    }

    /// Returns the host's address inside the tunnel: the prefix [`Address::INNER`] and the first
    /// ten bytes of the key's SHA-256. Two hosts cannot claim the same address, the addresses need
    /// no allocation, and all of them share one prefix. A peer may only send from its own inner
    /// address: its AllowedIPs are exactly this /128.
    pub fn inner_address(&self) -> Ipv6Addr {
        let digest: [u8; 32] = Sha256::digest(self.0).into();
        let mut address = [0; 16];
        let (prefix, _) = Address::INNER;
        for (byte, value) in address.iter_mut().zip(prefix.into_iter().chain(digest)) {
            *byte = value;
        }
        address.into()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| KeyError::NotBase64(text.to_owned()))?;
        let bytes = <[u8; KEY_LENGTH]>::try_from(bytes.as_slice())
            .map_err(|_| KeyError::Length { text: text.to_owned(), length: bytes.len() })?;
        // Any private key will do: a low-order point gives the secret zero with all of them.
        let shared = StaticSecret::from([1; KEY_LENGTH]).diffie_hellman(&bytes.into());
        if shared.was_contributory() { Ok(Self(bytes)) } else { Err(KeyError::LowOrder(text.to_owned())) }
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_keys_are_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<PublicKey>().unwrap_err().to_string();
        assert!(refused("").contains("0 bytes"));
        assert!(refused("not a key").starts_with("`not a key` is no key: a key is 44 characters"));
        // A key without its padding.
        assert!(refused("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo").contains("44 characters"));
        assert!(refused("c2hvcnQ=").contains("5 bytes"));
        assert!(refused("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").contains("low-order point"));
        assert!(refused("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").contains("low-order point"));
    }

    #[test]
    fn keys_are_text_in_json() {
        let key = PublicKey::from_bytes([9; KEY_LENGTH]);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, format!("\"{key}\""));
        assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), key);
        assert!(serde_json::from_str::<PublicKey>("\"x\"").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,60}") {
            let _ = text.parse::<PublicKey>();
        }
    }
}
