//! A one-line summary of a frame in the style of tcpdump.

use std::fmt::{Display, Write as _};
use std::net::{IpAddr, Ipv4Addr};

use etherparse::{
    ArpOperation, ArpPacketSlice, EtherType, Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, IgmpSlice, IpNumber,
    LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice, TcpSlice, TransportSlice,
};
use vswitch_common::Mac;

/// Formats the addresses, VLANs, protocol, ports and length of a frame. `bytes` is the start of the
/// frame.
pub(super) fn summary(bytes: &[u8], length: u32, segment: Option<u32>) -> String {
    let mut text = match LaxSlicedPacket::from_ethernet(bytes) {
        Ok(packet) => contents(&packet),
        Err(_) => "too short for a header".to_owned(),
    };
    let _ = write!(text, ", length {length}");
    if let Some(segment) = segment {
        let _ = write!(text, " in segments of {segment}");
    }
    text
}

fn contents(packet: &LaxSlicedPacket<'_>) -> String {
    let mut text = String::new();
    let mut ether_type = EtherType(0);
    if let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link {
        ether_type = ethernet.ether_type();
        let _ = write!(text, "{} > {}, ", Mac(ethernet.source()), Mac(ethernet.destination()));
    }
    for extension in &packet.link_exts {
        match extension {
            LaxLinkExtSlice::Vlan(vlan) => {
                let service = ether_type != EtherType::VLAN_TAGGED_FRAME;
                let _ = write!(text, "vlan {}{}", if service { "s" } else { "" }, vlan.vlan_identifier().value());
                match vlan.priority_code_point().value() {
                    0 => text.push_str(", "),
                    priority => {
                        let _ = write!(text, " p{priority}, ");
                    }
                }
                ether_type = vlan.ether_type();
            }
            LaxLinkExtSlice::Macsec(_) => text.push_str("macsec, "),
        }
    }
    text + &match &packet.net {
        Some(LaxNetSlice::Arp(arp)) => self::arp(arp),
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr().into(), header.destination_addr().into());
            internet("IPv4", from, to, &packet.transport, ip.payload().ip_number, ip.payload().fragmented)
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr().into(), header.destination_addr().into());
            internet("IPv6", from, to, &packet.transport, ip.payload().ip_number, ip.payload().fragmented)
        }
        // An EtherType below 1536 is a length (IEEE 802.3, 3.2.6).
        None if ether_type.0 < 0x600 => "802.3".to_owned(),
        None => match ether_type {
            EtherType::IPV4 => "IPv4, cut short".to_owned(),
            EtherType::IPV6 => "IPv6, cut short".to_owned(),
            EtherType::ARP => "ARP, cut short".to_owned(),
            other => format!("ethertype {:#06x}", other.0),
        },
    }
}

fn arp(arp: &ArpPacketSlice<'_>) -> String {
    let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
    let mac = <[u8; 6]>::try_from(arp.sender_hw_addr()).ok().map(Mac);
    match (arp.operation(), address(arp.sender_protocol_addr()), address(arp.target_protocol_addr()), mac) {
        (ArpOperation::REQUEST, Some(sender), Some(target), _) if sender == target => {
            format!("ARP announcement of {target}")
        }
        (ArpOperation::REQUEST, Some(sender), Some(target), _) => format!("ARP who has {target} tell {sender}"),
        (ArpOperation::REPLY, Some(sender), _, Some(mac)) => format!("ARP {sender} is at {mac}"),
        (operation, ..) => format!("ARP operation {}", operation.0),
    }
}

fn internet(
    version: &str,
    from: IpAddr,
    to: IpAddr,
    transport: &Option<TransportSlice<'_>>,
    protocol: IpNumber,
    fragmented: bool,
) -> String {
    let without_ports = |content: &dyn Display| format!("{version} {from} > {to}: {content}");
    let with_ports = |source: u16, destination: u16, content: &dyn Display| {
        format!("{version} {from}.{source} > {to}.{destination}: {content}")
    };
    match transport {
        Some(TransportSlice::Tcp(tcp)) => with_ports(tcp.source_port(), tcp.destination_port(), &flags(tcp)),
        Some(TransportSlice::Udp(udp)) => with_ports(udp.source_port(), udp.destination_port(), &"UDP"),
        Some(TransportSlice::Icmpv4(icmp)) => without_ports(&icmp4(icmp)),
        Some(TransportSlice::Icmpv6(icmp)) => without_ports(&icmp6(icmp)),
        Some(TransportSlice::Igmp(igmp)) => without_ports(&self::igmp(igmp)),
        None => {
            let name = protocol.keyword_str().map_or_else(|| format!("protocol {}", protocol.0), str::to_owned);
            without_ports(&format!("{name}{}", if fragmented { " fragment" } else { "" }))
        }
    }
}

