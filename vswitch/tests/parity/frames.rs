//! Generated frames: arbitrary ones, and control frames for guards, answers, multicast and VLANs.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use vswitch::datapath::SHORTEST;
use vswitch_common::Mac;
use vswitch_common::packet::address::Address;

use crate::shared::Numbers;

/// Returns the stations of `ports` ports, group and link-local addresses, and unknown stations.
pub fn stations(ports: u8) -> Vec<Mac> {
    let mut stations: Vec<Mac> = (1..=ports).map(|last| Mac([2, 0, 0, 0, 0, last])).collect();
    stations.extend([Mac::ZERO, Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0x33, 0x33, 0, 0, 0, 1])]);
    stations.extend((0..=16).map(|last| Mac([1, 0x80, 0xc2, 0, 0, last])));
    stations.extend((0..8).map(|last| Mac([0x0a, 0, 0, 0, 1, last])));
    stations
}

/// Returns the IP addresses of a port's station: the host number is the place of the port plus 1.
pub fn addresses(network: u32, place: usize) -> (Ipv4Addr, Ipv6Addr) {
    let last = place as u8 + 1;
    let network = network as u8;
    (Ipv4Addr::new(10, network, 0, last), Ipv6Addr::new(0xfd00, network.into(), 0, 0, 0, 0, 0, last.into()))
}

/// Returns an address in the networks' subnets, one of the host, a loopback address or another.
pub fn ipv4(numbers: &mut Numbers) -> [u8; 4] {
    match numbers.below(8) {
        0 => numbers.pick(&[[127, 0, 0, 1], [192, 0, 2, 1], [224, 0, 0, 1], [255; 4], [0; 4]]),
        _ => [10, numbers.pick(&[0, 1, 1, 2, 2, 3, 4]), 0, numbers.pick(&[1, 1, 2, 2, 5, 6, 11, 14, 15, 200])],
    }
}

/// The same for IPv6.
pub fn ipv6(numbers: &mut Numbers) -> [u8; 16] {
    let mut address = [0; 16];
    match numbers.below(8) {
        0 => address[15] = numbers.pick(&[0, 1]),
        1 => (address[0], address[1]) = numbers.pick(&[(0xfe, 0x80), (0xff, 2), (0x20, 1)]),
        3 => address = Address::link_local(Mac([2, 0, 0, 0, 0, numbers.pick(&[1, 2, 6])])).octets(),
        2 => address = Address::mapped(ipv4(numbers)).octets(),
        _ => {
            (address[0], address[3], address[15]) =
                (0xfd, numbers.pick(&[1, 1, 2, 2, 3, 4]), numbers.pick(&[1, 1, 2, 2, 5, 6, 11, 14, 15]));
        }
    }
    address
}

/// Returns an arbitrary frame, damaged in one of three cases.
pub fn random_frame(numbers: &mut Numbers, stations: &[Mac]) -> Vec<u8> {
    let random = Mac(numbers.bytes(6).try_into().expect("six bytes"));
    let mut station = || if numbers.below(10) == 0 { random } else { numbers.pick(stations) };
    let (destination, mut source) = (station(), station());
    if source.is_multicast() {
        source = station();
    }
    let ethernet = PacketBuilder::ethernet2(source.0, destination.0);
    let (from4, to4, from6, to6) = (ipv4(numbers), ipv4(numbers), ipv6(numbers), ipv6(numbers));
    let length = numbers.pick(&[0, 4, 46, 200]);
    let payload = numbers.bytes(length);
    let mut frame = Vec::new();
    let write = match numbers.below(6) {
        0 => ethernet.ipv4(from4, to4, 64).udp(1, 2).write(&mut frame, &payload),
        1 => ethernet.ipv4(from4, to4, 64).tcp(1, 2, 3, 4).write(&mut frame, &payload),
        2 => ethernet.ipv6(from6, to6, 64).tcp(1, 2, 3, 4).write(&mut frame, &payload),
        3 => ethernet.ipv6(from6, to6, 64).udp(1, 2).write(&mut frame, &payload),
        4 => {
            let vlan = etherparse::VlanId::try_new(numbers.below(5) as u16).expect("small");
            ethernet.single_vlan(vlan).ipv4(from4, to4, 9).icmpv4_echo_request(1, 1).write(&mut frame, &payload)
        }
        _ => {
            let (outer, inner) = (numbers.below(4) as u16, numbers.below(4096) as u16);
            let id = |id| etherparse::VlanId::try_new(id).expect("below 4096");
            ethernet.double_vlan(id(outer), id(inner)).ipv6(from6, to6, 9).udp(1, 2).write(&mut frame, &payload)
        }
    };
    write.expect("a frame in memory");
    damage(numbers, &mut frame);
    frame
}

