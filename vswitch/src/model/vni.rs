//! VXLAN network identifier (RFC 7348, section 5).

use std::fmt;

use serde::{Deserialize, Serialize};

/// VXLAN network identifier: 24 bits, not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// A number outside the range of VNIs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid VNI {0} (from 1 to 16777215)")]
pub struct InvalidVni(pub u32);

impl Vni {
    /// First VNI that is assigned automatically. Lower numbers are for VNIs that users choose.
    pub const FIRST_AUTOMATIC: Self = Self(4096);
    /// Last VNI: 24 bits.
    pub const LAST: Self = Self(0x00ff_ffff);

    /// Returns, in order, the VNIs that are assigned to networks without a chosen one.
    pub fn automatic() -> impl Iterator<Item = Self> {
        (Self::FIRST_AUTOMATIC.0..=Self::LAST.0).map(Self)
    }

    /// Returns the number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;

    fn try_from(number: u32) -> Result<Self, InvalidVni> {
        if (1..=Self::LAST.0).contains(&number) { Ok(Self(number)) } else { Err(InvalidVni(number)) }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vni_has_24_bits_and_is_not_zero() {
        assert_eq!(Vni::try_from(0), Err(InvalidVni(0)));
        assert_eq!(Vni::try_from(16_777_216), Err(InvalidVni(16_777_216)));
        assert_eq!(Vni::try_from(16_777_215), Ok(Vni::LAST));
        assert_eq!(Vni::try_from(1).map(Vni::number), Ok(1));
    }
}
