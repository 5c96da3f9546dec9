//! Frames as an endpoint's own stack would build them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, PacketBuilder};
use vswitch_common::Mac;
use vswitch_common::tables::VlanKey;

use super::error::TraceError;
use crate::kernel::packet::solicited_node;
use crate::model::TraceProtocol;

/// The sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The name of the port.
    pub name: String,
    /// The MAC address.
    pub mac: Mac,
    /// The IP addresses.
    pub ips: Vec<IpAddr>,
}

/// The content of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// The destination MAC address. ARP and neighbor discovery use that of the group for `None`.
    pub destination: Option<Mac>,
    /// The destination IP address.
    pub target: IpAddr,
    /// The protocol.
    pub protocol: TraceProtocol,
    /// The source and destination ports of TCP and UDP.
    pub ports: (u16, u16),
}

/// The EtherType of a frame for a station without a known IP address (IEEE 802, local experimental
/// EtherType 1).
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
/// The hop limit of neighbor discovery (RFC 4861, 7.1.1).
const UNROUTED: u8 = 255;

/// Builds a frame without a protocol, of the least length.
pub fn plain(source: Mac, destination: Mac) -> Vec<u8> {
    let mut frame = [&destination.0[..], &source.0, &EXPERIMENTAL].concat();
    frame.resize(60, 0);
    frame
}

/// Builds the frame with this content.
pub fn frame(sender: &Sender, content: &Content) -> Result<Vec<u8>, TraceError> {
    let Content { target, protocol, ports, .. } = *content;
    let own = sender.ips.iter().find(|ip| ip.is_ipv4() == target.is_ipv4()).copied();
    // The link-local address is for destinations on the link only.
    let near = matches!(target, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast());
    let own = own.or_else(|| near.then(|| IpAddr::V6(link_local(sender.mac))));
    let own = own.ok_or_else(|| TraceError::NoAddress { from: sender.name.clone(), target })?;
    let asked = content.destination;
    let unanswered = || TraceError::NoOwner { address: target };
    let ethernet = |destination: Mac| PacketBuilder::ethernet2(sender.mac.0, destination.0);
    let mut frame = Vec::new();
    // Writing into memory does not fail, and the frame is far shorter than a length field allows.
    let written = match (own, target, protocol) {
        (IpAddr::V4(own), IpAddr::V4(target), TraceProtocol::Arp) => {
            let (own, target) = (own.octets(), target.octets());
            let (hardware, protocol, request) = (ArpHardwareId::ETHERNET, EtherType::IPV4, ArpOperation::REQUEST);
            let arp = ArpPacket::new(hardware, protocol, request, &sender.mac.0, &own, &Mac::ZERO.0, &target);
            let Ok(arp) = arp else { unreachable!("addresses of one length each") };
            ethernet(asked.unwrap_or(Mac::BROADCAST)).arp(arp).write(&mut frame)
        }
        (IpAddr::V6(own), IpAddr::V6(target), TraceProtocol::Arp) => {
            let group = solicited_node(target);
            let (to, to_ip) = match asked {
                Some(mac) => (mac, target),
                None => (group_mac(group.into()).unwrap_or(Mac::BROADCAST), group),
            };
            // RFC 4861, 4.3: the target, and the option with the sender's link-layer address.
            let payload = [&target.octets()[..], &[1, 1], &sender.mac.0].concat();
            let solicitation = Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
            let ip = ethernet(to).ipv6(own.octets(), to_ip.octets(), UNROUTED);
            ip.icmpv6(solicitation).write(&mut frame, &payload)
        }
        (IpAddr::V4(own), IpAddr::V4(target), _) => {
            let ip = ethernet(asked.ok_or_else(unanswered)?).ipv4(own.octets(), target.octets(), 64);
            match protocol {
                TraceProtocol::Tcp => ip.tcp(ports.0, ports.1, 1, 64240).syn().write(&mut frame, &[]),
                TraceProtocol::Udp => ip.udp(ports.0, ports.1).write(&mut frame, b"trace"),
                TraceProtocol::Icmp | TraceProtocol::Arp => ip.icmpv4_echo_request(1, 1).write(&mut frame, b"trace"),
            }
        }
        (IpAddr::V6(own), IpAddr::V6(target), _) => {
            let ip = ethernet(asked.ok_or_else(unanswered)?).ipv6(own.octets(), target.octets(), 64);
            match protocol {
                TraceProtocol::Tcp => ip.tcp(ports.0, ports.1, 1, 64240).syn().write(&mut frame, &[]),
                TraceProtocol::Udp => ip.udp(ports.0, ports.1).write(&mut frame, b"trace"),
                TraceProtocol::Icmp | TraceProtocol::Arp => ip.icmpv6_echo_request(1, 1).write(&mut frame, b"trace"),
            }
        }
        _ => unreachable!("own and target are of one family"),
    };
    match written {
        Ok(()) => Ok(frame),
        Err(error) => unreachable!("a short frame in memory: {error}"),
    }
}

/// Adds a VLAN tag to a frame.
pub fn tagged(mut frame: Vec<u8>, vlan: VlanKey) -> Vec<u8> {
    let tpid: u16 = if vlan.0 & VlanKey::SERVICE == 0 { 0x8100 } else { 0x88a8 };
    let tci = vlan.0 & !VlanKey::SERVICE;
    frame.splice(12..12, tpid.to_be_bytes().into_iter().chain(tci.to_be_bytes()));
    frame
}

