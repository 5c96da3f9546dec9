//! Finds out whether a machine on a wire already has an address. The module sends ARP probes (RFC
//! 5227 section 2.1.1) and the neighbor solicitations of duplicate address detection (RFC 4862
//! section 5.4). Neither creates nor changes a neighbor entry on the receivers.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, PacketBuilder};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use vswitch_common::Mac;
use vswitch_common::packet::arp::{self, Arp};
use vswitch_common::packet::neighbor::{self, kind};
use vswitch_common::packet::{Ethernet, Packet, Tag, ethertype, ipv6, protocol};
use vswitch_common::tables::VlanKey;

use super::packet;

/// Number of probes for each address. More than one is sent because a frame may get lost.
const PROBES: u32 = 2;
/// Hop limit of neighbor discovery packets, which shows that no router forwarded them (RFC 4861
/// section 7.1.1).
const HOP_LIMIT: u8 = 255;
/// Size of the receive buffer in bytes. It holds an advertisement up to the end of its first
/// option.
const BUFFER_SIZE: usize = 128;

/// Interface and VLAN on which to send probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeOn {
    /// Interface index.
    pub index: u32,
    /// MAC address of the interface, used as the sender. Frames from this address are not answers.
    pub mac: Mac,
    /// 802.1Q VLAN id on the wire, 1 to 4094; 0 for untagged frames.
    pub vlan: u16,
}

/// Station that has an address on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The address, one of the probed ones.
    pub address: IpAddr,
    /// MAC address of the station that uses the address.
    pub mac: Mac,
}

/// Error of probing for an address.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The socket on the interface cannot be opened, configured or read.
    #[error("cannot listen for answers to address probes on interface {index}: {source}")]
    Listen {
        /// Interface index.
        index: u32,
        /// Error that the kernel returned.
        source: io::Error,
    },
    /// The probe cannot be sent, for example because the interface is down.
    #[error("cannot send a probe for the address {address} on interface {index}: {source}")]
    Send {
        /// Interface index.
        index: u32,
        /// Address that was to be probed.
        address: IpAddr,
        /// Error that the kernel returned.
        source: io::Error,
    },
}

/// Probes for addresses on an interface. Returns the first station that answers for one of them, or
/// `None` if none answers within `timeout`. Each address is probed twice, half of that time apart.
/// Addresses of this host are not found, because its own frames do not come back to it.
///
/// The socket is opened when the future is first polled, in the namespace of the polling thread.
/// Frames that an XDP program of the interface consumes are not received.
///
/// # Errors
/// The kernel refused the socket or a frame: the interface does not exist or is down.
pub async fn find_holder(on: &ProbeOn, addresses: &[IpAddr], timeout: Duration) -> Result<Option<Holder>, ProbeError> {
    if addresses.is_empty() {
        return Ok(None);
    }
    let listen = |source| ProbeError::Listen { index: on.index, source };
    // SAFETY: the descriptor belongs to the socket, which the `AsyncFd` owns and keeps open.
    let register = |socket| unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    let socket = open(on).and_then(|socket| register(socket).map_err(io::Error::from)).map_err(listen)?;
    for _ in 0..PROBES {
        for address in addresses {
            packet::send_on(socket.get_ref(), on.index, &probe_frame(on, *address))
                .map_err(|source| ProbeError::Send { index: on.index, address: *address, source })?;
        }
        if let Ok(answer) = tokio::time::timeout(timeout / PROBES, wait_for_answer(&socket, on, addresses)).await {
            return answer.map(Some).map_err(listen);
        }
    }
    Ok(None)
}

/// Waits for a frame that answers for one of the addresses.
async fn wait_for_answer(socket: &AsyncFd<OwnedFd>, on: &ProbeOn, addresses: &[IpAddr]) -> io::Result<Holder> {
    let mut buffer = [0; BUFFER_SIZE];
    loop {
        let received = socket.async_io(Interest::READABLE, |socket| receive(socket, &mut buffer)).await?;
        let frame = buffer.get(..received.length).unwrap_or(&buffer);
        if !received.outgoing
            && let Some(holder) = parse_answer(frame, received.tag, on, addresses)
        {
            return Ok(holder);
        }
    }
}