/// Damages one frame in three: changes a byte or the EtherType, cuts it off, or claims extension
/// headers.
pub fn damage(numbers: &mut Numbers, frame: &mut Vec<u8>) {
    match numbers.below(12) {
        0 => {
            let place = numbers.below(frame.len().min(64));
            frame[place] = numbers.next() as u8;
        }
        1 => {
            let types = [[0x81_u8, 0], [0x88, 0xa8], [0x86, 0xdd], [8, 0], [8, 6], [0, 46]];
            frame[12..14].copy_from_slice(&numbers.pick(&types));
        }
        2 => frame.truncate(SHORTEST + numbers.below(frame.len() - SHORTEST)),
        3 if frame.len() > 54 => frame[20] = numbers.pick(&[0, 43, 44, 51, 60, 135]),
        _ => {}
    }
}

/// Returns a control frame: ARP, DHCP, IGMP, MLD or neighbor discovery, mostly from the station at
/// a port.
pub fn control_frame(numbers: &mut Numbers, stations: &[Mac], network: u32, place: usize, own: Mac) -> Vec<u8> {
    let (own4, own6) = addresses(network, place);
    let source = if numbers.below(4) == 0 { numbers.pick(stations) } else { own };
    let group = [
        Mac::BROADCAST,
        Mac([0x33, 0x33, 0xff, 0, 0, 2]),
        Mac([1, 0, 0x5e, 1, 2, 3]),
        Mac([0x33, 0x33, 0, 0, 0, 0x16]),
        Mac([1, 0x80, 0xc2, 0, 0, 0]),
        Mac([1, 0x80, 0xc2, 0, 0, 0xe]),
    ];
    let destination = if numbers.below(4) == 0 { numbers.pick(stations) } else { numbers.pick(&group) };
    let mut frame = [destination.0, source.0].concat();
    for _ in 0..numbers.pick(&[0, 0, 0, 1, 1, 2, 3]) {
        frame.extend(numbers.pick(&[[0x81_u8, 0], [0x81, 0], [0x88, 0xa8]]));
        frame.extend([numbers.pick(&[0_u8, 0xe0]), numbers.pick(&[0_u8, 0, 2, 3, 5])]);
    }
    if numbers.below(12) == 0 {
        frame.extend([0, 60, numbers.pick(&[0xaa, 0x42, 0xe0]), numbers.pick(&[0xaa, 0x42, 0xe0]), 3]);
        frame.extend(numbers.pick(&[[0_u8, 0, 0], [0, 0, 0xf8], [0, 0, 0x0c]]));
        if numbers.below(4) == 0 {
            frame.extend([1, 0x0b]);
        }
    }
    let from4 = if numbers.below(3) == 0 { ipv4(numbers) } else { own4.octets() };
    let from6 = match numbers.below(6) {
        0 => ipv6(numbers),
        1 => Address::link_local(own).octets(),
        2 => [0; 16],
        _ => own6.octets(),
    };
    let (to4, to6) = (ipv4(numbers), ipv6(numbers));
    let named = if numbers.below(4) == 0 { numbers.pick(stations) } else { own };
    let group4 = numbers.pick(&[[239, 1, 2, 3], [224, 0, 0, 251], [224, 0, 1, 1], to4, to4]);
    let mut group6 = to6;
    if numbers.below(2) == 0 {
        group6 = [
            0xff,
            numbers.pick(&[1, 2, 5]),
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            numbers.pick(&[0, 1]),
            numbers.pick(&[0, 0xff]),
            0,
            0,
            1,
        ];
    }
    let packet6 = |next: &[u8], message: &[u8], hops: u8| {
        let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, (next.len() + message.len() - 1) as u8, next[0], hops];
        packet.extend(from6);
        packet.extend(group6);
        packet.extend(&next[1..]);
        packet.extend(message);
        packet
    };
    match numbers.below(8) {
        0 | 1 => {
            frame.extend([8, 6, 0, 1, 8, 0, 6, numbers.pick(&[4, 4, 4, 16]), 0, numbers.pick(&[1, 1, 2])]);
            frame.extend(named.0);
            frame.extend(from4);
            frame.extend([0; 6]);
            frame.extend(to4);
        }
        2 => {
            let (port, to) = numbers.pick(&[(67_u16, 68_u16), (68, 67), (5353, 5353)]);
            frame.extend([
                8,
                0,
                numbers.pick(&[0x45, 0x45, 0x46, 0x41]),
                0,
                0,
                40,
                0,
                0,
                numbers.pick(&[0, 0, 0x20]),
                numbers.pick(&[0, 0, 1]),
                9,
                17,
                0,
                0,
            ]);
            frame.extend(from4);
            frame.extend(group4);
            frame.extend([port.to_be_bytes(), to.to_be_bytes()].concat());
            frame.extend([0; 16]);
        }
        3 => {
            let (header, options): (u8, &[u8]) = numbers.pick(&[(0x45, &[][..]), (0x46, &[0x94, 4, 0, 0])]);
            frame.extend([8, 0, header, 0, 0, 32, 0, 0, 0, 0, 1, 2, 0, 0]);
            frame.extend(from4);
            frame.extend(group4);
            frame.extend(options);
            frame.extend([numbers.pick(&[0x11, 0x12, 0x16, 0x17, 0x22, 0x99]), 0, 0, 0, 239, 1, 2, 3]);
        }
        4 => {
            let mut message = vec![numbers.pick(&[130, 131, 132, 143]), 0, 0, 0];
            message.extend([0; 20]);
            frame.extend(packet6(&[0, 58, 0, 5, 2, 0, 0, 1, 0], &message, 1));
        }
        5 => {
            let (next, port) = numbers.pick(&[(17_u8, 547_u16), (17, 546), (6, 547)]);
            let chain: &[u8] = numbers.pick(&[
                &[][..],
                &[60, 0, 1, 4, 0, 0, 0, 0],
                &[44, 0, 0, 0, 0, 0, 0, 0],
                &[44, 0, 0, 8, 0, 0, 0, 0],
                &[
                    60, 60, 0, 0, 0, 0, 0, 0, 60, 60, 0, 0, 0, 0, 0, 0, 60, 60, 0, 0, 0, 0, 0, 0, 60, 60, 0, 0, 0, 0,
                    0, 0,
                ],
            ]);
            let mut headers = vec![chain.first().copied().unwrap_or(next)];
            if let Some((_, rest)) = chain.split_first() {
                headers.extend([rest, &[0]].concat());
                // The last header of the chain has the number of the transport protocol.
                let last = headers.len() - 8;
                headers[last] = next;
            }
            frame.extend(packet6(&headers, &[&port.to_be_bytes()[..], &[0; 30]].concat(), 64));
        }
        _ => {
            let mut message =
                vec![numbers.pick(&[135, 135, 135, 136, 134, 137, 128]), numbers.pick(&[0, 0, 0, 1]), 0, 0, 0, 0, 0, 0];
            message.extend(if numbers.below(2) == 0 { to6 } else { own6.octets() });
            for _ in 0..numbers.pick(&[0, 1, 1, 2, 3]) {
                message.extend([numbers.pick(&[1, 2, 14]), numbers.pick(&[1, 1, 1, 0])]);
                message.extend(named.0);
            }
            frame.extend(packet6(&[58], &message, numbers.pick(&[255, 255, 64])));
        }
    }
    if numbers.below(12) == 0 {
        frame.truncate(SHORTEST + numbers.below(frame.len() - SHORTEST));
    }
    frame
}
