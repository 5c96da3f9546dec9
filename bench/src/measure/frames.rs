//! 60-byte frames that arrive on an uplink, injected by BPF_PROG_RUN and counted where the
//! container receives them.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::programs::{ProgramFd, ProgramInfo};

use crate::{
    bpf,
    command::{self, stop_if_interrupted},
    cpus::CLIENT_CPU,
    endpoint::Endpoint,
    namespaces::NetnsName,
    topology::{FrameAddress, Injection, Uplink},
};

/// Frames per system call.
pub const CHUNK: u32 = 1 << 15;
/// Frames injected before the measurement.
const WARM_UP: u32 = 1 << 12;
/// Length of the addresses and the tag of a frame in bytes.
const ADDRESSES_AND_TAG: usize = 16;

/// The program that injected frames meet on the uplink.
pub enum Injector {
    /// A program that passes everything.
    Pass(OwnedFd),
    /// The switch's own program.
    Switch(ProgramFd),
}

impl Injector {
    /// Loads or opens the program. One that passes everything writes `head` first (see
    /// [`bpf::load_pass`]).
    pub fn new(injection: &Injection, head: &[u8]) -> Result<Self> {
        match injection {
            Injection::Pass => bpf::load_pass(head).map(Self::Pass),
            Injection::Pinned(path) => {
                let info = ProgramInfo::from_pin(path).with_context(|| format!("opening {}", path.display()))?;
                Ok(Self::Switch(info.fd()?))
            }
        }
    }

    /// Returns the descriptor of the program.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Pass(fd) => fd.as_fd(),
            Self::Switch(fd) => fd.as_fd(),
        }
    }
}

/// Returns the frames that the container received, in millions per second.
pub fn delivered_mpps(uplink: &Uplink, window: Duration) -> Result<f64> {
    let frame = frame_to(uplink)?;
    let head = if matches!(uplink.address, FrameAddress::MacInVlan(_)) { &frame[..ADDRESSES_AND_TAG] } else { &[] };
    let injector = Injector::new(&uplink.injection, head)?;
    let ifindex = uplink.host.device(&uplink.ifname)?.ifindex;
    let inject = |frames| uplink.host.inside(CLIENT_CPU, || bpf::run_live(injector.as_fd(), &frame, ifindex, frames));
    inject(WARM_UP)?;

    let sink = CountingSink::at(&uplink.container)?;
    let elapsed = uplink.host.inside(CLIENT_CPU, || {
        let start = Instant::now();
        while start.elapsed() < window {
            bpf::run_live(injector.as_fd(), &frame, ifindex, CHUNK)?;
            stop_if_interrupted()?;
        }
        Ok(start.elapsed())
    })?;
    let delivered = sink.frames()?;
    if delivered == 0 {
        bail!("none of the frames injected on {} reached the container", uplink.ifname);
    }
    Ok(delivered as f64 / elapsed.as_secs_f64() / 1e6)
}

/// A rule that counts and drops the frames received by a device, in the first hook that all
/// variants share. Device counters differ (a frame from redirect_peer or passed on by XDP has not
/// passed the driver), and the IP layer would spend more time on each frame than the switch.
pub struct CountingSink<'a>(&'a NetnsName);

impl<'a> CountingSink<'a> {
    /// Adds the rule in the namespace of the container.
    pub fn at(container: &'a Endpoint) -> Result<Self> {
        let hook = format!("{{ type filter hook ingress device {} priority 0 ; }}", container.ifname);
        for arguments in [
            "add table netdev bench",
            &format!("add chain netdev bench sink {hook}"),
            "add rule netdev bench sink counter drop",
        ] {
            command::run(container.netns.command("nft").args(arguments.split(' ')))?;
        }
        Ok(Self(&container.netns))
    }