/// Returns the probe frame for an address. Its sender protocol address is unspecified.
fn probe_frame(on: &ProbeOn, address: IpAddr) -> Vec<u8> {
    let ethernet = |destination: Mac| PacketBuilder::ethernet2(on.mac.0, destination.0);
    let mut frame = Vec::new();
    // Writing to memory does not fail, and the frame is far shorter than the maximum of a length
    // field.
    let result = match address {
        IpAddr::V4(target) => {
            let (own, target) = (Ipv4Addr::UNSPECIFIED.octets(), target.octets());
            let (hardware, protocol, request) = (ArpHardwareId::ETHERNET, EtherType::IPV4, ArpOperation::REQUEST);
            let arp = ArpPacket::new(hardware, protocol, request, &on.mac.0, &own, &Mac::ZERO.0, &target);
            let Ok(arp) = arp else { unreachable!("each address has a fixed length") };
            ethernet(Mac::BROADCAST).arp(arp).write(&mut frame)
        }
        IpAddr::V6(target) => {
            let group = packet::solicited_node(target).octets();
            // The source link-layer address option must not be present with an unspecified source
            // (RFC 4861 section 4.3).
            let solicitation = Icmpv6Type::Unknown { type_u8: kind::SOLICITATION, code_u8: 0, bytes5to8: [0; 4] };
            let ip = ethernet(group_mac(group)).ipv6(Ipv6Addr::UNSPECIFIED.octets(), group, HOP_LIMIT);
            ip.icmpv6(solicitation).write(&mut frame, &target.octets())
        }
    };
    if let Err(error) = result {
        unreachable!("a write to memory failed: {error}");
    }
    if on.vlan != 0 {
        frame.splice(12..12, ethertype::VLAN.to_be_bytes().into_iter().chain(on.vlan.to_be_bytes()));
    }
    frame
}

/// Returns the MAC address of an IPv6 multicast group (RFC 2464 section 7).
const fn group_mac(group: [u8; 16]) -> Mac {
    let [.., a, b, c, d] = group;
    Mac([0x33, 0x33, a, b, c, d])
}

/// A received frame whose outermost VLAN tag is stored beside it.
struct Untagged<'a> {
    bytes: &'a [u8],
    tag: Option<Tag>,
}

impl Packet for Untagged<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.read(offset)
    }

    fn offloaded_tag(&self) -> Option<Tag> {
        self.tag
    }

    fn length(&self) -> usize {
        self.bytes.length()
    }
}

/// Returns the station that a frame shows to have one of the addresses. The frame must come from
/// another station than the probing one and be on the same VLAN. Any ARP request or reply whose
/// sender address is the probed address counts, and so does a neighbor advertisement for it.
fn parse_answer(frame: &[u8], tag: Option<Tag>, on: &ProbeOn, addresses: &[IpAddr]) -> Option<Holder> {
    let frame = Untagged { bytes: frame, tag };
    let ethernet = Ethernet::parse(&frame).ok()?;
    if ethernet.source == on.mac || ethernet.double || ethernet.vlan() != VlanKey(on.vlan) {
        return None;
    }
    let holder = match ethernet.ethertype {
        ethertype::ARP => {
            let arp = Arp::parse(&frame, ethernet.payload).ok()?;
            let has_sender = matches!(arp.operation, arp::REQUEST | arp::REPLY);
            has_sender.then_some(Holder { address: arp.sender.into(), mac: arp.sender_mac })
        }
        ethertype::IPV6 => parse_advertisement(&frame, &ethernet),
        _ => None,
    }?;
    addresses.contains(&holder.address).then_some(holder)
}

/// Returns the address and station of a neighbor advertisement. The ICMPv6 header must directly
/// follow the IPv6 header, and the hop limit must show that no router forwarded the packet.
fn parse_advertisement(frame: &Untagged<'_>, ethernet: &Ethernet) -> Option<Holder> {
    let message = ethernet.payload + ipv6::HEADER;
    let [next, hops] = frame.read(ethernet.payload + 6)?;
    let [kind, code] = frame.read(message)?;
    if (next, hops, kind, code) != (protocol::ICMPV6, HOP_LIMIT, kind::ADVERTISEMENT, 0) {
        return None;
    }
    let target: [u8; 16] = frame.read(message + 8)?;
    // The target link-layer address option, if it is the first option (RFC 4861 section 4.4).
    let mac = match frame.read(message + neighbor::LENGTH) {
        Some([2, 1, a, b, c, d, e, f]) => Mac([a, b, c, d, e, f]),
        _ => ethernet.source,
    };
    Some(Holder { address: IpAddr::from(target), mac })
}

