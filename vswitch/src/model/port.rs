//! Rules of a port: what its station may send and receive.

use std::collections::BTreeSet;

/// Rules of a port. The default is a port of a plain learning switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// Drops frames between this port and other isolated ports of its network. Only for endpoint
    /// ports: host ports and uplinks reach every port.
    pub isolated: bool,
    /// Sends frames back out of the port that they arrived on, if their destination is behind it.
    pub hairpin: bool,
    /// Learns the stations behind the port.
    pub learning: bool,
    /// Maximum number of stations learned behind the port.
    pub fdb_limit: u32,
    /// Drops frames whose sender addresses are not the port's own. Only for endpoint ports, like
    /// the next three guards.
    pub spoof_guard: bool,
    /// Drops packets that only routers send.
    pub ra_guard: bool,
    /// Drops messages that only DHCP servers send.
    pub dhcp_guard: bool,
    /// Drops BPDUs.
    pub bpdu_guard: bool,
    /// Answers ARP requests and neighbor solicitations for known addresses instead of flooding
    /// them.
    pub arp_suppress: bool,
    /// Sends multicast frames from this port only to the listeners of their group.
    pub snooping: bool,
    /// A multicast router is behind the port.
    pub router: bool,
    /// Maximum rate of broadcast, multicast and unknown unicast frames, each counted alone, in
    /// frames per second; 0 is no limit.
    pub storm_pps: u32,
    /// Link-local groups that are forwarded: bit n is 01:80:c2:00:00:0n.
    pub group_fwd_mask: u16,
    /// VLAN of untagged frames; 0 is the VLAN of ports without VLANs.
    pub vlan: u16,
    /// VLANs whose frames are sent and received with a tag.
    pub trunk: Trunk,
    /// Rules of a child port or a parent port; the default for every other port.
    pub parent: ParentRules,
    /// Drops frames between this port and tunnels. Only for the host port of an overlay network.
    pub split_horizon: bool,
}

impl Default for PortRules {
    fn default() -> Self {
        Self {
            isolated: false,
            hairpin: false,
            learning: true,
            fdb_limit: u32::MAX,
            spoof_guard: false,
            ra_guard: false,
            dhcp_guard: false,
            bpdu_guard: false,
            arp_suppress: false,
            snooping: false,
            router: false,
            storm_pps: 0,
            group_fwd_mask: 0,
            vlan: 0,
            trunk: Trunk::None,
            parent: ParentRules::default(),
            split_horizon: false,
        }
    }
}

/// VLANs of a trunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trunk {
    /// No trunk: tagged frames are dropped, except frames with a priority tag.
    #[default]
    None,
    /// The listed VLANs, 1 to 4094.
    Vlans(BTreeSet<u16>),
    /// All VLANs, and service tags.
    All,
}

/// Rules of a child port of a macvlan or ipvlan network. On the parent's own port: what any of its
/// children needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParentRules {
    /// Drops frames between this child and other children of the parent, unless they arrive from
    /// the wire.
    pub apart: bool,
    /// Accepts frames of other children that a switch on the wire sends back.
    pub reflected: bool,
    /// Finds the child by its IP addresses, not by its MAC address.
    pub by_address: bool,
    /// Passes only unicast IP packets, whose next hop the host finds.
    pub routed: bool,
    /// Passes packets through the host's network stack.
    pub stack: bool,
    /// The host and the child reach each other.
    pub host_access: bool,
    /// The child is the only one on its parent.
    pub passthru: bool,
}