/// Parses hex digits. Blanks, colons and line ends between digits are ignored.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b':').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits.chunks_exact(2).map(byte).collect()
}

/// Returns the MAC address of an IP group (RFC 1112, 6.4; RFC 2464, 7); `None` for a unicast
/// address.
pub fn group_mac(address: IpAddr) -> Option<Mac> {
    match address {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(Mac::BROADCAST),
        IpAddr::V4(address) if address.is_multicast() => {
            let [_, b, c, d] = address.octets();
            Some(Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(address) if address.is_multicast() => {
            let [.., a, b, c, d] = address.octets();
            Some(Mac([0x33, 0x33, a, b, c, d]))
        }
        _ => None,
    }
}

/// Returns the link-local address that a MAC address yields (RFC 4291, appendix A).
pub fn link_local(mac: Mac) -> Ipv6Addr {
    vswitch_common::packet::address::Address::link_local(mac).octets().into()
}

#[cfg(test)]
mod tests {
    use vswitch_common::packet::{Ethernet, ethertype, ip_protocol, protocol};

    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);

    fn sender() -> Sender {
        Sender { name: "a".to_owned(), mac: A, ips: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()] }
    }

    fn built(target: &str, destination: Option<Mac>, protocol: TraceProtocol) -> Vec<u8> {
        let content = Content { destination, target: target.parse().unwrap(), protocol, ports: (1000, 53) };
        frame(&sender(), &content).expect("a frame")
    }

    #[test]
    fn frames_carry_the_senders_addresses_and_the_requested_protocol() {
        for (target, protocol, number) in [
            ("10.0.0.3", TraceProtocol::Tcp, protocol::TCP),
            ("10.0.0.3", TraceProtocol::Udp, protocol::UDP),
            ("10.0.0.3", TraceProtocol::Icmp, protocol::ICMP),
            ("fd00::3", TraceProtocol::Tcp, protocol::TCP),
            ("fd00::3", TraceProtocol::Udp, protocol::UDP),
            ("fd00::3", TraceProtocol::Icmp, protocol::ICMPV6),
        ] {
            let frame = built(target, Some(B), protocol);
            let ethernet = Ethernet::parse(frame.as_slice()).expect("a header");
            assert_eq!((ethernet.source, ethernet.destination), (A, B));
            assert_eq!(ip_protocol(frame.as_slice(), &ethernet), Some(number), "{target} {protocol:?}");
        }
    }

    #[test]
    fn arp_and_neighbor_solicitations_are_multicast_or_unicast() {
        let arp = built("10.0.0.3", None, TraceProtocol::Arp);
        assert_eq!((&arp[..6], &arp[12..14], arp[21]), (&[0xff; 6][..], &[8, 6][..], 1));
        assert_eq!((&arp[28..32], &arp[38..42]), (&[10, 0, 0, 2][..], &[10, 0, 0, 3][..]));
        assert_eq!(&built("10.0.0.3", Some(B), TraceProtocol::Arp)[..6], &B.0);
        let solicitation = built("fd00::1:203", None, TraceProtocol::Arp);
        assert_eq!(&solicitation[..6], &[0x33, 0x33, 0xff, 1, 2, 3]);
        assert_eq!((solicitation[20], solicitation[21], solicitation[54]), (58, 255, 135));
    }

    #[test]
    fn a_tag_comes_behind_the_addresses() {
        for (vlan, tag) in [(VlanKey(30), [0x81, 0, 0, 30]), (VlanKey(VlanKey::SERVICE | 8), [0x88, 0xa8, 0, 8])] {
            let frame = tagged(plain(A, B), vlan);
            assert_eq!((&frame[12..16], frame.len()), (&tag[..], 64));
            assert_eq!(Ethernet::parse(frame.as_slice()).expect("a header").vlan(), vlan);
        }
        assert_eq!(Ethernet::parse(plain(A, B).as_slice()).expect("a header").ethertype, 0x88b5);
    }

    #[test]
    fn hex_digits_may_be_separated() {
        assert_eq!(from_hex("02:00 0a\nFf"), Some(vec![2, 0, 10, 255]));
        for bad in ["0", "0g", "+1", "0x02"] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_sender_without_an_address_of_the_family_is_an_error() {
        let mut sender = sender();
        sender.ips.clear();
        let content = Content {
            destination: Some(B),
            target: "10.0.0.3".parse().unwrap(),
            protocol: TraceProtocol::Icmp,
            ports: (1, 1),
        };
        assert!(matches!(frame(&sender, &content), Err(TraceError::NoAddress { .. })));
        let far = Content { target: "fd00::1".parse().unwrap(), ..content };
        assert!(matches!(frame(&sender, &far), Err(TraceError::NoAddress { .. })));
        // An IPv6 link-local address is always there.
        let six = Content { target: "fe80::1".parse().unwrap(), ..content };
        let built = frame(&sender, &six).expect("a frame");
        assert_eq!(built[12..14], ethertype::IPV6.to_be_bytes());
    }
}
