//! What one program hands to another in the control block of a packet (`skb->cb`) at a tail call.

use crate::packet::VlanKey;
use crate::tables::{NetworkNumber, PortNumber};
use crate::verdict::{Decision, action};

/// Words of the control block that are used.
pub const WORDS: usize = 4;

/// What the program `carry` needs of a decision. The layout never changes: during a takeover
/// programs of one version call those of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Handover {
    /// The port that the packet came in by.
    pub ingress: PortNumber,
    /// The network of that port.
    pub network: NetworkNumber,
    /// The port of [`crate::verdict::Delivery::port`].
    pub to: PortNumber,
    /// The VLAN of the packet.
    pub vlan: VlanKey,
    /// The action, one of [`action`]: at most 255.
    pub action: u8,
    /// [`Decision::snoops`]: 0 or 1.
    pub snoops: u8,
    /// [`crate::verdict::Delivery::way`]: at most 7.
    pub way: u8,
    /// [`crate::verdict::Delivery::tag`]: at most 3.
    pub tag: u8,
    /// [`Decision::storm`]: at most 3. An earlier version handed over 0.
    pub storm: u8,
    /// 0.
    pub reserved: u8,
}

const _: () = {
    assert!(size_of::<Handover>() == 20);
    assert!(action::FLOOD_HOST <= u8::MAX as u32, "the largest action fits");
};

impl Handover {
    /// Returns what is handed over of a decision.
    #[inline(always)]
    pub const fn of(decision: &Decision) -> Self {
        Self {
            ingress: decision.ingress,
            network: decision.station.network,
            to: decision.to.port,
            vlan: decision.station.vlan,
            action: decision.action as u8,
            snoops: decision.snoops,
            way: decision.to.way,
            tag: decision.to.tag,
            storm: decision.storm as u8,
            reserved: 0,
        }
    }

    /// Returns the decision, as far as it was handed over.
    #[inline(always)]
    pub const fn decision(&self) -> Decision {
        let mut decision = Decision::new(self.action as u32, self.ingress);
        decision.snoops = self.snoops;
        decision.storm = self.storm as u16;
        decision.to.way = self.way;
        decision.to.tag = self.tag;
        decision.to.port = self.to;
        decision.station.vlan = self.vlan;
        decision.station.network = self.network;
        decision
    }

    /// Returns the words for the control block. The first has the action in bits 0 to 7, `snoops`
    /// in bit 8, the way in bits 9 to 11, the change of the tag in bits 12 and 13, the storm class in
    /// bits 14 and 15, and the VLAN in bits 16 to 31.
    #[inline(always)]
    pub const fn to_words(self) -> [u32; WORDS] {
        let change = (self.storm as u32) << 14 | (self.tag as u32) << 12 | (self.way as u32) << 9;
        let first = self.action as u32 | (self.snoops as u32) << 8 | change | (self.vlan.0 as u32) << 16;
        [first, self.ingress.0, self.network.0, self.to.0]
    }

    /// Reads the words of the control block.
    #[inline(always)]
    pub const fn from_words(words: [u32; WORDS]) -> Self {
        let [first, ingress, network, to] = words;
        Self {
            ingress: PortNumber(ingress),
            network: NetworkNumber(network),
            to: PortNumber(to),
            vlan: VlanKey((first >> 16) as u16),
            action: first as u8,
            snoops: (first >> 8) as u8 & 1,
            way: (first >> 9) as u8 & 7,
            tag: (first >> 12) as u8 & 3,
            storm: (first >> 14) as u8 & 3,
            reserved: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::verdict::{Delivery, tag};

    #[test]
    fn the_bits_of_the_words_are_those_of_other_versions() {
        let mut decision = Decision::new(action::FLOOD_REFLECTED, PortNumber(0x11));
        (decision.snoops, decision.to.way, decision.to.tag) = (1, Delivery::ALL, tag::NUMBER);
        (decision.to.port, decision.station.network) = (PortNumber(0x22), NetworkNumber(0x33));
        decision.station.vlan = VlanKey(0x1fff);
        let words = Handover::of(&decision).to_words();
        assert_eq!(words, [0x1fff_390d, 0x11, 0x33, 0x22]);
    }

    proptest! {
        #[test]
        fn what_is_handed_over_arrives(
            (ingress, network, to) in any::<(u32, u32, u32)>(),
            vlan in any::<u16>(),
            action in any::<u8>(),
            (snoops, way, tag, storm) in (0..2_u8, 0..8_u8, 0..4_u8, 0..4_u8),
        ) {
            let (ingress, network, to) = (PortNumber(ingress), NetworkNumber(network), PortNumber(to));
            let handed = Handover { ingress, network, to, vlan: VlanKey(vlan), action, snoops, way, tag, storm, reserved: 0 };
            prop_assert_eq!(Handover::from_words(handed.to_words()), handed);
            prop_assert_eq!(Handover::of(&handed.decision()), handed);
        }
    }
}