/// Opens a socket that receives possible answers on an interface.
fn open(on: &ProbeOn) -> io::Result<OwnedFd> {
    let socket = packet::open()?;
    // An interface without IPv6 does not receive the all-nodes group, to which advertisements are
    // sent. A network card may drop frames of VLANs that are not configured on it, unless it is in
    // promiscuous mode.
    let all_nodes = libc::packet_mreq {
        mr_ifindex: i32::try_from(on.index).map_err(io::Error::other)?,
        mr_type: if on.vlan == 0 { libc::PACKET_MR_MULTICAST } else { libc::PACKET_MR_PROMISC } as u16,
        mr_alen: 6,
        mr_address: [0x33, 0x33, 0, 0, 0, 1, 0, 0],
    };
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &all_nodes)?;
    let yes: libc::c_int = 1;
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &yes)?;
    let mut program = filter();
    let attached = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &attached)?;
    // The socket is bound to all EtherTypes. A socket for one EtherType gets its frames without
    // their tags, and gets no frame that a bridge consumed.
    let address = packet::socket_address(on.index, libc::ETH_P_ALL as u16)?;
    // SAFETY: the address is valid for the length passed with it.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn set_option<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let (value, length) = (&raw const *value, size_of_val(value) as libc::socklen_t);
    // SAFETY: the value is valid for the length passed with it, and the kernel copies it.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.cast(), length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns a classic BPF program that accepts ARP and neighbor advertisements. It runs on frames
/// from which the kernel has removed the tag. Without the filter, other traffic could overflow the
/// socket. Accepted frames are checked again in [`parse_answer`].
fn filter() -> [libc::sock_filter; 9] {
    const ARP: u32 = ethertype::ARP as u32;
    const IPV6: u32 = ethertype::IPV6 as u32;
    const ICMPV6: u32 = protocol::ICMPV6 as u32;
    const ADVERTISEMENT: u32 = kind::ADVERTISEMENT as u32;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load_half = |offset| step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, offset);
    let load_byte = |offset| step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, offset);
    // `yes` and `no` are the numbers of steps to skip if the value is equal or not.
    let jump_if_equal = |value, yes, no| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value);
    let accept = |bytes| step(libc::BPF_RET | libc::BPF_K, 0, 0, bytes);
    [
        load_half(12),
        jump_if_equal(ARP, 5, 0),
        jump_if_equal(IPV6, 0, 5),
        load_byte(20),
        jump_if_equal(ICMPV6, 0, 3),
        load_byte(54),
        jump_if_equal(ADVERTISEMENT, 0, 1),
        accept(u32::MAX),
        accept(0),
    ]
}

/// Metadata of a received frame.
struct Received {
    /// Number of bytes in the buffer.
    length: usize,
    /// VLAN tag that the kernel removed from the frame.
    tag: Option<Tag>,
    /// Whether this host sent the frame.
    outgoing: bool,
}

/// Receives the next frame, cut to the length of the buffer.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: all zeros is a valid value of both structures.
    let (mut sender, mut header): (libc::sockaddr_ll, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    // 64-bit words give the alignment that control messages need.
    let mut control = [0_u64; 16];
    let mut target = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    header.msg_name = (&raw mut sender).cast();
    header.msg_namelen = size_of_val(&sender) as libc::socklen_t;
    header.msg_iov = &raw mut target;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: every pointer in the header is valid for its length and outlives the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(Received { length, tag: vlan_tag(&header), outgoing: sender.sll_pkttype == libc::PACKET_OUTGOING })
}

