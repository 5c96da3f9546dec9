//! Who gets a copy of a flood.

use super::{group, size, too_big, vlan};
use crate::packet::address::{Address, Addresses};
use crate::packet::{Ethernet, Packet, Tag};
use crate::tables::{ListenerKey, NetworkNumber, Port, PortKind, PortNumber, Tables, VlanKey};
use crate::verdict::{Decision, Delivery, action};

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
    /// Of the flags of the port that it came by: [`Port::ISOLATED`], [`Port::SPLIT_HORIZON`] and [`Port::APART`].
    pub flags: u32,
    /// Bytes behind its Ethernet header and tags; 0 for a GSO packet, which passes whole.
    pub length: u32,
    /// 1 if it goes into tunnels whatever its length, where their outer packets are cut up.
    pub cut_up: u32,
    /// The tag that it came with, TPID << 16 | TCI; 0 if it came without.
    pub tag: u32,
    /// Its VLAN.
    pub vlan: VlanKey,
    /// Of what the wire sent back: 1 if children that are not [`Port::APART`] get it, too.
    pub all: u16,
    /// The port that sent what the wire sent back.
    pub except: PortNumber,
    /// The [`PortKind`] of the port that it came by.
    pub kind: u32,
    /// The group that it is for, if it is for its listeners.
    pub group: Address,
}

impl Flooded {
    /// A frame that was decided to be flooded, which came in by `port`.
    #[inline(always)]
    pub fn new<P: Packet + ?Sized>(decision: &Decision, frame: &P, port: &Port) -> Self {
        let listeners = matches!(decision.action, action::FLOOD_LISTENERS | action::FLOOD_LISTENERS_APART);
        let (length, cut_up, tag, group) = match Ethernet::parse(frame) {
            Ok(ethernet) => {
                let tag = ethernet.tag.map_or(0, |tag| u32::from(tag.tpid) << 16 | u32::from(tag.tci));
                let group =
                    if listeners { Addresses::read(frame, &ethernet).destination } else { Address::UNSPECIFIED };
                let length = if frame.segment() == 0 { size::of(frame, &ethernet) as u32 } else { 0 };
                (length, u32::from(too_big::may_be_cut_up(frame, &ethernet)), tag, group)
            }
            Err(_) => (0, 0, 0, Address::UNSPECIFIED),
        };
        Self {
            action: decision.action,
            ingress: decision.ingress,
            network: decision.station.network,
            flags: port.flags & (Port::ISOLATED | Port::SPLIT_HORIZON | Port::APART),
            length,
            cut_up,
            tag,
            vlan: decision.station.vlan,
            all: u16::from(decision.to.way == Delivery::ALL),
            except: decision.to.port,
            kind: port.kind.into(),
            group,
        }
    }

    /// What a port gets.
    #[inline(always)]
    pub fn copy<T: Tables>(&self, port: &Port, number: PortNumber, tables: &T) -> Copied {
        if number == self.ingress && !port.has(Port::HAIRPIN) || port.is_kept_from(self.flags) {
            return Copied::No;
        }
        let host = matches!(port.kind(), Some(PortKind::Host));
        let wanted = match self.action {
            _ if matches!(port.kind(), Some(PortKind::Child)) => self.is_for_child(port, number),
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
        let length = self.length + size::tags(u32::from(self.tag != 0), self.vlan, port);
        if port.mtu != 0 && length > u32::from(port.mtu) && (self.cut_up == 0 || !too_big::cuts_up(port)) {
            return Copied::TooBig;
        }
        let tag = (self.tag != 0).then_some(Tag { tpid: (self.tag >> 16) as u16, tci: self.tag as u16 });
        Copied::Tag(vlan::on_the_way_out(tag, self.vlan, port))
    }

    /// Whether a child gets a copy: from another one, from the wire, or from the host.
    #[inline(always)]
    fn is_for_child(&self, port: &Port, number: PortNumber) -> bool {
        if port.has(Port::ROUTED) {
            return false;
        }
        match self.action {
            action::FLOOD_REFLECTED => {
                number != self.except && (port.has(Port::REFLECTED) || self.all != 0 && !port.has(Port::APART))
            }
            action::FLOOD_CHILDREN => port.has(Port::HOST_ACCESS),
            _ if self.kind == PortKind::Parent as u32 => true,
            _ => (self.flags | port.flags) & Port::APART == 0,
        }
    }

    #[inline(always)]
    fn listener(&self, port: PortNumber) -> ListenerKey {
        ListenerKey { group: self.group, network: self.network, port, vlan: self.vlan, reserved: [0; 3] }
    }
}
