//! A device that receives frames, with a container behind it.

use std::path::PathBuf;

use super::variant::Variant;
use crate::{
    bpf::VlanTagger,
    endpoint::Endpoint,
    instance::Instance,
    namespaces::{Netns, NetnsName},
};

/// The XDP program at the point where frames are injected.
#[derive(Clone, Debug)]
pub enum Injection {
    /// A program that passes everything to the kernel's receive path, as a driver without XDP does.
    Pass,
    /// A program pinned by the switch.
    Pinned(PathBuf),
}

/// The addresses with which a frame on the wire reaches the container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FrameAddress {
    /// The MAC address of the container.
    Mac,
    /// The MAC address of the container, in a VLAN.
    MacInVlan(u16),
    /// This MAC address, which several containers share, and the IP address of the container.
    Ip(String),
}

/// A device that receives frames, and a container behind it.
pub struct Uplink {
    /// The connection between the two.
    pub variant: Variant,
    /// The namespace of the device.
    pub host: NetnsName,
    /// The name of the device.
    pub ifname: String,
    /// The program that frames meet on the device.
    pub injection: Injection,
    /// The MAC address of the far end of the wire, which is the source of the frames.
    pub wire_mac: String,
    /// The machine at the far end of the wire.
    pub wire: Endpoint,
    /// The destination of the frames.
    pub container: Endpoint,
    /// The addresses of a frame to the container.
    pub address: FrameAddress,
    pub(crate) instance: Option<Instance>,
    pub(super) _tagger: Option<VlanTagger>,
    pub(super) _namespaces: Vec<Netns>,
}
