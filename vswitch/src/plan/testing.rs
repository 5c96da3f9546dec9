//! Records for tests of the planners.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use vswitch_common::tables::NetworkNumber;

use crate::model::{
    BridgeOptions, Endpoint, EndpointAddress, EndpointId, EndpointOptions, NetnsRecord, Network, NetworkId,
    NetworkKind, Phase, SubnetConfig,
};

/// Returns a bridge network with an IPv4 subnet.
pub(super) fn network() -> Network {
    let subnet = SubnetConfig::new("10.9.8.0/24".parse().expect("a subnet"), None, None).expect("a configuration");
    Network {
        id: NetworkId::from_bytes([1; 32]),
        name: "front".parse().expect("a name"),
        number: NetworkNumber(3),
        kind: NetworkKind::Bridge(BridgeOptions::default()),
        subnets: vec![subnet],
        internal: false,
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        created: OffsetDateTime::UNIX_EPOCH,
        uplink_before: None,
        engine: None,
    }
}

/// Returns an endpoint of the network.
pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        id: EndpointId::from_bytes([0xab; 32]),
        name: "web".parse().expect("a name"),
        network: network().id,
        netns: NetnsRecord { path: "/run/netns/web".into(), dev: 4, inode: 5, cookie: None, process: None },
        address: Some(EndpointAddress {
            ifname: "eth0".parse().expect("a name"),
            mac: "02:00:00:00:00:01".parse().expect("a MAC address"),
            ipv4: Some([10, 9, 8, 2].into()),
            ipv6: None,
            mtu: 1400,
        }),
        hostname: None,
        aliases: Vec::new(),
        published: Vec::new(),
        waiting: Vec::new(),
        gw_priority: 0,
        options: BTreeMap::new(),
        port: EndpointOptions::default(),
        labels: BTreeMap::new(),
        created: OffsetDateTime::UNIX_EPOCH,
        phase: Phase::Attaching,
        engine: None,
        bare: false,
        unheld: false,
    }
}
