//! The kernel's macvlan in bridge mode. The containers' devices share one parent, the near end of a
//! wire.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{
    pair::Pair,
    parts::{CLIENT, SERVER, create_wire, disable_checksum_offload},
    uplink::{FrameAddress, Injection, Uplink},
    variant::Variant,
};
use crate::{
    endpoint::Endpoint,
    namespaces::{Netns, NetnsName},
};

pub fn pair() -> Result<Pair> {
    let (a, b) = (Netns::create("macvlan-a")?, Netns::create("macvlan-b")?);
    let (host, far) = (Netns::create("macvlan-host")?, Netns::create("macvlan-wire")?);
    create_wire(&host, &far, "parent")?;
    let client = endpoint(&host, &a, CLIENT)?;
    let server = endpoint(&host, &b, SERVER)?;
    Ok(Pair::without_switch(Variant::Macvlan, client, server, vec![a, b, host, far]))
}

pub fn uplink(variant: Variant) -> Result<Uplink> {
    let (far, container) = (Netns::create("macvlan-wire")?, Netns::create("macvlan-c")?);
    let host = Netns::create("macvlan-host")?;
    let wire_end = create_wire(&host, &far, "parent")?;
    if variant == Variant::MacvlanPlain {
        disable_checksum_offload(&far)?;
    }
    let container_end = endpoint(&host, &container, SERVER)?;
    wire_end.reach(&container_end)?;
    Ok(Uplink {
        variant,
        host: host.name(),
        ifname: "parent".to_owned(),
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

fn endpoint(host: &NetnsName, container: &NetnsName, ipv4: Ipv4Addr) -> Result<Endpoint> {
    host.ip(&format!("link add link parent name eth0 netns {container} type macvlan mode bridge"))?;
    Endpoint::configure(container, "eth0", ipv4)
}
