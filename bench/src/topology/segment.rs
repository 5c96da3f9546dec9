//! One container that sends broadcasts, and the containers that receive a copy.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, bail};
use vswitch::api::{ConnectRequest, NetworkRequest};

use super::{
    bridge::{Netfilter, attach_to_bridge, create_bridge_host},
    parts::require_binary,
    variant::Variant,
};
use crate::{
    api::Api,
    command,
    endpoint::Endpoint,
    instance::Instance,
    namespaces::{Netns, NetnsName},
};

/// Of [`Variant::VswitchCrowd`]: the number of containers and of networks. Each container is in
/// every network, which makes a thousand ports.
const CROWD: (usize, usize) = (50, 20);

/// A network of a switch or bridge.
pub struct Segment {
    /// The kind of switch or bridge.
    pub variant: Variant,
    /// The namespace of the switch.
    pub host: NetnsName,
    /// The index of the sender's port in that namespace.
    pub port: u32,
    /// The sender.
    pub sender: Endpoint,
    /// The receivers.
    pub receivers: Vec<Endpoint>,
    // Dropped in this order: the switch before the namespaces that it works on.
    _instance: Option<Instance>,
    _namespaces: Vec<Netns>,
}

impl Segment {
    /// Builds the network with a sender and `receivers` receivers, which count and drop received
    /// frames.
    pub fn build(variant: Variant, vswitch: Option<&Path>, receivers: usize) -> Result<Self> {
        let segment = match variant {
            Variant::Bridge => bridge(variant, Netfilter::Default, receivers),
            Variant::BridgeAlone => bridge(variant, Netfilter::Off, receivers),
            Variant::Vswitch | Variant::VswitchCrowd => through_vswitch(variant, require_binary(vswitch)?, receivers),
            _ => bail!("{} is not measured with floods", variant.label()),
        };
        let segment = segment.with_context(|| format!("setting up {} with {receivers} receivers", variant.label()))?;
        if let Some(first) = segment.receivers.first() {
            segment.sender.reach(first)?;
        }
        segment.receivers.iter().try_for_each(drop_received_frames)?;
        Ok(segment)
    }
}

fn bridge(variant: Variant, netfilter: Netfilter, receivers: usize) -> Result<Segment> {
    let containers = (0..=receivers).map(|_| Netns::create("flood-c")).collect::<Result<Vec<_>>>()?;
    let host = create_bridge_host("flood-bridge", netfilter)?;
    let mut endpoints = Vec::with_capacity(containers.len());
    for (number, container) in containers.iter().enumerate() {
        let ipv4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 0, 2)) + number as u32);
        endpoints.push(attach_to_bridge(&host, &format!("port{number}"), container, ipv4)?);
    }
    build_segment(variant, host, endpoints, None, containers)
}

fn through_vswitch(variant: Variant, vswitch: &Path, receivers: usize) -> Result<Segment> {
    let mut containers = (0..=receivers).map(|_| Netns::create("flood-c")).collect::<Result<Vec<_>>>()?;
    let crowd = match variant {
        Variant::VswitchCrowd => (0..CROWD.0).map(|_| Netns::create("flood-x")).collect::<Result<Vec<_>>>()?,
        _ => Vec::new(),
    };
    let host = Netns::create("flood-host")?;
    let instance = Instance::up(vswitch, &host, &[])?;
    // Storm control is disabled, because its limit of 10,000 floods per second is far below the
    // measured rates.
    instance.run(&["network", "create", "--subnet", "10.99.0.0/24", "-o", "storm_pps=0", "flood"])?;
    if !crowd.is_empty() {
        fill_other_networks(&instance, &crowd)?;
    }
    let mut endpoints = Vec::with_capacity(containers.len());
    for container in &containers {
        endpoints.push(instance.attach(container, &["--network", "flood"])?.endpoint(container));
    }
    containers.extend(crowd);
    build_segment(variant, host, endpoints, Some(instance), containers)
}

fn fill_other_networks(instance: &Instance, crowd: &[Netns]) -> Result<()> {
    let mut api = Api::connect(instance)?;
    for container in crowd {
        instance.attach(container, &[])?;
    }
    // All containers are already in the first network.
    for number in 1..CROWD.1 {
        let name = format!("other{number}");
        api.post("/networks", &NetworkRequest { name: name.clone(), ..NetworkRequest::default() })?;
        for container in crowd {
            // By default an endpoint has the name of its namespace.
            let request = ConnectRequest { endpoint: container.to_string(), ..ConnectRequest::default() };
            api.post(&format!("/networks/{name}/connect"), &request)?;
        }
    }
    Ok(())
}

fn build_segment(
    variant: Variant,
    host: Netns,
    mut endpoints: Vec<Endpoint>,
    instance: Option<Instance>,
    mut namespaces: Vec<Netns>,
) -> Result<Segment> {
    let sender = endpoints.remove(0);
    let port = sender.netns.device(&sender.ifname)?.link_index.context("the sender's device has no peer")?;
    let name = host.name();
    namespaces.push(host);
    Ok(Segment {
        variant,
        host: name,
        port,
        sender,
        receivers: endpoints,
        _instance: instance,
        _namespaces: namespaces,
    })
}

/// Makes a container drop received frames in the first hook that all variants share, because IP
/// would spend more time on each frame than the switch. The rule disappears with the namespace.
fn drop_received_frames(receiver: &Endpoint) -> Result<()> {
    let hook = format!("{{ type filter hook ingress device {} priority 0 ; }}", receiver.ifname);
    let rules =
        format!("add table netdev bench; add chain netdev bench sink {hook}; add rule netdev bench sink counter drop");
    command::run(receiver.netns.command("nft").arg(rules))?;
    Ok(())
}
