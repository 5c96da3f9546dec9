//! Who gets a copy of a flood.

use super::{group, size, vlan};
use crate::packet::address::{Address, Addresses};
use crate::packet::{Ethernet, Packet, Tag};
use crate::tables::{ListenerKey, NetworkNumber, Port, PortKind, PortNumber, Tables, VlanKey};
use crate::verdict::{Decision, action};

/// What a port gets of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Nothing: it is not for this port.
    No,
    /// Nothing: it is longer than what may leave by this port.
    TooBig,
    /// A copy, whose tag is changed like this: one of [`crate::verdict::tag`].
    Tag(u8),
}

/// A frame that is flooded, as far as it decides who gets a copy.
#[derive(Clone, Copy, Debug)]
pub struct Flooded {
    /// The action of its decision.
    pub action: u32,
    /// Where it came in.
    pub ingress: PortNumber,
    /// The network.
    pub network: NetworkNumber,
    /// [`Port::ISOLATED`] if it came from an isolated port, else 0.
    pub isolated: u32,
    /// Bytes behind its Ethernet header and tags; 0 for a GSO packet, which passes whole.
    pub length: u32,
    /// The tag that it came with, TPID << 16 | TCI; 0 if it came without.
    pub tag: u32,
    /// Its VLAN.
    pub vlan: VlanKey,
    /// 0.
    pub reserved: u16,
    /// The group that it is for, if it is for its listeners.
    pub group: Address,
}

impl Flooded {
    /// A frame that was decided to be flooded, which came in by `port`.
    #[inline(always)]
    pub fn new<P: Packet + ?Sized>(decision: &Decision, frame: &P, port: &Port) -> Self {
        let listeners = matches!(decision.action, action::FLOOD_LISTENERS | action::FLOOD_LISTENERS_APART);
        let (length, tag, group) = match Ethernet::parse(frame) {
            Ok(ethernet) => {
                let tag = ethernet.tag.map_or(0, |tag| u32::from(tag.tpid) << 16 | u32::from(tag.tci));
                let group =
                    if listeners { Addresses::read(frame, &ethernet).destination } else { Address::UNSPECIFIED };
                (if frame.segment() == 0 { size::of(frame, &ethernet) as u32 } else { 0 }, tag, group)
            }
            Err(_) => (0, 0, Address::UNSPECIFIED),
        };
        Self {
            action: decision.action,
            ingress: decision.ingress,
            network: decision.station.network,
            isolated: port.flags & Port::ISOLATED,
            length,
            tag,
            vlan: decision.station.vlan,
            reserved: 0,
            group,
        }
    }

    /// What a port gets.
    #[inline(always)]
    pub fn copy<T: Tables>(&self, port: &Port, number: PortNumber, tables: &T) -> Copied {
        if number == self.ingress && !port.has(Port::HAIRPIN) || port.flags & self.isolated != 0 {
            return Copied::No;
        }
        let host = matches!(port.kind(), Some(PortKind::Host));
        let wanted = match self.action {
            // The host is always known by its address; it has no unknown stations behind it.
            action::FLOOD_UNKNOWN | action::FLOOD_APART => !host,
            action::FLOOD_ROUTERS => group::has_router(port),
            action::FLOOD_LISTENERS_APART if host => false,
            action::FLOOD_LISTENERS | action::FLOOD_LISTENERS_APART => {
                group::has_router(port) || tables.listens(&self.listener(number))
            }
            _ => true,
        };
        if !wanted || !vlan::has(port, number, self.vlan, tables) {
            return Copied::No;
        }
        if port.mtu != 0 && self.length > u32::from(port.mtu) {
            return Copied::TooBig;
        }
        let tag = (self.tag != 0).then_some(Tag { tpid: (self.tag >> 16) as u16, tci: self.tag as u16 });
        Copied::Tag(vlan::on_the_way_out(tag, self.vlan, port))
    }

    #[inline(always)]
    fn listener(&self, port: PortNumber) -> ListenerKey {
        ListenerKey { group: self.group, network: self.network, port, vlan: self.vlan, reserved: [0; 3] }
    }
}
