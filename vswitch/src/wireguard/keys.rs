//! WireGuard keys, and the inner address that is derived from a public key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv6Net;
use vswitch_common::packet::address::Address;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

pub use crate::model::{KEY_LENGTH, KeyError, PublicKey};

/// Private key of a host. It is wiped from memory on drop, and no formatter prints it.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl PrivateKey {
    /// Generates a key from the kernel's random numbers.
    pub fn generate() -> Self {
        Self(StaticSecret::random())
    }

    /// Returns the matching public key.
    pub fn public(&self) -> PublicKey {
        PublicKey::from_bytes(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    pub(super) const fn secret(&self) -> &StaticSecret {
        &self.0
    }

    /// Returns the file format: 44 characters of base64, as `wg genkey` prints it.
    pub(super) fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_bytes()))
    }

    /// Parses the output of [`PrivateKey::to_base64`]. Returns `None` for any other text. An error
    /// must not quote the text, because it may almost be a key.
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

/// Returns the prefix of all inner addresses. Packets to this prefix may only leave the host
/// through WireGuard.
pub fn inner_net() -> Ipv6Net {
    let (prefix, length) = Address::INNER;
    let mut address = [0; 16];
    for (byte, value) in address.iter_mut().zip(prefix) {
        *byte = value;
    }
    Ipv6Net::new_assert(address.into(), length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn keys_have_the_format_of_wireguard() {
        // Alice's keys from RFC 7748, section 6.1.
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
    fn the_inner_address_is_derived_from_the_key() {
        let key: PublicKey = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().unwrap();
        let digest = Sha256::digest(key.bytes());
        let address = key.inner_address().octets();
        assert_eq!(inner_net().to_string(), "fd76:7377:6974::/48");
        assert!(inner_net().contains(&key.inner_address()) && Address::new(address).is_inner());
        assert_eq!(address[6..], digest[..10]);
        assert_eq!(key.inner_address().to_string(), "fd76:7377:6974:300c:9c96:3b9:2a4b:39ed");
    }

    proptest! {
        #[test]
        fn displayed_keys_are_parsed(bytes in any::<[u8; KEY_LENGTH]>()) {
            let private = PrivateKey::from_base64(&STANDARD.encode(bytes)).unwrap();
            let text = private.to_base64();
            prop_assert_eq!(text.as_str(), STANDARD.encode(bytes));
            let public = private.public();
            prop_assert_eq!(public.to_string().parse::<PublicKey>(), Ok(public));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,60}") {
            let _ = (text.parse::<PublicKey>(), PrivateKey::from_base64(&text));
        }
    }
}
