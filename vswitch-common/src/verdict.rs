//! The result of the core: one verdict for each frame, and the state to update.

pub use crate::drop_reason::DropReason;
use crate::mac::Mac;
use crate::tables::{FdbKey, NetworkNumber, PortKind, PortNumber, VlanKey};

/// What happens to a frame, and which state to update.
///
/// Flat, `repr(C)`, without padding and with every field always set: a traced run of a loaded
/// program writes it to a map as it is, and the verifier finds no unset part of an enum in it.
/// [`Decision::verdict`] and [`Decision::learn`] are the readable views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Decision {
    /// The action, one of the constants of [`action`].
    pub action: u32,
    /// The [`DropReason`] of a drop, and of a frame that only the host gets because its port floods
    /// too much; else 0.
    pub reason: u32,
    /// The receiver of a redirect; the port in whose name an answer is sent; else zeros.
    pub to: Delivery,
    /// The port that the frame came in by; `PortNumber::NONE` if the device is no port.
    pub ingress: PortNumber,
    /// Not 0 if `station` has to be written into the FDB: it is new, has moved, or has not been
    /// refreshed in this tick. [`Decision::ANNOUNCED`] if it moved and announced itself.
    pub learns: u8,
    /// 1 if the daemon gets a copy: a report or query about the listeners of multicast groups.
    pub snoops: u8,
    /// The [`crate::tables::StormClass`] of a flood whose copies count against the port's allowance;
    /// else 0.
    pub storm: u16,
    /// The sender. Only the network is set if the frame was refused before its VLAN was known;
    /// zeros if the device is no port.
    pub station: FdbKey,
}

/// The actions of a [`Decision`]; those of floods are declared with [`Flood`].
pub mod action {
    pub use super::flood_actions::*;

    /// Deferred: XDP passes the frame on to the tcx hook, or a program of guards to the program of
    /// the rest.
    pub const DEFER: u32 = 1;
    /// To the one port in `to`.
    pub const REDIRECT: u32 = 2;
    /// To the network stack of the device that the frame came in by.
    pub const PASS: u32 = 5;
    /// Nowhere, for the reason in `reason`.
    pub const DROP: u32 = 6;
    /// Back to the sender as an ARP reply, in the name of the port in `to`.
    pub const ANSWER_ARP: u32 = 8;
    /// Back to the sender as a neighbor advertisement, in the name of the port in `to`.
    pub const ANSWER_NEIGHBOR: u32 = 9;
    /// Nowhere. The sender gets an ICMP error, because the frame is longer than what the port in
    /// `to`, a tunnel, may send.
    pub const ANSWER_TOO_BIG: u32 = 15;

    /// Returns whether an action is a flood.
    #[inline(always)]
    pub const fn is_flood(action: u32) -> bool {
        super::Flood::of_action(action).is_some()
    }
}

