//! The Linux bridge without spanning tree, with its default settings or with its netfilter calls
//! disabled.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};

use super::{
    pair::Pair,
    parts::{CLIENT, SERVER, create_wire},
    uplink::{FrameAddress, Injection, Uplink},
    variant::Variant,
};
use crate::{
    cpus::CLIENT_CPU,
    endpoint::Endpoint,
    namespaces::{Netns, NetnsName},
};

/// Whether iptables sees bridged packets (`net.bridge.bridge-nf-call-iptables`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Netfilter {
    /// The kernel's default: enabled if br_netfilter is built in or loaded, as on every host with
    /// Docker.
    Default,
    /// Disabled, the fastest setting of the bridge.
    Off,
}

impl Netfilter {
    fn variant(self) -> Variant {
        match self {
            Self::Default => Variant::Bridge,
            Self::Off => Variant::BridgeAlone,
        }
    }
}

pub fn pair(netfilter: Netfilter) -> Result<Pair> {
    let (a, b) = (Netns::create("bridge-a")?, Netns::create("bridge-b")?);
    let host = create_bridge_host("bridge-host", netfilter)?;
    let client = attach_to_bridge(&host, "port1", &a, CLIENT)?;
    let server = attach_to_bridge(&host, "port2", &b, SERVER)?;
    Ok(Pair::without_switch(netfilter.variant(), client, server, vec![a, b, host]))
}

pub fn uplink(netfilter: Netfilter) -> Result<Uplink> {
    let (far, container) = (Netns::create("bridge-wire")?, Netns::create("bridge-c")?);
    let host = create_bridge_host("bridge-host", netfilter)?;
    let wire_end = create_wire(&host, &far, "uplink")?;
    host.ip("link set uplink master br0")?;
    let container_end = attach_to_bridge(&host, "port1", &container, SERVER)?;
    wire_end.reach(&container_end)?;
    Ok(Uplink {
        variant: netfilter.variant(),
        host: host.name(),
        ifname: "uplink".to_owned(),
        injection: Injection::Pass,
        wire_mac: far.device("wire0")?.address,
        wire: wire_end,
        container: container_end,
        address: FrameAddress::Mac,
        instance: None,
        _tagger: None,
        _namespaces: vec![far, container, host],
    })
}

/// Creates a namespace with an empty bridge `br0`.
pub fn create_bridge_host(role: &str, netfilter: Netfilter) -> Result<Netns> {
    let host = Netns::create(role)?;
    let setting = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if netfilter == Netfilter::Off && setting.exists() {
        host.inside(CLIENT_CPU, || fs::write(setting, "0").with_context(|| format!("writing {}", setting.display())))?;
    }
    host.ip("link add br0 type bridge stp_state 0")?;
    host.ip("link set br0 up")?;
    Ok(host)
}

/// Does by hand what `vswitch attach` does: creates a veth pair with one end in the bridge and the
/// other, with an address, in the container.
pub fn attach_to_bridge(host: &NetnsName, port: &str, container: &NetnsName, ipv4: Ipv4Addr) -> Result<Endpoint> {
    host.ip(&format!("link add {port} type veth peer name eth0 netns {container}"))?;
    host.ip(&format!("link set {port} master br0"))?;
    host.ip(&format!("link set {port} up"))?;
    Endpoint::configure(container, "eth0", ipv4)
}
