//! Peers: the other hosts of overlay networks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::HostId;
use crate::wireguard::PublicKey;

/// Another host, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its address on the underlay: where tunnels to it end, and what they come from.
    pub address: IpAddr,
    /// Its public key for WireGuard, if it was told: without it, encrypted networks do not reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// Since when it is one.
    #[serde(with = "time::serde::rfc3339")]
    pub added: OffsetDateTime,
    /// Which host of the cluster it is; `None` for one that is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<PeerHost>,
    /// Whether people told of it. Records from before this was noted do not say so: see [`Peer::is_by_hand`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
}

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHost {
    /// Its id.
    pub id: HostId,
    /// Its name.
    pub name: String,
}

/// A text that is no peer's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeer {
    /// No IP address at all.
    #[error("invalid address `{0}` of a peer (an IP address of the other host, as in 192.0.2.7 or 2001:db8::7)")]
    NoAddress(String),
    /// One that no other host has.
    #[error("address {0} cannot be a peer's (it is {1}; say the address that the other host sends from)")]
    NotAHosts(IpAddr, &'static str),
}

impl Peer {
    /// One that people told of.
    pub const fn new(address: IpAddr, added: OffsetDateTime) -> Self {
        Self { address, public_key: None, added, host: None, by_hand: true }
    }

    /// Whether people told of it, whatever host of the cluster it is, too. One that is no host's can be from nobody else.
    pub const fn is_by_hand(&self) -> bool {
        self.by_hand || self.host.is_none()
    }

    /// The address of a peer as it was typed.
    ///
    /// # Errors
    /// It is none, or none that another host has.
    pub fn parse_address(text: &str) -> Result<IpAddr, InvalidPeer> {
        let address: IpAddr = text.parse().map_err(|_| InvalidPeer::NoAddress(text.to_owned()))?;
        let address = address.to_canonical();
        let not = |why| Err(InvalidPeer::NotAHosts(address, why));
        match address {
            _ if address.is_unspecified() => not("no address"),
            _ if address.is_loopback() => not("this host's own"),
            _ if address.is_multicast() => not("a group's"),
            IpAddr::V4(four) if four.is_broadcast() => not("for all"),
            // Of which interface it is on, nothing is said.
            IpAddr::V6(six) if six.is_unicast_link_local() => not("of one link alone"),
            _ => Ok(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_there_were_keys_is_read_and_one_with_a_key_comes_back() {
        let old = r#"{"address":"192.0.2.7","added":"2026-01-02T03:04:05Z"}"#;
        let peer: Peer = serde_json::from_str(old).expect("a record");
        assert_eq!(peer.public_key, None);
        assert_eq!(serde_json::to_string(&peer).expect("JSON"), old);
        let public_key = Some(crate::wireguard::PrivateKey::generate().public());
        let peer = Peer { public_key, ..peer };
        let text = serde_json::to_string(&peer).expect("JSON");
        assert_eq!(serde_json::from_str::<Peer>(&text).expect("a record"), peer);
    }

    #[test]
    fn a_record_without_a_host_is_of_one_that_was_added_by_hand() {
        let old = r#"{"address":"192.0.2.7","added":"2026-01-02T03:04:05Z"}"#;
        let old: Peer = serde_json::from_str(old).expect("a record");
        assert!(old.is_by_hand());
        let id = HostId::from_bytes([1; 32]);
        let hosts = Peer { host: Some(PeerHost { id, name: "one".to_owned() }), ..old };
        assert!(!hosts.is_by_hand());
        let both = Peer { by_hand: true, ..hosts };
        let text = serde_json::to_string(&both).expect("JSON");
        assert!(serde_json::from_str::<Peer>(&text).expect("a record").is_by_hand());
    }

    #[test]
    fn only_addresses_of_other_hosts_are_peers() {
        for text in ["192.0.2.7", "2001:db8::7", "fd00::1", "10.0.0.1"] {
            assert_eq!(Peer::parse_address(text).map(|address| address.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(Peer::parse_address("::ffff:192.0.2.7"), Ok([192, 0, 2, 7].into()));
        for text in ["0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1"] {
            assert!(matches!(Peer::parse_address(text), Err(InvalidPeer::NotAHosts(..))), "{text}");
        }
        for text in ["", "host", "192.0.2", "192.0.2.7/24", "[::1]"] {
            assert_eq!(Peer::parse_address(text), Err(InvalidPeer::NoAddress(text.to_owned())));
        }
    }
}
