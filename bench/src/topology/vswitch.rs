//! vswitch: an instance of its own in a namespace of its own, spoken to by its command line alone.

use std::path::Path;

use anyhow::Result;

use super::{Addressed, Endpoint, Injection, Pair, SERVER, Uplink, Variant, finish_frames, wire};
use crate::{instance::Instance, namespaces::Netns};

pub fn pair(variant: Variant, vswitch: &Path, options: &[&str]) -> Result<Pair> {
    let (a, b) = (Netns::create("vswitch-a")?, Netns::create("vswitch-b")?);
    let host = Netns::create("vswitch-host")?;
    let instance = Instance::up(vswitch, &host, options)?;
    let client = instance.attach(&a, &[])?.endpoint(&a);
    let server = instance.attach(&b, &[])?.endpoint(&b);
    Ok(Pair { instance: Some(instance), ..Pair::without_switch(variant, client, server, vec![a, b, host]) })
}

/// The same with everything switched off that the switch does for safety.
pub fn pair_without_guards(vswitch: &Path) -> Result<Pair> {
    let (a, b) = (Netns::create("open-a")?, Netns::create("open-b")?);
    let host = Netns::create("open-host")?;
    let instance = Instance::up(vswitch, &host, &[])?;
    let mut create = vec!["network", "create"];
    create.extend(NO_GUARDS.iter().flat_map(|option| ["-o", option]));
    create.push("open");
    instance.run(&create)?;
    let client = instance.attach(&a, &["--network", "open"])?.endpoint(&a);
    let server = instance.attach(&b, &["--network", "open"])?.endpoint(&b);
    let open = Pair::without_switch(Variant::VswitchOpen, client, server, vec![a, b, host]);
    Ok(Pair { instance: Some(instance), ..open })
}

/// All that is on by default and may cost a frame something.
const NO_GUARDS: [&str; 7] = [
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
    let from = wire(&host, &far, "uplink")?;
    finish_frames(&far)?;

    let instance = Instance::up(vswitch, &host, options)?;
    let xdp = if variant == Variant::UplinkXdp { "xdp=native" } else { "xdp=off" };
    instance.run(&["network", "create", "--subnet", "10.99.0.0/24", "-o", "uplink=uplink", "-o", xdp, "segment"])?;
    let attached = instance.attach(&container, &["--network", "segment", "--ip", &SERVER.to_string()])?;
    let to: Endpoint = attached.endpoint(&container);
    from.reach(&to)?;

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
        wire: from,
        container: to,
        to: Addressed::Mac,
        instance: Some(instance),
        _tagging: None,
        _namespaces: vec![far, container, host],
    })
}
