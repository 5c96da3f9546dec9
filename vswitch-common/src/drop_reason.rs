//! Why frames are dropped: number, name and explanation of each reason, declared once.

/// Declares each drop reason once: number, name, explanation. The explanation ends a sentence that
/// begins with "The frame is"; documentation that users need not read goes in front.
macro_rules! drop_reasons {
    ($($(#[$more:meta])* $variant:ident = $number:literal, $name:literal, $explanation:literal;)*) => {
        /// Why a frame was dropped. The number is an index into
        /// [`crate::tables::PortCounters::drops`], in maps that outlive the daemon: numbers and
        /// names never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(
                #[doc = concat!("The frame is ", $explanation, ".")]
                $(#[$more])*
                $variant = $number,
            )*
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$variant),*];

            /// Returns the name in `stats`, `monitor` and the metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Returns what is wrong with the frame: the end of a sentence that begins with "The
            /// frame is".
            pub const fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => $explanation,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// From an endpoint with guards also: shorter than the headers that the guards read.
    Truncated = 0, "truncated",
        "shorter than its Ethernet header or VLAN tag, or, to or from the host, than its IP addresses, or behind more than \
         two VLAN tags";
    SourceMulticast = 1, "source_multicast",
        "from an address with the group bit set, which no station has (IEEE 802.3, 3.2.3)";
    SourceZero = 2, "source_zero",
        "from an address of all zeros, which no station has";
    LinkLocal = 3, "link_local",
        "for 01:80:c2:00:00:00 to 0f, which stay on their link (group_fwd_mask lets them through)";
    SourceSpoofed = 4, "source_spoofed",
        "from an address that belongs to a station behind another port: forged, or a frame of this switch that came back";
    SamePort = 5, "same_port",
        "for a station on the segment that it came from";
    UnknownPort = 6, "unknown_port",
        "from a device that is no port of the switch: the port is being attached or detached at this moment";
    DeliveryFailed = 7, "delivery_failed",
        "for a port that is gone or down, or the kernel had no memory for the copy";
    DestinationZero = 8, "destination_zero",
        "for an address of all zeros, which no station has";
    Isolated = 9, "isolated",
        "from one isolated endpoint to another, directly or by way of the host (icc=false), or from a tunnel to the host";
    OtherNetwork = 10, "other_network",
        "an IP packet that the host would route from one network into another";
    Internal = 11, "internal",
        "an IP packet into or out of an internal network";
    /// RFC 1122, 3.2.1.3 (g); RFC 4291, 2.5.3.
    Martian = 12, "martian",
        "with a loopback address on its way to the host's stack (RFC 1122, 3.2.1.3)";
    IpSpoofed = 13, "ip_spoofed",
        "an IP packet from an address that is not the endpoint's own (spoof_guard)";
    ArpSpoofed = 14, "arp_spoofed",
        "an ARP packet in the name of another station: from an endpoint (spoof_guard), or from outside in the name of an \
         endpoint or the gateway";
    NeighborSpoofed = 15, "neighbor_spoofed",
        "neighbor discovery in the name of another station: from an endpoint (spoof_guard), or from outside in the name of \
         an endpoint or the gateway";
    RouterAdvertisement = 16, "router_advertisement",
        "a router advertisement, a redirect or a multicast query, which only routers send";
    DhcpServer = 17, "dhcp_server",
        "a DHCP server's answer, which endpoints do not send";
    /// To any address.
    Bpdu = 18, "bpdu",
        "a BPDU, which endpoints do not send";
    VlanNotAllowed = 19, "vlan_not_allowed",
        "of a VLAN that the port is not in";
    /// Broadcast, multicast or unknown unicast.
    Storm = 20, "storm",
        "beyond what the port may flood in a second (storm_pps)";
    StationHeld = 21, "station_held",
        "from a station that moved too often and is held at another port for some seconds";
    TooBig = 22, "too_big",
        "longer than the port that it is for may send";
    /// From an endpoint with guards (RFC 7113, 3), or neighbor discovery from outside.
    HeaderChain = 23, "header_chain",
        "an IPv6 packet whose transport header is not in it, or behind more extension headers than are followed";
    SnapEncapsulated = 24, "snap_encapsulated",
        "IP or ARP behind an LLC and SNAP header, which Ethernet stations do not send";
    ParentGone = 25, "parent_gone",
        "from an endpoint whose parent interface does not exist";
    /// From an endpoint of a macvlan or ipvlan network.
    HostAccess = 26, "host_access",
        "from an endpoint to the host itself, in a network without host_access";
    NotRouted = 27, "not_routed",
        "broadcast, multicast or not IP, from an endpoint of an l3 network";
    UnknownVni = 28, "unknown_vni",
        "out of a tunnel, with a VNI that no network here has";
    UnknownPeer = 29, "unknown_peer",
        "out of a tunnel, from a host that is no peer (`vswitch peer ls` shows the peers)";
    /// The length in the UDP header counts, and an inner frame has at least an Ethernet header.
    VxlanHeader = 30, "vxlan_header",
        "a tunnel's, with reserved bits set in its VXLAN header, without the flag of a valid VNI, or cut off (RFC 7348, 5)";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_are_in_order_and_names_are_unique() {
        let mut names = HashSet::new();
        for (number, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert!(names.insert(reason.name()), "{}", reason.name());
        }
        assert!(DropReason::ALL.len() <= crate::tables::DROP_REASONS);
    }

    #[test]
    fn every_reason_has_an_explanation_of_its_own() {
        let texts: HashSet<_> = DropReason::ALL.into_iter().map(DropReason::explanation).collect();
        assert_eq!(texts.len(), DropReason::ALL.len());
        assert!(texts.iter().all(|text| text.len() > 20 && !text.ends_with('.') && !text.contains("  ")));
    }
}
