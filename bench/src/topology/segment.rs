//! One container that sends to all, and the many that get a copy.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, bail};
use vswitch::api::{ConnectRequest, NetworkRequest};

use super::{Endpoint, Netfilter, Variant, attach_by_ip, host_with_bridge, required};
use crate::{
    command,
    instance::Instance,
    measure::scale::Api,
    namespaces::{Netns, NetnsName},
};

/// Of [`Variant::VswitchCrowd`]: so many containers in as many networks each, a thousand ports.
const CROWD: (usize, usize) = (50, 20);

/// A network of a switch or bridge.
pub struct Segment {
    /// What it is a network of.
    pub variant: Variant,
    /// Where the switch is.
    pub host: NetnsName,
    /// The sender's device, as the switch sees it: its index in that namespace.
    pub port: u32,
    /// The one that sends.
    pub sender: Endpoint,
    /// All others.
    pub receivers: Vec<Endpoint>,
    // Dropped in this order: the switch goes before the namespaces that it works on.
    _instance: Option<Instance>,
    _namespaces: Vec<Netns>,
}

impl Segment {
    /// Builds it, with a sender and so many receivers that count what they get and drop it.
    pub fn build(variant: Variant, vswitch: Option<&Path>, receivers: usize) -> Result<Self> {
        let segment = match variant {
            Variant::Bridge => bridge(variant, Netfilter::Default, receivers),
            Variant::BridgeAlone => bridge(variant, Netfilter::Off, receivers),
            Variant::Vswitch | Variant::VswitchCrowd => through_vswitch(variant, required(vswitch)?, receivers),
            _ => bail!("{} is not measured on floods", variant.label()),
        };
        let segment = segment.with_context(|| format!("setting up {} with {receivers} receivers", variant.label()))?;
        if let Some(first) = segment.receivers.first() {
            segment.sender.reach(first)?;
        }
        segment.receivers.iter().try_for_each(drop_all)?;
        Ok(segment)
    }
}

fn bridge(variant: Variant, netfilter: Netfilter, receivers: usize) -> Result<Segment> {
    let containers = (0..=receivers).map(|_| Netns::create("flood-c")).collect::<Result<Vec<_>>>()?;
    let host = host_with_bridge("flood-bridge", netfilter)?;
    let mut ends = Vec::with_capacity(containers.len());
    for (number, container) in containers.iter().enumerate() {
        let ipv4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 0, 2)) + number as u32);
        ends.push(attach_by_ip(&host, &format!("port{number}"), container, ipv4)?);
    }
    segment(variant, host, ends, None, containers)
}

fn through_vswitch(variant: Variant, vswitch: &Path, receivers: usize) -> Result<Segment> {
    let mut containers = (0..=receivers).map(|_| Netns::create("flood-c")).collect::<Result<Vec<_>>>()?;
    let crowd = match variant {
        Variant::VswitchCrowd => (0..CROWD.0).map(|_| Netns::create("flood-x")).collect::<Result<Vec<_>>>()?,
        _ => Vec::new(),
    };
    let host = Netns::create("flood-host")?;
    let instance = Instance::up(vswitch, &host, &[])?;
    // Without its limit: 10,000 floods a second are a small part of what is measured here.
    instance.run(&["network", "create", "--subnet", "10.99.0.0/24", "-o", "storm_pps=0", "flood"])?;
    if !crowd.is_empty() {
        fill_other_networks(&instance, &crowd)?;
    }
    let mut ends = Vec::with_capacity(containers.len());
    for container in &containers {
        ends.push(instance.attach(container, &["--network", "flood"])?.endpoint(container));
    }
    containers.extend(crowd);
    segment(variant, host, ends, Some(instance), containers)
}

fn fill_other_networks(instance: &Instance, crowd: &[Netns]) -> Result<()> {
    let mut api = Api::connect(instance)?;
    for container in crowd {
        instance.attach(container, &[])?;
    }
    // All are in the network that is there already.
    for number in 1..CROWD.1 {
        let name = format!("other{number}");
        api.post("/networks", &NetworkRequest { name: name.clone(), ..NetworkRequest::default() })?;
        for container in crowd {
            // An endpoint is called like its namespace, unless told otherwise.
            let request = ConnectRequest { endpoint: container.to_string(), ..ConnectRequest::default() };
            api.post(&format!("/networks/{name}/connect"), &request)?;
        }
    }
    Ok(())
}

fn segment(
    variant: Variant,
    host: Netns,
    mut ends: Vec<Endpoint>,
    instance: Option<Instance>,
    mut namespaces: Vec<Netns>,
) -> Result<Segment> {
    let sender = ends.remove(0);
    let port = sender.netns.device(&sender.ifname)?.link_index.context("the sender's device has no peer")?;
    let name = host.name();
    namespaces.push(host);
    Ok(Segment { variant, host: name, port, sender, receivers: ends, _instance: instance, _namespaces: namespaces })
}

/// Has a container drop what it receives in the first hook that all variants share, before IP spends more on each frame
/// than the switch does. The rule goes with the namespace.
fn drop_all(receiver: &Endpoint) -> Result<()> {
    let hook = format!("{{ type filter hook ingress device {} priority 0 ; }}", receiver.ifname);
    let rules =
        format!("add table netdev bench; add chain netdev bench sink {hook}; add rule netdev bench sink counter drop");
    command::run(receiver.netns.command("nft").arg(rules))?;
    Ok(())
}
