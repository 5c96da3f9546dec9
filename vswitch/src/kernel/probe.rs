//! Whether a machine on a wire has an address already: asked by ARP probes (RFC 5227, 2.1.1) and by the solicitations of
//! duplicate address detection (RFC 4862, 5.4), which nobody learns anything from.

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

/// How often each address is asked for: a frame may get lost.
const PROBES: u32 = 2;
/// Hop limit of neighbor discovery (RFC 4861, 7.1.1).
const UNROUTED: u8 = 255;
/// Bytes of a frame that are looked at: an advertisement with its first option ends before.
const LOOKED_AT: usize = 128;

/// Where to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeOn {
    /// The interface, by its number.
    pub index: u32,
    /// The station that asks, the interface's own address: what it sends is no answer.
    pub mac: Mac,
    /// The 802.1Q VLAN on the interface's wire, 1 to 4094; 0 for untagged frames.
    pub vlan: u16,
}

/// Who has an address on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The address, one of those asked for.
    pub address: IpAddr,
    /// Whose station says that it has it.
    pub mac: Mac,
}

/// It could not be found out who has an address.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No socket on the interface, or none that hears what it has to.
    #[error("cannot listen on interface {index} for who has an address: {source}")]
    Listen {
        /// The interface.
        index: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The question could not be sent: the interface is not up, for one.
    #[error("cannot ask on interface {index} who has {address}: {source}")]
    Ask {
        /// The interface.
        index: u32,
        /// The address in question.
        address: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Asks on an interface of the calling thread's namespace whether some machine has one of these addresses; returns the
/// first that says so, or `None` where nobody has within `patience`. Each address is asked for twice, half of that time
/// apart. This host's own addresses are not found: its frames do not come back to it.
///
/// The socket is made when the future is first polled, in the namespace of the thread that does. Frames that an XDP
/// program of the interface takes are not heard.
///
/// # Errors
/// What the kernel refused: there is no such interface or it is not up.
pub async fn holder(on: &ProbeOn, addresses: &[IpAddr], patience: Duration) -> Result<Option<Holder>, ProbeError> {
    if addresses.is_empty() {
        return Ok(None);
    }
    let listen = |source| ProbeError::Listen { index: on.index, source };
    // SAFETY: the descriptor is the socket's own, and stays open and the same for as long as this has the socket.
    let register = |socket| unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    let socket = open(on).and_then(|socket| register(socket).map_err(io::Error::from)).map_err(listen)?;
    for _ in 0..PROBES {
        for address in addresses {
            packet::send_by(socket.get_ref(), on.index, &probe(on, *address)).map_err(|source| ProbeError::Ask {
                index: on.index,
                address: *address,
                source,
            })?;
        }
        if let Ok(heard) = tokio::time::timeout(patience / PROBES, hear(&socket, on, addresses)).await {
            return heard.map(Some).map_err(listen);
        }
    }
    Ok(None)
}

/// Waits for an answer.
async fn hear(socket: &AsyncFd<OwnedFd>, on: &ProbeOn, addresses: &[IpAddr]) -> io::Result<Holder> {
    let mut buffer = [0; LOOKED_AT];
    loop {
        let received = socket.async_io(Interest::READABLE, |socket| receive(socket, &mut buffer)).await?;
        let frame = buffer.get(..received.length).unwrap_or(&buffer);
        if !received.outgoing
            && let Some(holder) = answer(frame, received.tag, on, addresses)
        {
            return Ok(holder);
        }
    }
}

/// The question whether somebody has an address, from a station that has none.
fn probe(on: &ProbeOn, address: IpAddr) -> Vec<u8> {
    let ethernet = |destination: Mac| PacketBuilder::ethernet2(on.mac.0, destination.0);
    let mut frame = Vec::new();
    // Writing into memory does not fail, and what is written is far shorter than a length field can say.
    let written = match address {
        IpAddr::V4(target) => {
            let (own, target) = (Ipv4Addr::UNSPECIFIED.octets(), target.octets());
            let (hardware, protocol, request) = (ArpHardwareId::ETHERNET, EtherType::IPV4, ArpOperation::REQUEST);
            let arp = ArpPacket::new(hardware, protocol, request, &on.mac.0, &own, &Mac::ZERO.0, &target);
            let Ok(arp) = arp else { unreachable!("addresses of one length each") };
            ethernet(Mac::BROADCAST).arp(arp).write(&mut frame)
        }
        IpAddr::V6(target) => {
            let group = packet::solicited(target).octets();
            // Without the option of the sender's link-layer address, as it has no address (RFC 4861, 4.3).
            let solicitation = Icmpv6Type::Unknown { type_u8: kind::SOLICITATION, code_u8: 0, bytes5to8: [0; 4] };
            let ip = ethernet(group_mac(group)).ipv6(Ipv6Addr::UNSPECIFIED.octets(), group, UNROUTED);
            ip.icmpv6(solicitation).write(&mut frame, &target.octets())
        }
    };
    if let Err(error) = written {
        unreachable!("a short frame in memory: {error}");
    }
    if on.vlan != 0 {
        frame.splice(12..12, ethertype::VLAN.to_be_bytes().into_iter().chain(on.vlan.to_be_bytes()));
    }
    frame
}

/// Where frames for a group of IPv6 go (RFC 2464, 7).
const fn group_mac(group: [u8; 16]) -> Mac {
    let [.., a, b, c, d] = group;
    Mac([0x33, 0x33, a, b, c, d])
}

/// A received frame, whose outermost tag is beside it.
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

/// Who has one of the addresses by what a frame says: another station than the one that asks, on the same VLAN. Whatever
/// ARP packet another machine sends in the address's name is such an answer, and so is an advertisement of it.
fn answer(frame: &[u8], tag: Option<Tag>, on: &ProbeOn, addresses: &[IpAddr]) -> Option<Holder> {
    let frame = Untagged { bytes: frame, tag };
    let ethernet = Ethernet::parse(&frame).ok()?;
    if ethernet.source == on.mac || ethernet.double || ethernet.vlan() != VlanKey(on.vlan) {
        return None;
    }
    let holder = match ethernet.ethertype {
        ethertype::ARP => {
            let arp = Arp::parse(&frame, ethernet.payload).ok()?;
            let says = matches!(arp.operation, arp::REQUEST | arp::REPLY);
            says.then_some(Holder { address: arp.sender.into(), mac: arp.sender_mac })
        }
        ethertype::IPV6 => advertised(&frame, &ethernet),
        _ => None,
    }?;
    addresses.contains(&holder.address).then_some(holder)
}

/// What a neighbor advertisement says whose ICMPv6 header follows the IPv6 header at once, if no router has passed it on.
fn advertised(frame: &Untagged<'_>, ethernet: &Ethernet) -> Option<Holder> {
    let message = ethernet.payload + ipv6::HEADER;
    let [next, hops] = frame.read(ethernet.payload + 6)?;
    let [kind, code] = frame.read(message)?;
    if (next, hops, kind, code) != (protocol::ICMPV6, UNROUTED, kind::ADVERTISEMENT, 0) {
        return None;
    }
    let target: [u8; 16] = frame.read(message + 8)?;
    // The target's link-layer address, which is first of the options where there is any other (RFC 4861, 4.4).
    let mac = match frame.read(message + neighbor::LENGTH) {
        Some([2, 1, a, b, c, d, e, f]) => Mac([a, b, c, d, e, f]),
        _ => ethernet.source,
    };
    Some(Holder { address: IpAddr::from(target), mac })
}

/// A socket that hears what may be an answer on an interface.
fn open(on: &ProbeOn) -> io::Result<OwnedFd> {
    let socket = packet::open()?;
    // An interface whose IPv6 is off does not hear the group that advertisements go to. A card drops the tags that
    // nobody has asked it for, unless it takes everything.
    let all_nodes = libc::packet_mreq {
        mr_ifindex: i32::try_from(on.index).map_err(io::Error::other)?,
        mr_type: if on.vlan == 0 { libc::PACKET_MR_MULTICAST } else { libc::PACKET_MR_PROMISC } as u16,
        mr_alen: 6,
        mr_address: [0x33, 0x33, 0, 0, 0, 1, 0, 0],
    };
    set(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &all_nodes)?;
    let yes: libc::c_int = 1;
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &yes)?;
    let mut program = filter();
    let attached = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &attached)?;
    // Of all EtherTypes: a socket of one is given its frames without their tags, and none that a bridge has taken.
    let address = packet::address(on.index, libc::ETH_P_ALL as u16)?;
    // SAFETY: the address is as long as is said.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn set<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let (value, length) = (&raw const *value, size_of_val(value) as libc::socklen_t);
    // SAFETY: the value is as long as is said, and the kernel copies it.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.cast(), length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A program of classic BPF that leaves ARP and neighbor advertisements, from whose frames the kernel has taken the tag:
/// all else that passes by would be too much for the socket. What it leaves is looked at again.
fn filter() -> [libc::sock_filter; 9] {
    const ARP: u32 = ethertype::ARP as u32;
    const IPV6: u32 = ethertype::IPV6 as u32;
    const ICMPV6: u32 = protocol::ICMPV6 as u32;
    const ADVERTISEMENT: u32 = kind::ADVERTISEMENT as u32;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let half = |offset| step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, offset);
    let byte = |offset| step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, offset);
    // How many steps are left out if it is equal, and how many if not.
    let equal = |value, yes, no| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value);
    let keep = |bytes| step(libc::BPF_RET | libc::BPF_K, 0, 0, bytes);
    [
        half(12),
        equal(ARP, 5, 0),
        equal(IPV6, 0, 5),
        byte(20),
        equal(ICMPV6, 0, 3),
        byte(54),
        equal(ADVERTISEMENT, 0, 1),
        keep(u32::MAX),
        keep(0),
    ]
}

