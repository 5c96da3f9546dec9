//! What the core decides: one verdict for each frame, and the state to update with it.

use crate::tables::{FdbKey, PortKind, PortNumber};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To one port.
    Redirect(Delivery),
    /// A copy to every other port of the network.
    Flood(Flood),
    /// To the network stack of the device it came from: the host's own frame on an uplink.
    Pass,
    /// Nowhere.
    Drop(DropReason),
}

/// The one port that a frame goes to, with what the kernel needs to hand it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The port.
    pub port: PortNumber,
    /// The device it leaves by.
    pub ifindex: u32,
    /// What is behind it, which decides how the frame is handed over.
    pub kind: PortKind,
    /// Bits of the port: [`crate::tables::Port::XDP_EGRESS`].
    pub flags: u8,
    /// To the device's own station: the frame enters the host's stack there and does not go out on the wire.
    pub local: bool,
}

/// Why a frame is flooded, which decides who gets a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Broadcast or multicast: every port, and the host's own stack when it came in by an uplink.
    Group,
    /// Unicast to a station nobody has heard of: every port that may have unknown stations behind it.
    UnknownUnicast,
}

/// A verdict and the state to update; what the kernel program then carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the frame.
    pub verdict: Verdict,
    /// The port it came in by; `PortNumber::NONE` if its device is no port.
    pub ingress: PortNumber,
    /// The station to write into the FDB, if it is new, moved, or not refreshed in this second.
    pub learn: Option<FdbKey>,
}

/// Why a frame was dropped. The numbers are indexes of counters and stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than its Ethernet header or VLAN tag.
    Truncated = 0,
    /// Source address with the group bit set (IEEE 802.3, 3.2.3).
    SourceMulticast = 1,
    /// Source address all zeros.
    SourceZero = 2,
    /// Destination 01:80:c2:00:00:00 to 0f: for this link only.
    LinkLocal = 3,
    /// Source address that belongs to another endpoint: forged, or our own frame coming back.
    SourceSpoofed = 4,
    /// Destination on the segment it came from.
    SamePort = 5,
    /// From a device that is no port of the switch: it is being attached or detached at this moment.
    UnknownPort = 6,
    /// The port to deliver to is gone or down, or the kernel had no memory for the copy.
    DeliveryFailed = 7,
    /// Destination address all zeros.
    DestinationZero = 8,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 9] = [
        Self::Truncated,
        Self::SourceMulticast,
        Self::SourceZero,
        Self::LinkLocal,
        Self::SourceSpoofed,
        Self::SamePort,
        Self::UnknownPort,
        Self::DeliveryFailed,
        Self::DestinationZero,
    ];

    /// The name in `stats`, `monitor` and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::SourceMulticast => "source_multicast",
            Self::SourceZero => "source_zero",
            Self::LinkLocal => "link_local",
            Self::SourceSpoofed => "source_spoofed",
            Self::SamePort => "same_port",
            Self::UnknownPort => "unknown_port",
            Self::DeliveryFailed => "delivery_failed",
            Self::DestinationZero => "destination_zero",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_with_distinct_names() {
        let mut names = std::collections::HashSet::new();
        for (number, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert!(names.insert(reason.name()));
        }
        assert!(DropReason::ALL.len() <= crate::tables::DROP_REASONS);
    }
}