/// Returns the VLAN tag in the control message of a received frame.
fn vlan_tag(header: &libc::msghdr) -> Option<Tag> {
    // SAFETY: the kernel set the length of the control data, and the CMSG functions stay within it.
    let auxiliary = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const *header);
        let message = first.as_ref()?;
        let is_complete =
            message.cmsg_len as usize >= libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as u32) as usize;
        // PACKET_AUXDATA is the only control message that the socket enables.
        if !is_complete || (message.cmsg_level, message.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
            return None;
        }
        libc::CMSG_DATA(first).cast::<libc::tpacket_auxdata>().read_unaligned()
    };
    let has = |flag| auxiliary.tp_status & flag != 0;
    let tpid = if has(libc::TP_STATUS_VLAN_TPID_VALID) { auxiliary.tp_vlan_tpid } else { ethertype::VLAN };
    has(libc::TP_STATUS_VLAN_VALID).then_some(Tag { tpid, tci: auxiliary.tp_vlan_tci })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vswitch_common::packet::address::Address;
    use vswitch_common::packet::neighbor::Solicitation;

    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const UNTAGGED: ProbeOn = ProbeOn { index: 1, mac: OWN, vlan: 0 };
    const TAGGED: ProbeOn = ProbeOn { vlan: 30, ..UNTAGGED };

    fn addresses() -> [IpAddr; 2] {
        ["10.0.0.7", "fd00::7"].map(|address| address.parse().unwrap())
    }

    fn frame_from(source: Mac, rest: &[u8]) -> Vec<u8> {
        [&OWN.0[..], &source.0, rest].concat()
    }

    /// Returns the answers of a holder with the MAC address `source` to the probes for
    /// [`addresses`].
    fn answers(source: Mac) -> [Vec<u8>; 2] {
        let [four, six] = addresses().map(|address| probe_frame(&UNTAGGED, address));
        let reply = Arp::parse(four.as_slice(), 14).unwrap().reply(source);
        let advertisement = Solicitation::read(six.as_slice(), 14).unwrap().advertisement(source, false);
        [
            frame_from(source, &[&[8, 6], &reply[..]].concat()),
            frame_from(source, &[&[0x86, 0xdd], &advertisement[..]].concat()),
        ]
    }

    #[test]
    fn probes_have_no_sender_address_and_carry_the_vlan_tag() {
        let [four, six] = addresses().map(|address| probe_frame(&TAGGED, address));
        let outer = Ethernet::parse(four.as_slice()).unwrap();
        assert_eq!((outer.source, outer.destination, outer.vlan()), (OWN, Mac::BROADCAST, VlanKey(30)));
        let arp = Arp::parse(four.as_slice(), outer.payload).unwrap();
        assert_eq!((arp.operation, arp.sender_mac, arp.sender), (arp::REQUEST, OWN, Ipv4Addr::UNSPECIFIED));
        assert_eq!((arp.target_mac, IpAddr::V4(arp.target)), (Mac::ZERO, addresses()[0]));
        let outer = Ethernet::parse(six.as_slice()).unwrap();
        assert_eq!((outer.destination, outer.vlan()), (Mac([0x33, 0x33, 0xff, 0, 0, 7]), VlanKey(30)));
        let solicitation = Solicitation::read(six.as_slice(), outer.payload).unwrap();
        assert!(solicitation.source.is_unspecified6());
        assert_eq!(IpAddr::from(solicitation.target.octets()), addresses()[1]);
        assert_eq!(six.len(), 14 + 4 + 40 + neighbor::LENGTH);
        assert_eq!(probe_frame(&UNTAGGED, addresses()[0]).len(), 14 + arp::LENGTH);
    }

    #[test]
    fn a_frame_with_the_address_as_sender_shows_its_holder() {
        for (frame, address) in answers(OTHER).into_iter().zip(addresses()) {
            let holder = Some(Holder { address, mac: OTHER });
            assert_eq!(parse_answer(&frame, None, &UNTAGGED, &addresses()), holder);
            assert_eq!(parse_answer(&frame, None, &UNTAGGED, &["10.0.0.8".parse().unwrap()]), None);
            for length in 0..14 + arp::LENGTH {
                assert_eq!(parse_answer(&frame[..length], None, &UNTAGGED, &addresses()), None, "{length} bytes");
            }
        }
        for (frame, _) in answers(OWN).into_iter().zip(addresses()) {
            assert_eq!(parse_answer(&frame, None, &UNTAGGED, &addresses()), None);
        }
        let [mut arp, mut advertisement] = answers(OTHER);
        // A request with this sender address counts as well; another ARP operation does not.
        arp[21] = 1;
        assert!(parse_answer(&arp, None, &UNTAGGED, &addresses()).is_some());
        arp[21] = 3;
        assert_eq!(parse_answer(&arp, None, &UNTAGGED, &addresses()), None);
        // Without the option, the sender of the frame counts as the holder.
        assert!(
            parse_answer(&advertisement[..78], None, &UNTAGGED, &addresses()).is_some_and(|holder| holder.mac == OTHER)
        );
        for (place, value) in [(20, 17), (21, 254), (54, 135), (55, 1), (62, 0xfe)] {
            let original = mem::replace(&mut advertisement[place], value);
            assert_eq!(parse_answer(&advertisement, None, &UNTAGGED, &addresses()), None, "byte {place}");
            advertisement[place] = original;
        }
    }

    #[test]
    fn probes_of_other_stations_are_not_answers() {
        let other_station = ProbeOn { mac: OTHER, ..UNTAGGED };
        for address in addresses() {
            assert_eq!(parse_answer(&probe_frame(&other_station, address), None, &UNTAGGED, &addresses()), None);
        }
    }

    #[test]
    fn only_frames_of_the_probed_vlan_are_answers() {
        let tag = |tpid, tci| Some(Tag { tpid, tci });
        for frame in answers(OTHER) {
            let is_answer = |on: &ProbeOn, tag| parse_answer(&frame, tag, on, &addresses()).is_some();
            // The priority bits of the tag are ignored.
            assert!(is_answer(&TAGGED, tag(ethertype::VLAN, 0xa01e)));
            assert!(is_answer(&UNTAGGED, tag(ethertype::VLAN, 0xa000)));
            assert!(!is_answer(&UNTAGGED, tag(ethertype::VLAN, 30)));
            assert!(!is_answer(&TAGGED, None));
            assert!(!is_answer(&TAGGED, tag(ethertype::VLAN, 31)));
            assert!(!is_answer(&TAGGED, tag(ethertype::SERVICE_VLAN, 30)));
            let mut twice = frame.clone();
            twice.splice(12..12, [0x81, 0, 0, 30]);
            assert!(parse_answer(&twice, None, &TAGGED, &addresses()).is_some());
            assert_eq!(parse_answer(&twice, tag(ethertype::VLAN, 30), &TAGGED, &addresses()), None);
        }
    }

    #[test]
    fn the_target_link_layer_address_has_precedence_over_the_sender() {
        let target = Address::new(addresses()[1].to_string().parse::<Ipv6Addr>().unwrap().octets());
        let solicitation = Solicitation { source: Address::UNSPECIFIED, target };
        let frame = frame_from(
            Mac([2, 0, 0, 0, 0, 9]),
            &[&[0x86, 0xdd], &solicitation.advertisement(OTHER, true)[..]].concat(),
        );
        let holder = parse_answer(&frame, None, &UNTAGGED, &addresses()).unwrap();
        assert_eq!(holder.mac, OTHER);
    }

    proptest! {
        #[test]
        fn arbitrary_frames_never_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..160), kind in 0..3_usize, tag in any::<Option<(u16, u16)>>(), vlan in 0..4095_u16) {
            let mut frame = bytes;
            // Two of three frames get an EtherType that is parsed further.
            if let (Some(place), Some(ethertype)) = (frame.get_mut(12..14), [[8, 6], [0x86, 0xdd]].get(kind)) {
                place.copy_from_slice(ethertype);
            }
            let tag = tag.map(|(tpid, tci)| Tag { tpid, tci });
            let _ = parse_answer(&frame, tag, &ProbeOn { vlan, ..UNTAGGED }, &addresses());
        }

        #[test]
        fn modified_answers_never_name_another_address(place in 0..86_usize, value in any::<u8>(), length in 0..86_usize) {
            for mut frame in answers(OTHER) {
                if let Some(byte) = frame.get_mut(place) {
                    *byte = value;
                }
                frame.truncate(length);
                let found = parse_answer(&frame, None, &UNTAGGED, &addresses());
                prop_assert!(found.is_none_or(|holder| addresses().contains(&holder.address)));
            }
        }
    }
}
