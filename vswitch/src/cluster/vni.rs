//! The number of a network in VXLAN headers (RFC 7348).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a network in VXLAN headers: 24 bits, and not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// A number that is no VNI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid VNI {0} (from 1 to 16777215)")]
pub struct InvalidVni(pub u32);

impl Vni {
    /// The first that is given to a network that asks for none: those below are left to people.
    pub const FIRST_AUTOMATIC: Self = Self(4096);
    /// The last: 24 bits.
    pub const LAST: Self = Self(0x00ff_ffff);

    /// The number.
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
