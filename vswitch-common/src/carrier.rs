//! The programs that others call by their tails, and where each is in the table of them.

/// A program that is called by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Carrier {
    /// Carries out floods and answers.
    Carry = 0,
    /// Broadcast and multicast of containers, behind the guards.
    GroupFromContainer = 1,
    /// Broadcast and multicast of the host.
    GroupFromHost = 2,
    /// Broadcast and multicast from the wire.
    GroupFromUplink = 3,
    /// The guards of broadcast and multicast of containers.
    GuardedGroupFromContainer = 4,
    /// Broadcast and multicast of children, behind the guards.
    GroupFromChild = 5,
    /// The guards of broadcast and multicast of children.
    GuardedGroupFromChild = 6,
    /// Broadcast and multicast from a parent.
    GroupFromParent = 7,
    /// Broadcast and multicast from a tunnel.
    GroupFromTunnel = 8,
}

impl Carrier {
    /// All, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Carry,
        Self::GroupFromContainer,
        Self::GroupFromHost,
        Self::GroupFromUplink,
        Self::GuardedGroupFromContainer,
        Self::GroupFromChild,
        Self::GuardedGroupFromChild,
        Self::GroupFromParent,
        Self::GroupFromTunnel,
    ];

    /// Its name in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Carry => "carry",
            Self::GroupFromContainer => "group_from_container",
            Self::GroupFromHost => "group_from_host",
            Self::GroupFromUplink => "group_from_uplink",
            Self::GuardedGroupFromContainer => "guarded_group_from_container",
            Self::GroupFromChild => "group_from_child",
            Self::GuardedGroupFromChild => "guarded_group_from_child",
            Self::GroupFromParent => "group_from_parent",
            Self::GroupFromTunnel => "group_from_tunnel",
        }
    }
}
