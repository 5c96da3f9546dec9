//! A frame in one line.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use vswitch_common::Mac;

/// Describes a frame, as far as it can be parsed.
pub fn summary(frame: &[u8]) -> String {
    let mac = |at: usize| frame.get(at..at + 6).and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()).map(Mac);
    let (Some(destination), Some(source)) = (mac(0), mac(6)) else {
        return format!("{} bytes, not even two addresses", frame.len());
    };
    let mut parts = vec![format!("{source} > {destination}")];
    match LaxSlicedPacket::from_ethernet(frame) {
        Ok(packet) => describe(&packet, frame, &mut parts),
        Err(_) => parts.push("cut off in its Ethernet header".to_owned()),
    }
    parts.push(format!("{} bytes", frame.len()));
    parts.join(", ")
}

fn describe(packet: &LaxSlicedPacket<'_>, frame: &[u8], parts: &mut Vec<String>) {
    for extension in &packet.link_exts {
        if let LaxLinkExtSlice::Vlan(tag) = extension {
            parts.push(format!("VLAN {}", tag.vlan_identifier().value()));
        }
    }
    match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            parts.push(format!("IPv4 {} > {}", header.source_addr(), header.destination_addr()));
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            parts.push(format!("IPv6 {} > {}", header.source_addr(), header.destination_addr()));
        }
        Some(LaxNetSlice::Arp(arp)) => {
            parts.push(speaks(arp.operation().0, arp.sender_protocol_addr(), arp.target_protocol_addr()));
        }
        None => {
            let kind = frame.get(12..14).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
            if let Some(kind) = kind.filter(|_| packet.link_exts.is_empty()) {
                parts.push(format!("type {kind:#06x}"));
            }
        }
    }
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => parts.push(format!("TCP {} > {}", tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => parts.push(format!("UDP {} > {}", udp.source_port(), udp.destination_port())),
        Some(TransportSlice::Icmpv4(icmp)) => parts.push(match icmp.type_u8() {
            8 => "ICMP echo request".to_owned(),
            0 => "ICMP echo reply".to_owned(),
            other => format!("ICMP type {other}"),
        }),
        Some(TransportSlice::Icmpv6(icmp)) => parts.push(match icmp.type_u8() {
            128 => "ICMPv6 echo request".to_owned(),
            129 => "ICMPv6 echo reply".to_owned(),
            133 => "router solicitation".to_owned(),
            134 => "router advertisement".to_owned(),
            135 => "neighbor solicitation".to_owned() + &target(icmp.payload()),
            136 => "neighbor advertisement".to_owned() + &target(icmp.payload()),
            other => format!("ICMPv6 type {other}"),
        }),
        Some(TransportSlice::Igmp(_)) => parts.push("IGMP".to_owned()),
        None => {}
    }
}

fn speaks(operation: u16, sender: &[u8], target: &[u8]) -> String {
    let ipv4 =
        |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map_or_else(|_| "?".to_owned(), |ip| Ipv4Addr::from(ip).to_string());
    match operation {
        1 => format!("ARP: {} asks who has {}", ipv4(sender), ipv4(target)),
        2 => format!("ARP: {} answers {}", ipv4(sender), ipv4(target)),
        other => format!("ARP operation {other}"),
    }
}

fn target(payload: &[u8]) -> String {
    let target = payload.get(..16).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    target.map_or_else(String::new, |target| format!(" of {}", Ipv6Addr::from(target)))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn every_frame_is_summarized_in_one_line() {
        let mut frame = Vec::new();
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let vlan = etherparse::VlanId::try_new(30).expect("small");
        let udp = ethernet.single_vlan(vlan).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(1000, 53);
        udp.write(&mut frame, b"x").expect("in memory");
        let text = "02:00:00:00:00:01 > 02:00:00:00:00:02, VLAN 30, IPv4 10.0.0.1 > 10.0.0.2, UDP 1000 > 53, 47 bytes";
        assert_eq!(summary(&frame), text);
        // A truncated or malformed frame also yields one line.
        for length in 0..frame.len() {
            assert_eq!(summary(&frame[..length]).lines().count(), 1);
        }
        frame[12..14].copy_from_slice(&[0x12, 0x34]);
        assert!(summary(&frame).contains("type 0x1234"), "{}", summary(&frame));
    }
}