/// Declares each kind of flood once: variant, constant in [`action`], its number, its receivers.
macro_rules! floods {
    ($($variant:ident, $constant:ident = $number:literal, $receivers:literal;)*) => {
        /// A kind of flood, which determines the receivers. The number is the action of the
        /// [`Decision`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Flood {
            $(#[doc = $receivers] $variant = $number,)*
        }

        impl Flood {
            /// Returns the kind of flood that an action is, `None` if it is none.
            #[inline(always)]
            pub const fn of_action(action: u32) -> Option<Self> {
                match action {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        mod flood_actions {
            $(#[doc = $receivers] pub const $constant: u32 = super::Flood::$variant as u32;)*
        }
    };
}

floods! {
    Group, FLOOD_GROUP = 3,
        "Broadcast or multicast: a copy to every other port.";
    UnknownUnicast, FLOOD_UNKNOWN = 4,
        "Unicast to an unknown station: a copy to every other port that may have unknown stations behind it.";
    ExceptHost, FLOOD_EXCEPT_HOST = 7,
        "Broadcast or multicast that the host's stack must not get: a copy to every other port but the host's.";
    Listeners, FLOOD_LISTENERS = 10,
        "Multicast: a copy to every other port that listens to the group or has a multicast router behind it.";
    ListenersExceptHost, FLOOD_LISTENERS_EXCEPT_HOST = 11,
        "The same without the host's port.";
    Routers, FLOOD_ROUTERS = 12,
        "A listener's report: a copy to every other port that has a multicast router behind it.";
    Reflected, FLOOD_REFLECTED = 13,
        "A frame of a child that a switch on the wire sent back: a copy to the children that take such frames, but not to \
         the child in `to`, which sent it.";
    Children, FLOOD_CHILDREN = 14,
        "A frame that the host sends out by a parent to a group: a copy to every child that the host reaches, before the \
         frame goes on.";
    Host, FLOOD_HOST = 16,
        "Broadcast or multicast beyond what the port may flood: a copy to the host alone.";
}

/// The change of a frame's tag when it leaves: the values of [`Delivery::tag`].
pub mod tag {
    /// None.
    pub const KEEP: u8 = 0;
    /// The tag is taken off.
    pub const POP: u8 = 1;
    /// A tag with the frame's VLAN is added.
    pub const PUSH: u8 = 2;
    /// The frame has a tag that carries only a priority. Its VLAN is written into that tag.
    pub const NUMBER: u8 = 3;
}

/// The one port that a frame goes to, with what the kernel needs to deliver it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Delivery {
    /// The port.
    pub port: PortNumber,
    /// The device that the frame leaves by.
    pub ifindex: u32,
    /// The [`PortKind`] of the port, which decides how the frame is delivered.
    pub kind: u8,
    /// 1 if XDP may redirect into the device ([`crate::tables::Port::XDP_EGRESS`]).
    pub xdp: u8,
    /// How the frame is delivered: 0 for the usual way of the kind, or [`Delivery::LOCAL`] and the
    /// like. At most 7, because [`crate::handover::Handover`] has three bits for it.
    pub way: u8,
    /// The change of the frame's tag, one of [`tag`].
    pub tag: u8,
}

/// What happens to a frame, as an enum to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// XDP passes the frame on to the tcx hook.
    Defer,
    /// To one port.
    Redirect(Delivery),
    /// A copy to every other port of the network.
    Flood(Flood),
    /// To the host's stack on the device that the frame came in by: the host's own frame on an
    /// uplink or parent.
    Pass,
    /// Answered in the name of a station behind the other port.
    Answer(Answer, PortNumber),
    /// Nowhere.
    Drop(DropReason),
}

/// What the switch answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An ARP request (RFC 826).
    Arp,
    /// A neighbor solicitation (RFC 4861).
    Neighbor,
    /// A packet that is too big for a tunnel (RFC 1191; RFC 4443, 3.2).
    TooBig,
}

impl Decision {
    /// The value of `learns` for a station that announced itself where it is now.
    pub const ANNOUNCED: u8 = 2;

    /// Returns a decision with this action about a frame from this port. Everything else is zero.
    #[inline(always)]
    pub const fn new(action: u32, ingress: PortNumber) -> Self {
        let to = Delivery { port: PortNumber::NONE, ifindex: 0, kind: 0, xdp: 0, way: 0, tag: tag::KEEP };
        let station = FdbKey { network: NetworkNumber(0), vlan: VlanKey::NONE, mac: Mac::ZERO };
        Self { action, reason: 0, to, ingress, learns: 0, snoops: 0, storm: 0, station }
    }

    /// Returns a decision to drop a frame.
    #[inline(always)]
    pub const fn drop(reason: DropReason, ingress: PortNumber) -> Self {
        Self { reason: reason as u32, ..Self::new(action::DROP, ingress) }
    }

    /// Returns the verdict, `None` if the action or reason is unknown.
    pub fn verdict(&self) -> Option<Verdict> {
        Some(match self.action {
            action::DEFER => Verdict::Defer,
            action::REDIRECT => Verdict::Redirect(self.to),
            action::ANSWER_ARP => Verdict::Answer(Answer::Arp, self.to.port),
            action::ANSWER_NEIGHBOR => Verdict::Answer(Answer::Neighbor, self.to.port),
            action::ANSWER_TOO_BIG => Verdict::Answer(Answer::TooBig, self.to.port),
            action::PASS => Verdict::Pass,
            action::DROP => Verdict::Drop(*DropReason::ALL.get(self.reason as usize)?),
            action => Verdict::Flood(Flood::of_action(action)?),
        })
    }

    /// Returns the station to write into the FDB.
    pub fn learn(&self) -> Option<FdbKey> {
        (self.learns != 0).then_some(self.station)
    }
}

impl Delivery {
    /// Into the host's stack on the device, and not out on the wire.
    pub const LOCAL: u8 = 1;
    /// Out by the device to the next hop of the host's routes.
    pub const ROUTED: u8 = 2;
    /// By a plain redirect into the host-side veth: `redirect_peer` does not work from an egress
    /// hook.
    pub const FRONT: u8 = 3;
    /// In [`action::FLOOD_REFLECTED`] alone: children that are not [`crate::tables::Port::APART`]
    /// get a copy as well, because they have not got one directly.
    pub const ALL: u8 = 4;
    /// In [`action::FLOOD_HOST`] alone: only if the host listens to the group.
    pub const LISTENING: u8 = 5;

    /// Returns the kind of the port.
    #[inline(always)]
    pub const fn kind(&self) -> Option<PortKind> {
        PortKind::from_number(self.kind)
    }
}

const _: () = {
    assert!(size_of::<Delivery>() == 12);
    assert!(size_of::<Decision>() == 40);
};

// SAFETY: repr(C) over integers without padding (sizes asserted above); any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Decision {}
