//! Peers: the other hosts of overlay networks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{HostId, PublicKey};

/// Record of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Address on the underlay: destination of tunnels to the peer, and source of tunnels from it.
    pub address: IpAddr,
    /// WireGuard public key, if known. Without a key, encrypted networks do not reach the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// Time when the peer was added.
    #[serde(with = "time::serde::rfc3339")]
    pub added: OffsetDateTime,
    /// Host of the cluster that the peer is; `None` for other peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<PeerHost>,
    /// Whether an operator added the peer by hand. Missing in older records: see
    /// [`Peer::is_by_hand`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
}

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHost {
    /// Id.
    pub id: HostId,
    /// Name.
    pub name: String,
}

/// A text that is not a valid peer address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeer {
    /// Not an IP address.
    #[error("invalid address `{0}` of a peer (an IP address of the other host, as in 192.0.2.7 or 2001:db8::7)")]
    NotAnAddress(String),
    /// An address that another host cannot have, with the reason.
    #[error("address {0} cannot be a peer's (it is {1}; give the address that the other host sends from)")]
    NotAHost(IpAddr, &'static str),
}

impl Peer {
    /// Creates a peer that an operator added by hand.
    pub const fn new(address: IpAddr, added: OffsetDateTime) -> Self {
        Self { address, public_key: None, added, host: None, by_hand: true }
    }

    /// Reports whether an operator added this peer by hand, even if it is also a cluster host. A
    /// peer that is not a cluster host can only have been added by hand.
    pub const fn is_by_hand(&self) -> bool {
        self.by_hand || self.host.is_none()
    }

    /// Parses the address of a peer.
    ///
    /// # Errors
    /// The text is not an IP address, or another host cannot have the address.
    pub fn parse_address(text: &str) -> Result<IpAddr, InvalidPeer> {
        let address: IpAddr = text.parse().map_err(|_| InvalidPeer::NotAnAddress(text.to_owned()))?;
        let address = address.to_canonical();
        let refused = |why| Err(InvalidPeer::NotAHost(address, why));
        match address {
            _ if address.is_unspecified() => refused("no address"),
            _ if address.is_loopback() => refused("this host's own"),
            _ if address.is_multicast() => refused("a multicast address"),
            IpAddr::V4(v4) if v4.is_broadcast() => refused("the broadcast address"),
            // The address does not say which interface it belongs to.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => refused("a link-local address"),
            _ => Ok(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_without_and_with_a_key_are_parsed() {
        let old = r#"{"address":"192.0.2.7","added":"2026-01-02T03:04:05Z"}"#;
        let peer: Peer = serde_json::from_str(old).expect("a record");
        assert_eq!(peer.public_key, None);
        assert_eq!(serde_json::to_string(&peer).expect("JSON"), old);
        let public_key = Some(PublicKey::from_bytes([9; 32]));
        let peer = Peer { public_key, ..peer };
        let text = serde_json::to_string(&peer).expect("JSON");
        assert_eq!(serde_json::from_str::<Peer>(&text).expect("a record"), peer);
    }

    #[test]
    fn a_record_without_a_host_was_added_by_hand() {
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
    fn only_unicast_addresses_of_other_hosts_are_accepted() {
        for text in ["192.0.2.7", "2001:db8::7", "fd00::1", "10.0.0.1"] {
            assert_eq!(Peer::parse_address(text).map(|address| address.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(Peer::parse_address("::ffff:192.0.2.7"), Ok([192, 0, 2, 7].into()));
        for text in ["0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1"] {
            assert!(matches!(Peer::parse_address(text), Err(InvalidPeer::NotAHost(..))), "{text}");
        }
        for text in ["", "host", "192.0.2", "192.0.2.7/24", "[::1]"] {
            assert_eq!(Peer::parse_address(text), Err(InvalidPeer::NotAnAddress(text.to_owned())));
        }
    }
}
