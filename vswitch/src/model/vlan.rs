//! VLANs of endpoints: the VLAN of untagged frames, and the VLANs of a trunk.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// VLAN id of IEEE 802.1Q: 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

/// An invalid VLAN or list of VLANs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVlan {
    /// Not a VLAN id.
    #[error("invalid VLAN `{0}` (a number from 1 to 4094)")]
    Id(String),
    /// Not a list of VLANs.
    #[error("invalid trunk `{0}` (VLANs from 1 to 4094, as in 10,20-30, or all)")]
    Trunk(String),
}

/// VLANs whose frames an endpoint sends and receives with a tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrunkVlans {
    /// The endpoint is not a trunk.
    #[default]
    None,
    /// These VLANs.
    Listed(BTreeSet<VlanId>),
    /// All VLANs.
    All,
}

impl VlanId {
    /// Returns the VLAN id.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for VlanId {
    type Error = InvalidVlan;

    fn try_from(number: u16) -> Result<Self, InvalidVlan> {
        if matches!(number, 1..=4094) { Ok(Self(number)) } else { Err(InvalidVlan::Id(number.to_string())) }
    }
}

impl From<VlanId> for u16 {
    fn from(vlan: VlanId) -> Self {
        vlan.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VlanId {
    type Err = InvalidVlan;

    fn from_str(text: &str) -> Result<Self, InvalidVlan> {
        let invalid = || InvalidVlan::Id(text.to_owned());
        // `parse` accepts a plus sign, which a VLAN id must not have.
        let number = text.parse::<u16>().ok().filter(|_| text.bytes().all(|digit| digit.is_ascii_digit()));
        Self::try_from(number.ok_or_else(invalid)?).map_err(|_| invalid())
    }
}

impl FromStr for TrunkVlans {
    type Err = InvalidVlan;

    fn from_str(text: &str) -> Result<Self, InvalidVlan> {
        if text == "all" {
            return Ok(Self::All);
        }
        let invalid = || InvalidVlan::Trunk(text.to_owned());
        let mut vlans = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let parse = |text: &str| text.parse::<VlanId>().map_err(|_| invalid());
            let (first, last) = (parse(first)?, parse(last)?);
            if first > last {
                return Err(invalid());
            }
            vlans.extend((first.0..=last.0).map(VlanId));
        }
        Ok(Self::Listed(vlans))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_a_number_from_1_to_4094() {
        assert_eq!("30".parse::<VlanId>().map(VlanId::get), Ok(30));
        for bad in ["", "0", "4095", "4096", "65536", "65566", "-1", "+1", "x", "s30", "030x", "3 0"] {
            let error = bad.parse::<VlanId>().expect_err("an invalid VLAN");
            assert_eq!(error.to_string(), format!("invalid VLAN `{bad}` (a number from 1 to 4094)"));
        }
    }

    #[test]
    fn a_trunk_is_a_list_with_ranges_or_all() {
        let listed = |numbers: &[u16]| {
            TrunkVlans::Listed(numbers.iter().map(|number| VlanId::try_from(*number).expect("a VLAN")).collect())
        };
        assert_eq!("10,20-22,11".parse(), Ok(listed(&[10, 11, 20, 21, 22])));
        assert_eq!("4094".parse(), Ok(listed(&[4094])));
        assert_eq!("all".parse(), Ok(TrunkVlans::All));
        for bad in ["", "10,", "20-10", "0-5", "1-4095", "none", "10 20", "1-2-3"] {
            let error = bad.parse::<TrunkVlans>().expect_err("an invalid trunk");
            assert_eq!(
                error.to_string(),
                format!("invalid trunk `{bad}` (VLANs from 1 to 4094, as in 10,20-30, or all)")
            );
        }
    }

    #[test]
    fn vlans_are_numbers_in_json() {
        let trunk: TrunkVlans = "10,20".parse().expect("a trunk");
        let text = serde_json::to_string(&trunk).expect("JSON");
        assert_eq!(text, r#"{"listed":[10,20]}"#);
        assert_eq!(serde_json::from_str::<TrunkVlans>(&text).expect("a trunk"), trunk);
        assert!(serde_json::from_str::<VlanId>("4095").is_err());
    }
}
