//! vswitch: an instance in a namespace of its own, controlled only by its command line.

use std::path::Path;

use anyhow::Result;

use super::{
    pair::Pair,
    parts::{SERVER, create_wire, disable_checksum_offload},
    uplink::{FrameAddress, Injection, Uplink},
    variant::Variant,
};
use crate::{endpoint::Endpoint, instance::Instance, namespaces::Netns};

pub fn pair(variant: Variant, vswitch: &Path, options: &[&str]) -> Result<Pair> {
    let (a, b) = (Netns::create("vswitch-a")?, Netns::create("vswitch-b")?);
    let host = Netns::create("vswitch-host")?;
    let instance = Instance::up(vswitch, &host, options)?;
    let client = instance.attach(&a, &[])?.endpoint(&a);
    let server = instance.attach(&b, &[])?.endpoint(&b);
    Ok(Pair { instance: Some(instance), ..Pair::without_switch(variant, client, server, vec![a, b, host]) })
}

/// Builds a pair with all protections of the switch disabled.
pub fn pair_without_guards(vswitch: &Path) -> Result<Pair> {
    let (a, b) = (Netns::create("open-a")?, Netns::create("open-b")?);
    let host = Netns::create("open-host")?;
    let instance = Instance::up(vswitch, &host, &[])?;
    let mut create = vec!["network", "create"];
    create.extend(GUARDS_OFF.iter().flat_map(|option| ["-o", option]));
    create.push("open");
    instance.run(&create)?;
    let client = instance.attach(&a, &["--network", "open"])?.endpoint(&a);
    let server = instance.attach(&b, &["--network", "open"])?.endpoint(&b);
    let open = Pair::without_switch(Variant::VswitchOpen, client, server, vec![a, b, host]);
    Ok(Pair { instance: Some(instance), ..open })
}

/// All features that are enabled by default and may cost time per frame.
const GUARDS_OFF: [&str; 7] = [
    "spoof_guard=off",
    "ra_guard=off",
    "dhcp_guard=off",
    "bpdu_guard=off",
    "storm_pps=0",
    "arp_suppress=off",
    "mcast_snooping=off",
];

pub fn uplink(variant: Variant, vswitch: &Path, options: &[&str]) -> Result<Uplink> {
    let (far, container) = (Netns::create("vswitch-wire")?, Netns::create("vswitch-c")?);
    let host = Netns::create("vswitch-host")?;
    let wire_end = create_wire(&host, &far, "uplink")?;
    disable_checksum_offload(&far)?;

    let instance = Instance::up(vswitch, &host, options)?;
    let xdp = if variant == Variant::UplinkXdp { "xdp=native" } else { "xdp=off" };
    instance.run(&["network", "create", "--subnet", "10.99.0.0/24", "-o", "uplink=uplink", "-o", xdp, "segment"])?;
    let attached = instance.attach(&container, &["--network", "segment", "--ip", &SERVER.to_string()])?;
    let container_end: Endpoint = attached.endpoint(&container);
    wire_end.reach(&container_end)?;

    let injection = if variant == Variant::UplinkXdp {
        Injection::Pinned(instance.pinned("from_uplink_xdp"))
    } else {
        Injection::Pass
    };
    Ok(Uplink {
        variant,
        host: host.name(),
        ifname: "uplink".to_owned(),
        injection,
        wire_mac: far.device("wire0")?.address,
        wire: wire_end,
        container: container_end,
        address: FrameAddress::Mac,
        instance: Some(instance),
        _tagger: None,
        _namespaces: vec![far, container, host],
    })
}
