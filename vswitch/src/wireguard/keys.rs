//! Keys of WireGuard, and the address inside the tunnel that goes with each.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vswitch_common::packet::address::Address;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// Bytes of a key, private or public (RFC 7748, 5).
pub const KEY_LENGTH: usize = 32;

/// A text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 with its padding (RFC 4648, 4).
    #[error("`{0}` is no key: a key is 44 characters of base64, as `wg pubkey` prints it")]
    NotBase64(String),
    /// Another length than a key's.
    #[error("`{text}` is no key: it stands for {length} bytes, and a key has {KEY_LENGTH}")]
    Length {
        /// What was to be a key.
        text: String,
        /// How many bytes it stands for.
        length: usize,
    },
    /// One of the few points that give whoever uses them a secret that everybody knows (RFC 7748, 6.1).
    #[error("`{0}` is no key that a host can have: all could read what is sent to it")]
    LowOrder(String),
}

/// A host's private key. It is wiped from memory when it is dropped, and nothing prints it.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl PrivateKey {
    /// A new one, from the kernel's random numbers.
    pub fn generate() -> Self {
        Self(StaticSecret::random())
    }

    /// The public key that goes with it.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    pub(super) const fn secret(&self) -> &StaticSecret {
        &self.0
    }

    /// As it is in a file: 44 characters of base64, as `wg genkey` prints it.
    pub(super) fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_bytes()))
    }

    /// Reads what [`PrivateKey::to_base64`] wrote; `None` if that is no key. What it was is not said: it may nearly be one.
    pub(super) fn from_base64(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
        let bytes = Zeroizing::new(<[u8; KEY_LENGTH]>::try_from(bytes.as_slice()).ok()?);
        Some(Self(StaticSecret::from(*bytes)))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(not shown)")
    }
}

/// A host's public key: what the others know it by. Its text is 44 characters of base64, as `wg pubkey` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; KEY_LENGTH]);

impl PublicKey {
    /// From the bytes of a key, unchecked: those that a kernel lists are what it was given.
    pub const fn from_bytes(bytes: [u8; KEY_LENGTH]) -> Self {
        Self(bytes)
    }

    /// Its bytes (RFC 7748, 5: little-endian).
    pub const fn bytes(&self) -> &[u8; KEY_LENGTH] {
        &self.0
    }

    /// The address of its host inside the tunnel: [`inner_net`] and the first ten bytes of the key's SHA-256. So no two
    /// hosts can claim the same, nobody has to give them out, and all of them are known by their prefix. A peer may send from
    /// its own address only: its AllowedIPs are exactly this /128.
    pub fn inner_address(&self) -> Ipv6Addr {
        let digest: [u8; 32] = Sha256::digest(self.0).into();
        let mut address = [0; 16];
        let (prefix, _) = Address::INNER;
        for (to, from) in address.iter_mut().zip(prefix.into_iter().chain(digest)) {
            *to = from;
        }
        address.into()
    }
}

/// The prefix of all addresses inside: what goes to one of them and not by WireGuard goes nowhere.
pub fn inner_net() -> Ipv6Net {
    let (prefix, length) = Address::INNER;
    let mut address = [0; 16];
    for (to, from) in address.iter_mut().zip(prefix) {
        *to = from;
    }
    Ipv6Net::new_assert(address.into(), length)
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| KeyError::NotBase64(text.to_owned()))?;
        let bytes = <[u8; KEY_LENGTH]>::try_from(bytes.as_slice())
            .map_err(|_| KeyError::Length { text: text.to_owned(), length: bytes.len() })?;
        // Whichever private key: with such a point the secret is zero for all of them.
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
    fn keys_are_those_of_wireguard() {
        // RFC 7748, 6.1: Alice's.
        let private = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45, 0xdf, 0x4c,
            0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
        ];
        let private = PrivateKey::from_base64(&STANDARD.encode(private)).unwrap();
        assert_eq!(private.public().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        assert_eq!(format!("{private:?}"), "PrivateKey(not shown)");
        assert_ne!(PrivateKey::generate().public(), PrivateKey::generate().public());
    }

    #[test]
    fn the_address_inside_is_the_keys() {
        let key: PublicKey = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().unwrap();
        let digest = Sha256::digest(key.bytes());
        let address = key.inner_address().octets();
        assert_eq!(inner_net().to_string(), "fd76:7377:6974::/48");
        assert!(inner_net().contains(&key.inner_address()) && Address::new(address).is_inner());
        assert_eq!(address[6..], digest[..10]);
        assert_eq!(key.inner_address().to_string(), "fd76:7377:6974:300c:9c96:3b9:2a4b:39ed");
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<PublicKey>().unwrap_err().to_string();
        assert!(refused("").contains("0 bytes"));
        assert!(refused("not a key").starts_with("`not a key` is no key: a key is 44 characters"));
        // Without its padding.
        assert!(refused("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo").contains("44 characters"));
        assert!(refused("c2hvcnQ=").contains("5 bytes"));
        assert!(refused("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").contains("all could read"));
        assert!(refused("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").contains("all could read"));
    }

    #[test]
    fn keys_are_text_in_json() {
        let key = PrivateKey::generate().public();
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, format!("\"{key}\""));
        assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), key);
        assert!(serde_json::from_str::<PublicKey>("\"x\"").is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(bytes in any::<[u8; KEY_LENGTH]>()) {
            let private = PrivateKey::from_base64(&STANDARD.encode(bytes)).unwrap();
            let text = private.to_base64();
            prop_assert_eq!(text.as_str(), STANDARD.encode(bytes));
            let public = private.public();
            prop_assert_eq!(public.to_string().parse::<PublicKey>(), Ok(public));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = (text.parse::<PublicKey>(), PrivateKey::from_base64(&text));
        }
    }
}
