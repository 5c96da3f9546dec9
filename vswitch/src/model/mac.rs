//! MAC addresses of stations: unicast and not zero.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vswitch_common::Mac;

use super::NetworkId;

/// MAC address of a station, valid as the source of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StationMac(Mac);

/// A string that is not a station's MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStationMac {
    /// Not a MAC address.
    #[error("invalid MAC address `{0}` (six bytes in hex with colons, as in 02:42:ac:11:00:02)")]
    Syntax(String),
    /// A multicast address.
    #[error("MAC address {0} is a multicast address (the lowest bit of the first byte must be 0)")]
    Multicast(Mac),
    /// All zeros.
    #[error("MAC address 00:00:00:00:00:00 is not valid for a station (choose one such as 02:42:ac:11:00:02)")]
    Zero,
}

impl StationMac {
    /// Derives the locally administered address of an endpoint name in a network, so that the
    /// endpoint keeps it when it is attached again. `attempt` starts at 0 and is increased while
    /// the address is taken. The random id of the network separates hosts that use the same names
    /// on one segment.
    pub fn generated(network: &NetworkId, name: &str, attempt: u32) -> Self {
        let mut hash = Sha256::new();
        hash.update(network.bytes());
        hash.update(name);
        if attempt > 0 {
            hash.update(attempt.to_be_bytes());
        }
        let digest = hash.finalize();
        let mut bytes = [0; 6];
        bytes.copy_from_slice(&digest[..6]);
        // Locally administered and unicast (IEEE 802, section 8.4).
        bytes[0] = bytes[0] & 0xfc | 0x02;
        Self(Mac(bytes))
    }

    /// Returns the address.
    pub const fn get(self) -> Mac {
        self.0
    }
}

impl TryFrom<Mac> for StationMac {
    type Error = InvalidStationMac;

    fn try_from(mac: Mac) -> Result<Self, InvalidStationMac> {
        if mac.is_multicast() {
            Err(InvalidStationMac::Multicast(mac))
        } else if mac.is_zero() {
            Err(InvalidStationMac::Zero)
        } else {
            Ok(Self(mac))
        }
    }
}

impl FromStr for StationMac {
    type Err = InvalidStationMac;

    fn from_str(text: &str) -> Result<Self, InvalidStationMac> {
        let mac: Mac = text.parse().map_err(|_| InvalidStationMac::Syntax(text.to_owned()))?;
        Self::try_from(mac)
    }
}

impl TryFrom<String> for StationMac {
    type Error = InvalidStationMac;

    fn try_from(text: String) -> Result<Self, InvalidStationMac> {
        text.parse()
    }
}

impl From<StationMac> for String {
    fn from(mac: StationMac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for StationMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_addresses_and_zero_are_refused() {
        assert!("02:42:ac:11:00:02".parse::<StationMac>().is_ok());
        assert_eq!("00:00:00:00:00:00".parse::<StationMac>(), Err(InvalidStationMac::Zero));
        assert!(matches!("01:00:5e:00:00:01".parse::<StationMac>(), Err(InvalidStationMac::Multicast(_))));
        assert!(matches!("ff:ff:ff:ff:ff:ff".parse::<StationMac>(), Err(InvalidStationMac::Multicast(_))));
        assert!(matches!("02:42".parse::<StationMac>(), Err(InvalidStationMac::Syntax(_))));
    }

    #[test]
    fn generated_addresses_are_stable_local_and_distinct() {
        let (one, two) = (NetworkId::from_bytes([1; 32]), NetworkId::from_bytes([2; 32]));
        let mac = StationMac::generated(&one, "web", 0);
        assert_eq!(mac, StationMac::generated(&one, "web", 0));
        assert_eq!(StationMac::try_from(mac.get()), Ok(mac));
        assert_eq!(mac.get().0[0] & 3, 2, "{mac}");
        for other in [
            StationMac::generated(&one, "db", 0),
            StationMac::generated(&two, "web", 0),
            StationMac::generated(&one, "web", 1),
        ] {
            assert_ne!(mac, other);
        }
    }
}
