//! The part of the decision that one program contains.
//!
//! A program is attached to one kind of port and gets some frames only. What cannot occur there is
//! left out of it: the program is faster, and the verifier has less to walk. The compiler does
//! that, because a [`Scope`] consists of constants.

use crate::tables::PortKind;

/// The part of the decision that one program contains.
pub(super) trait Scope {
    /// The kinds of ports that frames come in by. A frame of another port is dropped.
    const PORTS: PortKinds;
    /// Frames of these destinations.
    const CAST: Cast;
    /// These steps of the decision.
    const PHASE: Phase;
    /// Where the program runs.
    const HOOK: Hook;
}

/// A set of kinds of ports.
#[derive(Clone, Copy)]
pub(super) struct PortKinds(u8);

impl PortKinds {
    /// Every kind.
    pub(super) const ALL: Self = Self(u8::MAX);

    /// Returns the set of one kind.
    pub(super) const fn only(kind: PortKind) -> Self {
        Self(1 << kind as u8)
    }

    /// Returns whether a kind is in the set.
    #[inline(always)]
    pub(super) const fn has(self, kind: PortKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Returns whether a kind of port is in the set behind which other machines are.
    #[inline(always)]
    pub(super) const fn has_outside(self) -> bool {
        self.has(PortKind::Uplink) || self.has(PortKind::Parent) || self.has(PortKind::Tunnel)
    }
}

/// Frames by their destination address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cast {
    /// Frames to one station.
    Unicast,
    /// Broadcast and multicast.
    Group,
    /// All frames.
    Any,
}

impl Cast {
    /// Returns whether frames to one station are among them.
    #[inline(always)]
    pub(super) const fn has_unicast(self) -> bool {
        !matches!(self, Self::Group)
    }

    /// Returns whether broadcast and multicast are among them.
    #[inline(always)]
    pub(super) const fn has_group(self) -> bool {
        !matches!(self, Self::Unicast)
    }
}

/// Steps of the decision.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The guards of endpoints, and what comes before them. A frame that passes is deferred to the
    /// program of the rest.
    Guards,
    /// All but the guards, for a frame that has passed them.
    Rest,
    /// All steps.
    Whole,
}

impl Phase {
    /// Returns whether the guards are among the steps.
    #[inline(always)]
    pub(super) const fn has_guards(self) -> bool {
        !matches!(self, Self::Rest)
    }

    /// Returns whether the steps behind the guards are among them.
    #[inline(always)]
    pub(super) const fn has_rest(self) -> bool {
        !matches!(self, Self::Guards)
    }
}

/// Where a program runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// tcx ingress of the port's device.
    Ingress,
    /// XDP of the port's device, which hands frames from device to device and never to the host's
    /// stack.
    Xdp,
    /// tcx egress of a parent, for frames that the host itself sends.
    EgressOfHost,
    /// tcx egress of a parent, for frames that the host forwards for others.
    EgressOfForwarded,
}

impl Hook {
    /// Returns whether the hook is XDP.
    #[inline(always)]
    pub(super) const fn is_xdp(self) -> bool {
        matches!(self, Self::Xdp)
    }

    /// Returns whether the hook has frames that the port's device received.
    #[inline(always)]
    pub(super) const fn is_of_ingress(self) -> bool {
        matches!(self, Self::Ingress | Self::Xdp)
    }
}

/// The whole decision, for a frame that any port received.
pub(super) struct Everything;

impl Scope for Everything {
    const PORTS: PortKinds = PortKinds::ALL;
    const CAST: Cast = Cast::Any;
    const PHASE: Phase = Phase::Whole;
    const HOOK: Hook = Hook::Ingress;
}
