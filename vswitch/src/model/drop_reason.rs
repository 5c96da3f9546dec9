//! Drop reasons in words.

use vswitch_common::verdict::DropReason;

/// What is wrong with a frame that was dropped for this reason; the end of a sentence that begins with "the frame is".
pub const fn explanation(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Truncated => {
            "shorter than its Ethernet header or VLAN tag, or, on its way to or from the host, than its IP addresses, or \
             behind more tags than two"
        }
        DropReason::SourceMulticast => {
            "from an address with the group bit set, which no station has (IEEE 802.3, 3.2.3)"
        }
        DropReason::SourceZero => "from an address of all zeros, which no station has",
        DropReason::LinkLocal => {
            "for 01:80:c2:00:00:00 to 0f, which stay on their link (group_fwd_mask lets them through)"
        }
        DropReason::SourceSpoofed => {
            "from an address that belongs to somebody behind another port: forged, or our own coming back"
        }
        DropReason::SamePort => "for a station on the segment that it came from",
        DropReason::UnknownPort => {
            "from a device that is no port of the switch: it is being attached or detached at this moment"
        }
        DropReason::DeliveryFailed => "for a port that is gone or down, or the kernel had no memory for it",
        DropReason::DestinationZero => "for an address of all zeros, which no station has",
        DropReason::Isolated => {
            "from one isolated endpoint to another, straight or by way of the host (icc=false), or from a tunnel to the host"
        }
        DropReason::OtherNetwork => "an IP packet that the host would route from one network into another",
        DropReason::Internal => "an IP packet into or out of an internal network",
        DropReason::Martian => "with a loopback address on its way to the host's stack (RFC 1122, 3.2.1.3)",
        DropReason::IpSpoofed => "an IP packet under an address that is not the endpoint's own (spoof_guard)",
        DropReason::ArpSpoofed => "an ARP packet that speaks for somebody else (spoof_guard)",
        DropReason::NeighborSpoofed => {
            "a neighbor solicitation or advertisement that speaks for somebody else (spoof_guard)"
        }
        DropReason::RouterAdvertisement => {
            "a router advertisement, a redirect or a multicast query, which routers alone send"
        }
        DropReason::DhcpServer => "a DHCP server's answer, which endpoints do not send",
        DropReason::Bpdu => "a BPDU, which endpoints do not send",
        DropReason::VlanNotAllowed => "of a VLAN that the port is not in",
        DropReason::Storm => "beyond what the port may flood in a second (storm_pps)",
        DropReason::StationHeld => "from a station that moved too often and is held at another port for some seconds",
        DropReason::HeaderChain => {
            "an IPv6 packet that hides its transport header behind more extension headers than are followed"
        }
        DropReason::SnapEncapsulated => "IP or ARP behind an LLC and SNAP header, as nobody sends it on Ethernet",
        DropReason::ParentGone => "from an endpoint whose parent interface is not there",
        DropReason::HostAccess => "from an endpoint to the host itself, which the network has no host_access to",
        DropReason::NotRouted => "broadcast, multicast or not IP, from an endpoint of an l3 network",
        DropReason::UnknownVni => "out of a tunnel, of a VNI that no network here has",
        DropReason::UnknownPeer => "out of a tunnel, from a host that is no peer (`vswitch peer ls` shows them)",
        DropReason::VxlanHeader => {
            "a tunnel's, with reserved bits in its VXLAN header, without the flag that it has to have, or cut off (RFC 7348, 5)"
        }
        DropReason::TooBig => "longer than the port that it is for may send",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_in_its_own_words() {
        let texts: std::collections::HashSet<_> = DropReason::ALL.into_iter().map(explanation).collect();
        assert_eq!(texts.len(), DropReason::ALL.len());
        assert!(texts.iter().all(|text| text.len() > 20 && !text.ends_with('.') && !text.contains("  ")));
    }
}
