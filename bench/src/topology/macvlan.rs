//! The kernel's macvlan in bridge mode: the containers' devices share one parent, the near end of a wire.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{Addressed, CLIENT, Endpoint, Injection, Pair, SERVER, Uplink, Variant, finish_frames, wire};
use crate::namespaces::{Netns, NetnsName};

pub fn pair() -> Result<Pair> {
    let (a, b) = (Netns::create("macvlan-a")?, Netns::create("macvlan-b")?);
    let (host, far) = (Netns::create("macvlan-host")?, Netns::create("macvlan-wire")?);
    wire(&host, &far, "parent")?;
    let client = endpoint(&host, &a, CLIENT)?;
    let server = endpoint(&host, &b, SERVER)?;
    Ok(Pair::without_switch(Variant::Macvlan, client, server, vec![a, b, host, far]))
}

pub fn uplink(variant: Variant) -> Result<Uplink> {
    let (far, container) = (Netns::create("macvlan-wire")?, Netns::create("macvlan-c")?);
    let host = Netns::create("macvlan-host")?;
    let from = wire(&host, &far, "parent")?;
    if variant == Variant::MacvlanPlain {
        finish_frames(&far)?;
    }
    let to = endpoint(&host, &container, SERVER)?;
    from.reach(&to)?;
    Ok(Uplink {
        variant,
        host: host.name(),
        ifname: "parent".to_owned(),
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

fn endpoint(host: &NetnsName, container: &NetnsName, ipv4: Ipv4Addr) -> Result<Endpoint> {
    host.ip(&format!("link add link parent name eth0 netns {container} type macvlan mode bridge"))?;
    Endpoint::configure(container, "eth0", ipv4)
}
