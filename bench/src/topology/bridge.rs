//! The Linux bridge, without spanning tree: as the kernel makes it, and with its calls into netfilter switched off.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};

use super::{Addressed, CLIENT, Endpoint, Injection, Pair, SERVER, Uplink, Variant, wire};
use crate::{
    measure::CLIENT_CPU,
    namespaces::{Netns, NetnsName},
};

/// Whether bridged packets are shown to iptables (`net.bridge.bridge-nf-call-iptables`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Netfilter {
    /// As the kernel has it: on where br_netfilter is built in or loaded, as it is wherever Docker runs.
    Default,
    /// Off: the bridge at its best.
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
    let host = host_with_bridge("bridge-host", netfilter)?;
    let client = attach_by_ip(&host, "port1", &a, CLIENT)?;
    let server = attach_by_ip(&host, "port2", &b, SERVER)?;
    Ok(Pair::without_switch(netfilter.variant(), client, server, vec![a, b, host]))
}

pub fn uplink(netfilter: Netfilter) -> Result<Uplink> {
    let (far, container) = (Netns::create("bridge-wire")?, Netns::create("bridge-c")?);
    let host = host_with_bridge("bridge-host", netfilter)?;
    let from = wire(&host, &far, "uplink")?;
    host.ip("link set uplink master br0")?;
    let to = attach_by_ip(&host, "port1", &container, SERVER)?;
    from.reach(&to)?;
    Ok(Uplink {
        variant: netfilter.variant(),
        host: host.name(),
        ifname: "uplink".to_owned(),
        injection: Injection::Pass,
        wire_mac: far.device("wire0")?.address,
        wire: from,
        container: to,
        to: Addressed::Mac,
        instance: None,
        _tagging: None,
        _namespaces: vec![far, container, host],
    })
}

/// A namespace with an empty bridge, `br0`.
pub fn host_with_bridge(role: &str, netfilter: Netfilter) -> Result<Netns> {
    let host = Netns::create(role)?;
    let setting = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if netfilter == Netfilter::Off && setting.exists() {
        host.inside(CLIENT_CPU, || fs::write(setting, "0").with_context(|| format!("writing {}", setting.display())))?;
    }
    host.ip("link add br0 type bridge stp_state 0")?;
    host.ip("link set br0 up")?;
    Ok(host)
}

/// What `vswitch attach` does, by hand: a veth pair, its near end in the bridge, its far end with an address in the container.
pub fn attach_by_ip(host: &NetnsName, port: &str, container: &NetnsName, ipv4: Ipv4Addr) -> Result<Endpoint> {
    host.ip(&format!("link add {port} type veth peer name eth0 netns {container}"))?;
    host.ip(&format!("link set {port} master br0"))?;
    host.ip(&format!("link set {port} up"))?;
    Endpoint::configure(container, "eth0", ipv4)
}
