//! Two hosts with a wire between them and a container on each, connected by the kernel's VXLAN
//! device in a Linux bridge or by an overlay network of vswitch.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, bail};

use super::{
    bridge::{Netfilter, attach_to_bridge, create_bridge_host},
    pair::Pair,
    parts::{CLIENT, SERVER, require_binary},
    variant::Variant,
};
use crate::{command, instance::Instance, namespaces::Netns};

/// The hosts' addresses on the wire.
const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const VNI: u32 = 77;
const UDP_PORT: u16 = 4789;
/// MTU of the wire, 1500, minus the headers of a tunnel.
const MTU: u32 = 1450;
/// The end of the wire on each host.
const WIRE: &str = "wire0";

/// Disables offloads, so that frames cross the wire one by one and with its MTU, as between two
/// machines.
const OFFLOADS: [&str; 10] =
    ["tso", "off", "gso", "off", "tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off", "gro", "off"];

pub fn pair(variant: Variant, vswitch: Option<&Path>) -> Result<Pair> {
    let (a, b) = (Netns::create("overlay-a")?, Netns::create("overlay-b")?);
    let role = |n| format!("overlay-host{n}");
    let host = |n| match variant {
        Variant::VxlanBridge => create_bridge_host(&role(n), Netfilter::Default),
        Variant::VxlanBridgeAlone => create_bridge_host(&role(n), Netfilter::Off),
        _ => Netns::create(&role(n)),
    };
    let hosts = [host(1)?, host(2)?];
    let [one, two] = &hosts;
    one.ip(&format!("link add {WIRE} type veth peer name {WIRE} netns {}", two.name()))?;
    for (host, address) in hosts.iter().zip(HOSTS) {
        command::run(host.command("ethtool").args(["-K", WIRE]).args(OFFLOADS))?;
        host.ip(&format!("address add {address}/24 dev {WIRE}"))?;
        host.ip(&format!("link set {WIRE} up"))?;
    }
    let (client, server, instances) = match variant {
        Variant::VxlanBridge | Variant::VxlanBridgeAlone => {
            for (host, peer) in hosts.iter().zip([HOSTS[1], HOSTS[0]]) {
                host.ip(&format!("link add vxlan0 mtu {MTU} type vxlan id {VNI} remote {peer} dstport {UDP_PORT}"))?;
                host.ip("link set vxlan0 master br0 up")?;
            }
            let attach = |host: &Netns, container: &Netns, address| {
                let endpoint = attach_to_bridge(host, "port1", container, address)?;
                container.ip(&format!("link set eth0 mtu {MTU}"))?;
                anyhow::Ok(endpoint)
            };
            (attach(one, &a, CLIENT)?, attach(two, &b, SERVER)?, Vec::new())
        }
        Variant::Overlay => {
            let vswitch = require_binary(vswitch)?;
            let mut instances = Vec::new();
            for (host, peer) in hosts.iter().zip([HOSTS[1], HOSTS[0]]) {
                let instance = Instance::up(vswitch, host, &[])?;
                instance.run(&["peer", "add", &peer.to_string()])?;
                let vni = format!("vni={VNI}");
                instance.run(&["network", "create", "-d", "overlay", "-o", &vni, "--subnet", "10.99.0.0/24", "all"])?;
                instances.push(instance);
            }
            let attach = |instance: &Instance, container: &Netns, address: Ipv4Addr| {
                let attached = instance.attach(container, &["--network", "all", "--ip", &address.to_string()])?;
                anyhow::Ok(attached.endpoint(container))
            };
            let client = attach(&instances[0], &a, CLIENT)?;
            let server = attach(&instances[1], &b, SERVER)?;
            (client, server, instances)
        }
        _ => bail!("{} is not an overlay variant", variant.label()),
    };
    client.reach(&server).with_context(|| format!("through {}", variant.label()))?;
    let mut pair = Pair::without_switch(variant, client, server, Vec::new());
    let [one, two] = hosts;
    pair.instances = instances;
    pair._namespaces = vec![a, b, one, two];
    Ok(pair)
}
