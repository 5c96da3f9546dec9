//! No switch at all: one veth pair between the two ends.

use anyhow::Result;

use super::{Addressed, CLIENT, Endpoint, Injection, Pair, SERVER, Uplink, Variant, wire};
use crate::namespaces::Netns;

pub fn pair() -> Result<Pair> {
    let (a, b) = (Netns::create("direct-a")?, Netns::create("direct-b")?);
    a.ip(&format!("link add eth0 type veth peer name eth0 netns {}", b.name()))?;
    let client = Endpoint::configure(&a, "eth0", CLIENT)?;
    let server = Endpoint::configure(&b, "eth0", SERVER)?;
    Ok(Pair::without_switch(Variant::Direct, client, server, vec![a, b]))
}

/// The wire ends in the container itself: what is left is the cost of receiving a frame.
pub fn uplink() -> Result<Uplink> {
    let (far, container) = (Netns::create("direct-wire")?, Netns::create("direct-c")?);
    let from = wire(&container, &far, "eth0")?;
    let to = Endpoint::configure(&container, "eth0", SERVER)?;
    from.reach(&to)?;
    Ok(Uplink {
        variant: Variant::Direct,
        host: container.name(),
        ifname: "eth0".to_owned(),
        injection: Injection::Pass,
        wire_mac: far.device("wire0")?.address,
        wire: from,
        container: to,
        to: Addressed::Mac,
        instance: None,
        _tagging: None,
        _namespaces: vec![far, container],
    })
}