    /// Returns the number of frames counted so far.
    pub fn frames(&self) -> Result<u64> {
        let json = command::run(self.0.command("nft").args(["-j", "list", "chain", "netdev", "bench", "sink"]))?;
        let document: serde_json::Value = serde_json::from_str(&json)?;
        let items = document["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let counter = items.iter().find_map(|item| item["rule"]["expr"][0]["counter"]["packets"].as_u64());
        counter.with_context(|| format!("nft shows no counter: {json}"))
    }
}

impl Drop for CountingSink<'_> {
    fn drop(&mut self) {
        command::clean_up(self.0.command("nft").args(["delete", "table", "netdev", "bench"]));
    }
}

/// Returns a 60-byte UDP frame from the far end of the wire to the container's MAC address.
///
/// The destination IP address is that of a neighbor, not of the container. The stack of the
/// container, which is no router, drops such a frame silently in all variants. So no socket and no
/// ICMP error takes part. If containers are distinguished only by their IP address, the frame has
/// the container's. Then frames before the measurement may cause ICMP errors, and later ones are
/// dropped before the stack.
pub fn frame_to(uplink: &Uplink) -> Result<Vec<u8>> {
    let container = &uplink.container;
    let [a, b, c, _] = container.ipv4.octets();
    let (destination, ipv4) = match &uplink.address {
        FrameAddress::Ip(shared) => (mac(shared)?, container.ipv4),
        FrameAddress::Mac | FrameAddress::MacInVlan(_) => {
            (mac(&container.netns.device(&container.ifname)?.address)?, Ipv4Addr::new(a, b, c, 99))
        }
    };
    let frame = frame(mac(&uplink.wire_mac)?, destination, uplink.wire.ipv4, ipv4);
    Ok(match uplink.address {
        FrameAddress::MacInVlan(vlan) => tagged(frame, vlan),
        _ => frame,
    })
}

/// Returns a 60-byte UDP frame, the smallest Ethernet frame (64 bytes with its FCS).
pub fn frame(source: [u8; 6], destination: [u8; 6], from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    const LENGTH: usize = 60;
    let mut frame = Vec::with_capacity(LENGTH);
    frame.extend(destination);
    frame.extend(source);
    frame.extend([0x08, 0x00]);
    let total = (LENGTH - 14) as u16;
    let mut header = Vec::from([0x45, 0]);
    header.extend(total.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let checksum = internet_checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&checksum);
    frame.extend(header);
    // Port 9 is discard. The UDP checksum is zero, which IPv4 allows (RFC 768).
    frame.extend([0, 9, 0, 9]);
    frame.extend((total - 20).to_be_bytes());
    frame.resize(LENGTH, 0);
    frame
}

/// Inserts an 802.1Q tag of four bytes behind the addresses of a frame.
fn tagged(mut frame: Vec<u8>, vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    frame.splice(12..12, [0x81, 0x00, high, low]);
    frame
}

/// Parses a MAC address as printed by `ip`.
pub fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>();
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).with_context(|| format!("{text:?} is not a MAC address"))
}

fn internet_checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_has_60_bytes_and_a_valid_header_checksum() {
        let frame = frame([2; 6], [4; 6], Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[..6], [4; 6]);
        // The sum over a header that includes its checksum is zero (RFC 1071).
        assert_eq!(internet_checksum(&frame[14..34]), 0);
    }

    #[test]
    fn tag_is_between_addresses_and_type() {
        let frame = tagged(frame([2; 6], [4; 6], Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST), 30);
        assert_eq!(frame.len(), 64);
        assert_eq!(frame[6..18], [2, 2, 2, 2, 2, 2, 0x81, 0x00, 0, 30, 0x08, 0x00]);
    }

    #[test]
    fn mac_address_has_six_bytes() {
        assert_eq!(mac("02:00:00:00:00:ff").unwrap(), [2, 0, 0, 0, 0, 255]);
        assert!(mac("02:00:00:00:00").is_err());
        assert!(mac("eth0").is_err());
    }
}