/// Formats TCP flags as tcpdump does.
fn flags(tcp: &TcpSlice<'_>) -> String {
    let flags = [
        (tcp.syn(), 'S'),
        (tcp.fin(), 'F'),
        (tcp.rst(), 'R'),
        (tcp.psh(), 'P'),
        (tcp.urg(), 'U'),
        (tcp.ece(), 'E'),
        (tcp.cwr(), 'W'),
        (tcp.ack(), '.'),
    ];
    let set: String = flags.into_iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
    format!("TCP [{}]", if set.is_empty() { "none" } else { &set })
}

fn icmp4(icmp: &Icmpv4Slice<'_>) -> String {
    match icmp.icmp_type() {
        Icmpv4Type::EchoRequest(echo) => format!("ICMP echo request {} seq {}", echo.id, echo.seq),
        Icmpv4Type::EchoReply(echo) => format!("ICMP echo reply {} seq {}", echo.id, echo.seq),
        Icmpv4Type::DestinationUnreachable(_) => format!("ICMP unreachable, code {}", icmp.code_u8()),
        Icmpv4Type::Redirect(_) => "ICMP redirect".to_owned(),
        Icmpv4Type::TimeExceeded(_) => "ICMP time exceeded".to_owned(),
        _ => format!("ICMP type {} code {}", icmp.type_u8(), icmp.code_u8()),
    }
}

fn icmp6(icmp: &Icmpv6Slice<'_>) -> String {
    match icmp.icmp_type() {
        Icmpv6Type::EchoRequest(echo) => format!("ICMPv6 echo request {} seq {}", echo.id, echo.seq),
        Icmpv6Type::EchoReply(echo) => format!("ICMPv6 echo reply {} seq {}", echo.id, echo.seq),
        Icmpv6Type::NeighborSolicitation => format!("neighbor solicitation{}", target(icmp)),
        Icmpv6Type::NeighborAdvertisement(_) => format!("neighbor advertisement{}", target(icmp)),
        Icmpv6Type::RouterSolicitation => "router solicitation".to_owned(),
        Icmpv6Type::RouterAdvertisement(_) => "router advertisement".to_owned(),
        Icmpv6Type::Redirect => "ICMPv6 redirect".to_owned(),
        Icmpv6Type::PacketTooBig { mtu } => format!("ICMPv6 too big, MTU {mtu}"),
        Icmpv6Type::DestinationUnreachable(_) => format!("ICMPv6 unreachable, code {}", icmp.code_u8()),
        Icmpv6Type::TimeExceeded(_) => "ICMPv6 time exceeded".to_owned(),
        _ => match icmp.type_u8() {
            130 => "MLD query".to_owned(),
            131 => "MLD report".to_owned(),
            132 => "MLD done".to_owned(),
            143 => "MLDv2 report".to_owned(),
            other => format!("ICMPv6 type {other} code {}", icmp.code_u8()),
        },
    }
}

/// Formats the target of a neighbor message, which follows the first eight bytes (RFC 4861, 4.3 and
/// 4.4).
fn target(icmp: &Icmpv6Slice<'_>) -> String {
    let bytes = icmp.slice().get(8..24).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    bytes.map_or_else(String::new, |bytes| format!(" of {}", std::net::Ipv6Addr::from(bytes)))
}

