//! MAC addresses (EUI-48).

use core::fmt;

/// A MAC address: six bytes, in the byte order of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The broadcast address, ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, which is never a valid source or station.
    pub const ZERO: Self = Self([0; 6]);

    /// Returns whether the group bit is set: multicast or broadcast (IEEE 802, first bit on the
    /// wire).
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Returns whether the address is ff:ff:ff:ff:ff:ff.
    #[inline(always)]
    pub const fn is_broadcast(self) -> bool {
        let [a, b, c, d, e, f] = self.0;
        a & b & c & d & e & f == 0xff
    }

    /// Returns whether the address is 00:00:00:00:00:00.
    #[inline(always)]
    pub const fn is_zero(self) -> bool {
        let [a, b, c, d, e, f] = self.0;
        a | b | c | d | e | f == 0
    }

    /// Returns whether the address is one of 01:80:c2:00:00:00 to 0f, which a bridge never forwards
    /// (IEEE 802.1Q, table 8-1).
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error of a string that is no MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidMac;

impl fmt::Display for InvalidMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not six bytes in hex, separated by colons or hyphens")
    }
}

impl core::error::Error for InvalidMac {}

impl core::str::FromStr for Mac {
    type Err = InvalidMac;

    /// Parses `02:42:ac:11:00:02` or `02-42-ac-11-00-02`, in upper or lower case.
    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or(InvalidMac)?;
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(InvalidMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMac)?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(InvalidMac),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_addresses() {
        assert!(Mac::BROADCAST.is_multicast());
        assert!(Mac::ZERO.is_zero());
        assert!(!Mac([0, 0, 0, 0, 0, 1]).is_zero());
        assert!(Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]).is_link_local());
        assert!(!Mac([0x01, 0x80, 0xc2, 0, 0, 0x10]).is_link_local());
        assert!(!Mac([0x02, 0x80, 0xc2, 0, 0, 0]).is_multicast());
    }

    #[test]
    fn text_there_and_back() {
        let mac = Mac([0x02, 0x42, 0xac, 0x11, 0x00, 0xfe]);
        assert_eq!("02:42:ac:11:00:fe".parse(), Ok(mac));
        assert_eq!("02-42-AC-11-00-FE".parse(), Ok(mac));
        assert_eq!(std::format!("{mac}").parse(), Ok(mac));
        for wrong in
            ["", "02:42:ac:11:00", "02:42:ac:11:00:fe:", "2:42:ac:11:0:fe", "+2:42:ac:11:00:fe", "zz:42:ac:11:00:fe"]
        {
            assert_eq!(wrong.parse::<Mac>(), Err(InvalidMac), "{wrong}");
        }
    }
}
