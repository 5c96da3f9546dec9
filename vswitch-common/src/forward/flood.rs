//! Which ports get a copy of a flood.

use super::{group, size, too_big, vlan};
use crate::packet::address::{Address, Addresses};
use crate::packet::{Ethernet, Packet, Tag};
use crate::tables::{ListenerKey, NetworkNumber, Port, PortKind, PortNumber, Tables, VlanKey};
use crate::verdict::{Decision, Delivery, action};

/// The copy of a flood that one port gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// None: the frame is not for this port.
    No,
    /// None: the frame is longer than this port may send.
    TooBig,
    /// A copy with this change of its tag, one of [`crate::verdict::tag`].
    Tag(u8),
}

/// What decides which ports get a copy of a flooded frame.
#[derive(Clone, Copy, Debug)]
pub struct Flooded {
    /// The action of the decision, a flood.
    pub action: u32,
    /// The port that the frame came in by.
    pub ingress: PortNumber,
    /// The network of that port.
    pub network: NetworkNumber,
    /// Flags of that port: [`Port::ISOLATED`], [`Port::SPLIT_HORIZON`] and [`Port::APART`].
    pub flags: u32,
    /// Bytes behind the Ethernet header and tags; 0 for a GSO packet, which passes whole.
    pub length: u32,
    /// 1 if the frame goes into tunnels whatever its length, where their outer packets may be
    /// fragmented.
    pub fragments: u32,
    /// The tag that the frame came with, TPID << 16 | TCI; 0 for none.
    pub tag: u32,
    /// The VLAN of the frame.
    pub vlan: VlanKey,
    /// In [`action::FLOOD_REFLECTED`]: 1 if children that are not [`Port::APART`] get a copy as
    /// well.
    pub all: u16,
    /// In [`action::FLOOD_REFLECTED`]: the child that sent the frame.
    pub except: PortNumber,
    /// The [`PortKind`] of the port that the frame came in by.
    pub kind: u32,
    /// The multicast group, if the flood is for its listeners; else `::`.
    pub group: Address,
}

impl Flooded {
    /// Reads what counts of a frame with this decision, which came in by `port`.
    #[inline(always)]
    pub fn new<P: Packet + ?Sized>(decision: &Decision, frame: &P, port: &Port) -> Self {
        let listeners = matches!(decision.action, action::FLOOD_LISTENERS | action::FLOOD_LISTENERS_EXCEPT_HOST)
            || decision.action == action::FLOOD_HOST && decision.to.way == Delivery::LISTENING;
        let (length, fragments, tag, group) = match Ethernet::parse(frame) {
            Ok(ethernet) => {
                let tag = ethernet.tag.map_or(0, |tag| u32::from(tag.tpid) << 16 | u32::from(tag.tci));
                let group =
                    if listeners { Addresses::read(frame, &ethernet).destination } else { Address::UNSPECIFIED };
                let length = if frame.segment() == 0 { size::of(frame, &ethernet) as u32 } else { 0 };
                (length, u32::from(too_big::may_be_fragmented(frame, &ethernet)), tag, group)
            }
            Err(_) => (0, 0, 0, Address::UNSPECIFIED),
        };
        Self {
            action: decision.action,
            ingress: decision.ingress,
            network: decision.station.network,
            flags: port.flags & (Port::ISOLATED | Port::SPLIT_HORIZON | Port::APART),
            length,
            fragments,
            tag,
            vlan: decision.station.vlan,
            all: u16::from(decision.to.way == Delivery::ALL),
            except: decision.to.port,
            kind: port.kind.into(),
            group,
        }
    }

    /// Returns the same value without the verifier's knowledge of the kind of frame: the walk over
    /// the ports is walked once, not once for each kind (see [`crate::verifier`]).
    #[inline(always)]
    pub fn forgotten<P: Packet + ?Sized>(self, frame: &P) -> Self {
        Self {
            action: frame.forget(self.action),
            length: frame.forget(self.length),
            fragments: frame.forget(self.fragments),
            tag: frame.forget(self.tag),
            all: frame.forget(self.all.into()) as u16,
            group: Address::of_words(self.group.words().map(|word| frame.forget(word))),
            ..self
        }
    }

    /// Returns the copy that a port gets.
    #[inline(always)]
    pub fn copy<T: Tables>(&self, port: &Port, number: PortNumber, tables: &T) -> Copied {
        if number == self.ingress && !port.has(Port::HAIRPIN) || port.is_isolated_from(self.flags) {
            return Copied::No;
        }
        let host = matches!(port.kind(), Some(PortKind::Host));
        let wanted = match self.action {
            action::FLOOD_HOST => self.is_for_host(port, number, tables),
            _ if matches!(port.kind(), Some(PortKind::Child)) => self.is_for_child(port, number),
            // The host's address is always in the FDB, and no unknown stations are behind its port.
            action::FLOOD_UNKNOWN => !host && self.may_have_unknown(port),
            action::FLOOD_EXCEPT_HOST => !host,
            action::FLOOD_ROUTERS => group::has_router(port),
            action::FLOOD_LISTENERS_EXCEPT_HOST if host => false,
            action::FLOOD_LISTENERS | action::FLOOD_LISTENERS_EXCEPT_HOST => {
                group::has_router(port) || tables.listens(&self.listener(number))
            }
            _ => true,
        };
        if !wanted || !vlan::has(port, number, self.vlan, tables) {
            return Copied::No;
        }
        let length = self.length + size::tags(u32::from(self.tag != 0), self.vlan, port);
        if port.mtu != 0 && length > u32::from(port.mtu) && (self.fragments == 0 || !too_big::fragments(port)) {
            return Copied::TooBig;
        }
        let tag = (self.tag != 0).then_some(Tag { tpid: (self.tag >> 16) as u16, tci: self.tag as u16 });
        Copied::Tag(vlan::tag_change(tag, self.vlan, port))
    }

    /// Returns whether a port leads to the host, which gets a copy however much is flooded: the host
    /// port, or the parent of a child that the host reaches.
    #[inline(always)]
    fn is_for_host<T: Tables>(&self, port: &Port, number: PortNumber, tables: &T) -> bool {
        match port.kind() {
            Some(PortKind::Host) => {
                self.group.is_unspecified6() || group::has_router(port) || tables.listens(&self.listener(number))
            }
            Some(PortKind::Parent) => true,
            _ => false,
        }
    }

    /// Returns whether unknown stations may be behind a port. Behind a guarded port that does not
    /// learn is the endpoint alone, which is in the FDB; in a VLAN in which frames leave with a tag
    /// only once it has sent a frame.
    #[inline(always)]
    fn may_have_unknown(&self, port: &Port) -> bool {
        port.flags & (Port::SPOOF_GUARD | Port::LEARN) != Port::SPOOF_GUARD || self.vlan != port.vlan
    }

    /// Returns whether a child gets a copy of a frame from another child, the wire or the host.
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
