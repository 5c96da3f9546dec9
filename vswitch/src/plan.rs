//! Plans: what must exist for an endpoint or a network, as steps in the order in which they are made.
//!
//! Drivers write plans, `apply` carries them out or takes them back. A step names devices; their indexes are known only
//! once they exist.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use vswitch_common::Mac;
use vswitch_common::tables::{NetworkNumber, PortKind};

use crate::datapath::{PortRules, Xdp};

/// In which namespace a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the daemon's own.
    Host,
    /// In the one that is attached.
    Container,
}

/// A device, by its name where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// Where.
    pub place: Place,
    /// What it is called there.
    pub name: String,
}

impl Device {
    /// A device in the daemon's namespace.
    pub fn host(name: impl Into<String>) -> Self {
        Self { place: Place::Host, name: name.into() }
    }

    /// A device in the attached namespace.
    pub fn container(name: impl Into<String>) -> Self {
        Self { place: Place::Container, name: name.into() }
    }
}

/// Work that a device can take off the network stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Gathering received segments; on a veth it also means that NAPI runs, which XDP needs for its redirects.
    Gro,
    /// Checksums of what is sent.
    TxChecksum,
    /// Segmentation of what is sent.
    Tso,
    /// Tags of what is sent, kept beside the frame.
    TxVlan,
    /// Tags of what is received, taken off the frame.
    RxVlan,
}

/// One thing that must be. Each can be taken back, and each is done already if it is found done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A pair of devices. The peer is made straight where it belongs; with one goes the other.
    CreateVeth {
        /// The end in the daemon's namespace.
        device: String,
        /// Its address; the kernel's choice if none.
        mac: Option<Mac>,
        /// The mark on it, by which the pair is known to be ours.
        mark: String,
        /// The other end.
        peer: Device,
        /// The other end's address; the kernel's choice if none.
        peer_mac: Option<Mac>,
        /// The MTU of both.
        mtu: u32,
    },
    /// No IPv6 on a device of the daemon's namespace: it must send nothing of its own.
    NoIpv6 {
        /// The device.
        device: String,
    },
    /// A device that has IPv6 or not, and takes routers' word or not.
    Ipv6 {
        /// The device.
        device: Device,
        /// Whether it is to have IPv6, whatever the namespace's default is; the default if none.
        enable: Option<bool>,
        /// Whether it takes router advertisements.
        accept_ra: bool,
    },
    /// Offloads switched on or off.
    Offloads {
        /// The device.
        device: Device,
        /// Which, and how.
        settings: Vec<(Offload, bool)>,
    },
    /// A port of the switch.
    AddPort(PortStep),
    /// A device that takes in all frames, whoever they are for, or no longer.
    Promiscuous {
        /// The device, in the daemon's namespace.
        device: String,
        /// Whether it does.
        on: bool,
    },
    /// Neighbors are told of a device's addresses when it comes up.
    AnnounceAddresses {
        /// The device.
        device: Device,
    },
    /// An address on a device.
    AddAddress {
        /// The device.
        device: Device,
        /// The address with its prefix length.
        address: IpNet,
    },
    /// The device of the tunnels.
    CreateVxlan {
        /// Its name.
        device: String,
        /// The UDP port that the tunnels end at.
        port: u16,
        /// The mark on it.
        mark: String,
    },
    /// The program of the tunnels on their device: nothing that comes out of it is the host's.
    GuardTunnels {
        /// Its name.
        device: String,
    },
    /// A device that is up.
    SetUp {
        /// The device.
        device: Device,
    },
    /// A default route in the attached namespace, unless it has one of the gateway's family.
    DefaultRoute {
        /// The device that it leaves by.
        device: String,
        /// The gateway.
        via: IpAddr,
    },
    /// The link-local address of a device that does not make one of its MAC address: others have the same.
    LinkLocal {
        /// The device, in the attached namespace.
        device: Device,
        /// The address.
        address: Ipv6Addr,
    },
    /// The MAC address of a device.
    Mac {
        /// The device.
        device: Device,
        /// The address.
        mac: Mac,
    },
    /// A device that asks nobody for MAC addresses.
    NoArp {
        /// The device.
        device: Device,
    },
    /// A default route by the device alone, in the attached namespace, unless it has one of that family.
    DefaultByDevice {
        /// The device.
        device: String,
        /// Of IPv6, not of IPv4.
        ipv6: bool,
    },
    /// The host's own way to an endpoint: a route by an interface of its own, and the MAC address there.
    HostRoute {
        /// The interface, in the daemon's namespace.
        device: String,
        /// The endpoint's address.
        address: IpAddr,
        /// Its MAC address.
        mac: Mac,
    },
    /// A device that passes frames: carrier is there, and the kernel has acted on it.
    CheckCarrier {
        /// The device.
        device: Device,
    },
}

/// A port, before its devices have indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStep {
    /// The device whose received frames enter the switch.
    pub device: String,
    /// The device by which frames leave.
    pub egress: String,
    /// The network.
    pub network: NetworkNumber,
    /// What is behind it.
    pub kind: PortKind,
    /// The station's address.
    pub mac: Mac,
    /// Whether XDP is wanted on it.
    pub xdp: Xdp,
    /// Whether XDP may redirect into it.
    pub xdp_egress: bool,
    /// The station's IP addresses.
    pub addresses: Vec<IpAddr>,
    /// The longest IP packet that may leave by it; 0 is no limit.
    pub mtu: u16,
    /// What it may do.
    pub rules: PortRules,
}
