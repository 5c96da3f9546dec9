//! No switch: one veth pair between the two ends.

use anyhow::Result;

use super::{
    pair::Pair,
    parts::{CLIENT, SERVER, create_wire},
    uplink::{FrameAddress, Injection, Uplink},
    variant::Variant,
};
use crate::{endpoint::Endpoint, namespaces::Netns};

pub fn pair() -> Result<Pair> {
    let (a, b) = (Netns::create("direct-a")?, Netns::create("direct-b")?);
    a.ip(&format!("link add eth0 type veth peer name eth0 netns {}", b.name()))?;
    let client = Endpoint::configure(&a, "eth0", CLIENT)?;
    let server = Endpoint::configure(&b, "eth0", SERVER)?;
    Ok(Pair::without_switch(Variant::Direct, client, server, vec![a, b]))
}

/// Builds a wire that ends in the container itself. It shows the cost of receiving a frame.
pub fn uplink() -> Result<Uplink> {
    let (far, container) = (Netns::create("direct-wire")?, Netns::create("direct-c")?);
    let wire_end = create_wire(&container, &far, "eth0")?;
    let container_end = Endpoint::configure(&container, "eth0", SERVER)?;
    wire_end.reach(&container_end)?;
    Ok(Uplink {
        variant: Variant::Direct,
        host: container.name(),
        ifname: "eth0".to_owned(),
        injection: Injection::Pass,
        wire_mac: far.device("wire0")?.address,
        wire: wire_end,
        container: container_end,
        address: FrameAddress::Mac,
        instance: None,
        _tagger: None,
        _namespaces: vec![far, container],
    })
}