fn igmp(igmp: &IgmpSlice<'_>) -> String {
    let group = Ipv4Addr::from(igmp.bytes4to7());
    match igmp.type_u8() {
        0x11 if group.is_unspecified() => "IGMP query".to_owned(),
        0x11 => format!("IGMP query for {group}"),
        0x12 => format!("IGMPv1 report of {group}"),
        0x16 => format!("IGMPv2 report of {group}"),
        0x17 => format!("IGMP leave of {group}"),
        0x22 => "IGMPv3 report".to_owned(),
        other => format!("IGMP type {other:#04x}"),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpHardwareId, ArpPacket, PacketBuilder};

    use super::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const MACS: &str = "02:00:00:00:00:01 > 02:00:00:00:00:02";

    fn whole(bytes: &[u8]) -> String {
        let text = summary(bytes, bytes.len() as u32, None);
        let rest = text.strip_prefix(MACS).and_then(|rest| rest.strip_prefix(", "));
        rest.unwrap_or_else(|| panic!("{text}")).to_owned()
    }

    macro_rules! built {
        ($builder:expr, $payload:expr) => {{
            let mut bytes = Vec::new();
            $builder.write(&mut bytes, $payload).expect("to memory");
            bytes
        }};
    }

    #[test]
    fn summary_has_protocol_addresses_and_ports() {
        let ethernet = || PacketBuilder::ethernet2(A, B);
        let ipv4 = || ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let ipv6 = || ethernet().ipv6([0xfd; 16], [0xfe; 16], 64);
        let udp = built!(ipv4().udp(53, 40_000), &[0; 10]);
        assert_eq!(whole(&udp), "IPv4 10.0.0.1.53 > 10.0.0.2.40000: UDP, length 52");
        let tcp = built!(ipv4().tcp(80, 4000, 1, 1).syn().ack(9), &[]);
        assert_eq!(whole(&tcp), "IPv4 10.0.0.1.80 > 10.0.0.2.4000: TCP [S.], length 54");
        let ping = built!(ipv4().icmpv4_echo_request(7, 1), &[0; 56]);
        assert_eq!(whole(&ping), "IPv4 10.0.0.1 > 10.0.0.2: ICMP echo request 7 seq 1, length 98");
        let ping = built!(ipv6().icmpv6_echo_reply(7, 2), &[]);
        let text = whole(&ping);
        assert!(text.starts_with("IPv6 fdfd:fdfd:") && text.contains(": ICMPv6 echo reply 7 seq 2"), "{text}");
        let target = [vec![0; 4], vec![0xfc; 16]].concat();
        let solicitation = built!(ipv6().icmpv6_raw(135, 0, [0; 4]), &target[4..]);
        let text = whole(&solicitation);
        assert!(text.contains(": neighbor solicitation of fcfc:fcfc:"), "{text}");
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation::REQUEST,
            &A,
            &[10, 0, 0, 1],
            &[0; 6],
            &[10, 0, 0, 2],
        );
        let mut bytes = Vec::new();
        ethernet().arp(arp.expect("a request")).write(&mut bytes).expect("to memory");
        assert_eq!(whole(&bytes), "ARP who has 10.0.0.2 tell 10.0.0.1, length 42");
    }

    #[test]
    fn vlans_are_shown_outermost_first() {
        let tagged = |rest: &[u8]| whole(&[&B[..], &A, rest].concat());
        assert_eq!(tagged(&[0x81, 0, 0, 30, 0x88, 0xb5, 0, 0]), "vlan 30, ethertype 0x88b5, length 20");
        let two = [0x88, 0xa8, 0, 7, 0x81, 0, 0x60, 30, 0x88, 0xb5];
        assert_eq!(tagged(&two), "vlan s7, vlan 30 p3, ethertype 0x88b5, length 22");
    }

    #[test]
    fn truncated_and_malformed_frames_are_shown() {
        assert_eq!(summary(&[1, 2, 3], 3, None), "too short for a header, length 3");
        let udp = built!(PacketBuilder::ethernet2(A, B).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2), &[0; 1000]);
        let text = summary(&udp[..192], 1042, Some(500));
        assert_eq!(text, format!("{MACS}, IPv4 10.0.0.1.1 > 10.0.0.2.2: UDP, length 1042 in segments of 500"));
        for cut in 0..udp.len().min(60) {
            assert!(summary(&udp[..cut], cut as u32, None).ends_with(&format!("length {cut}")), "{cut}");
        }
        assert_eq!(whole(&udp[..20]), "IPv4, cut short, length 20");
        assert_eq!(whole(&[&B[..], &A, &[0, 38, 0x42, 0x42, 3]].concat()), "802.3, length 17");
    }
}