/// What is known of a received frame beside its bytes.
struct Received {
    /// How many bytes of it there are.
    length: usize,
    /// The tag that the kernel has taken out of it.
    tag: Option<Tag>,
    /// This host has sent it.
    outgoing: bool,
}

/// Takes the next frame, or its beginning.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: zeros are a value of each of these.
    let (mut sender, mut header): (libc::sockaddr_ll, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    // Words, for what is put in there is aligned.
    let mut control = [0_u64; 16];
    let mut place = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    header.msg_name = (&raw mut sender).cast();
    header.msg_namelen = size_of_val(&sender) as libc::socklen_t;
    header.msg_iov = &raw mut place;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: all that the header points to is as long as it says and outlives the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(Received { length, tag: tag(&header), outgoing: sender.sll_pkttype == libc::PACKET_OUTGOING })
}

/// The tag that the kernel has put beside a frame, in the header that it has filled in.
fn tag(header: &libc::msghdr) -> Option<Tag> {
    // SAFETY: the kernel has said how much of the buffer is filled in, and these stay within it.
    let auxiliary = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const *header);
        let message = first.as_ref()?;
        let whole = message.cmsg_len as usize >= libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as u32) as usize;
        // Nothing else has been asked for.
        if !whole || (message.cmsg_level, message.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
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

    fn ethernet(source: Mac, rest: &[u8]) -> Vec<u8> {
        [&OWN.0[..], &source.0, rest].concat()
    }

    /// What the holder answers to our own probes.
    fn answers(source: Mac) -> [Vec<u8>; 2] {
        let [four, six] = addresses().map(|address| probe(&UNTAGGED, address));
        let reply = Arp::parse(four.as_slice(), 14).unwrap().reply(source);
        let advertisement = Solicitation::read(six.as_slice(), 14).unwrap().advertisement(source, false);
        [
            ethernet(source, &[&[8, 6], &reply[..]].concat()),
            ethernet(source, &[&[0x86, 0xdd], &advertisement[..]].concat()),
        ]
    }

    #[test]
    fn probes_come_from_nobody_and_carry_the_tag() {
        let [four, six] = addresses().map(|address| probe(&TAGGED, address));
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
        assert_eq!(probe(&UNTAGGED, addresses()[0]).len(), 14 + arp::LENGTH);
    }

    #[test]
    fn whoever_speaks_for_the_address_holds_it() {
        for (frame, address) in answers(OTHER).into_iter().zip(addresses()) {
            let holder = Some(Holder { address, mac: OTHER });
            assert_eq!(answer(&frame, None, &UNTAGGED, &addresses()), holder);
            assert_eq!(answer(&frame, None, &UNTAGGED, &["10.0.0.8".parse().unwrap()]), None);
            for length in 0..14 + arp::LENGTH {
                assert_eq!(answer(&frame[..length], None, &UNTAGGED, &addresses()), None, "{length} bytes");
            }
        }
        for (frame, _) in answers(OWN).into_iter().zip(addresses()) {
            assert_eq!(answer(&frame, None, &UNTAGGED, &addresses()), None);
        }
        let [mut arp, mut advertisement] = answers(OTHER);
        // A request in the address's name is as good; an older protocol is not.
        arp[21] = 1;
        assert!(answer(&arp, None, &UNTAGGED, &addresses()).is_some());
        arp[21] = 3;
        assert_eq!(answer(&arp, None, &UNTAGGED, &addresses()), None);
        // Without the option, it is the sender.
        assert!(answer(&advertisement[..78], None, &UNTAGGED, &addresses()).is_some_and(|holder| holder.mac == OTHER));
        for (place, value) in [(20, 17), (21, 254), (54, 135), (55, 1), (62, 0xfe)] {
            let before = mem::replace(&mut advertisement[place], value);
            assert_eq!(answer(&advertisement, None, &UNTAGGED, &addresses()), None, "byte {place}");
            advertisement[place] = before;
        }
    }

    #[test]
    fn others_probes_are_no_answers() {
        let others = ProbeOn { mac: OTHER, ..UNTAGGED };
        for address in addresses() {
            assert_eq!(answer(&probe(&others, address), None, &UNTAGGED, &addresses()), None);
        }
    }

    #[test]
    fn only_the_vlan_that_was_asked_counts() {
        let tag = |tpid, tci| Some(Tag { tpid, tci });
        for frame in answers(OTHER) {
            let hears = |on: &ProbeOn, tag| answer(&frame, tag, on, &addresses()).is_some();
            // With its priority, whatever it is.
            assert!(hears(&TAGGED, tag(ethertype::VLAN, 0xa01e)));
            assert!(hears(&UNTAGGED, tag(ethertype::VLAN, 0xa000)));
            assert!(!hears(&UNTAGGED, tag(ethertype::VLAN, 30)));
            assert!(!hears(&TAGGED, None));
            assert!(!hears(&TAGGED, tag(ethertype::VLAN, 31)));
            assert!(!hears(&TAGGED, tag(ethertype::SERVICE_VLAN, 30)));
            let mut twice = frame.clone();
            twice.splice(12..12, [0x81, 0, 0, 30]);
            assert!(answer(&twice, None, &TAGGED, &addresses()).is_some());
            assert_eq!(answer(&twice, tag(ethertype::VLAN, 30), &TAGGED, &addresses()), None);
        }
    }

    #[test]
    fn the_targets_own_address_counts_before_the_senders() {
        let target = Address::new(addresses()[1].to_string().parse::<Ipv6Addr>().unwrap().octets());
        let asked = Solicitation { source: Address::UNSPECIFIED, target };
        let frame = ethernet(Mac([2, 0, 0, 0, 0, 9]), &[&[0x86, 0xdd], &asked.advertisement(OTHER, true)[..]].concat());
        let holder = answer(&frame, None, &UNTAGGED, &addresses()).unwrap();
        assert_eq!(holder.mac, OTHER);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..160), kind in 0..3_usize, tag in any::<Option<(u16, u16)>>(), vlan in 0..4095_u16) {
            let mut frame = bytes;
            // Two of three with a header that leads further in.
            if let (Some(place), Some(ethertype)) = (frame.get_mut(12..14), [[8, 6], [0x86, 0xdd]].get(kind)) {
                place.copy_from_slice(ethertype);
            }
            let tag = tag.map(|(tpid, tci)| Tag { tpid, tci });
            let _ = answer(&frame, tag, &ProbeOn { vlan, ..UNTAGGED }, &addresses());
        }

        #[test]
        fn nor_does_an_answer_with_a_few_others(place in 0..86_usize, value in any::<u8>(), length in 0..86_usize) {
            for mut frame in answers(OTHER) {
                if let Some(byte) = frame.get_mut(place) {
                    *byte = value;
                }
                frame.truncate(length);
                let found = answer(&frame, None, &UNTAGGED, &addresses());
                prop_assert!(found.is_none_or(|holder| addresses().contains(&holder.address)));
            }
        }
    }
}
