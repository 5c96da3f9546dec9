//! Compares the records with the kernel's state: which endpoints run, which must be made, and which
//! devices and ports of the instance have no record. Pure: the switch acts on the result.

use std::collections::{BTreeMap, BTreeSet};

use vswitch_common::tables::PortNumber;

use crate::kernel::netlink::Link;
use crate::model::{Endpoint, EndpointId, Instance, Network, Owner, Phase};

/// State of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Links of the daemon's namespace.
    pub links: &'a [Link],
    /// Ports of the datapath, with the indexes of their devices.
    pub ports: &'a [(PortNumber, u32)],
}

/// Differences, in the order in which they are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Devices with a mark of the instance but without a record, with index and name.
    pub stray_links: Vec<(u32, String)>,
    /// Ports whose devices do not exist or do not belong to the instance.
    pub stray_ports: Vec<PortNumber>,
    /// Endpoints that run, with the indexes of their devices.
    pub running: Vec<(EndpointId, u32)>,
    /// Endpoints without a device, or recorded as unfinished.
    pub missing: Vec<EndpointId>,
    /// The endpoints of `missing` whose device exists.
    pub unfinished: Vec<EndpointId>,
}

/// Compares the records of an instance with the state of the kernel.
pub fn compare(instance: &Instance, networks: &[Network], endpoints: &[Endpoint], found: Found<'_>) -> Difference {
    let by_id: BTreeMap<EndpointId, &Endpoint> = endpoints.iter().map(|endpoint| (endpoint.id, endpoint)).collect();
    let host_devices: BTreeSet<String> = networks.iter().map(|network| instance.host_device(&network.name)).collect();

    let mut difference = Difference::default();
    let mut keep = BTreeSet::new();
    let mut there = BTreeSet::new();
    for link in found.links {
        let Some(owner) = link.alias.as_deref().and_then(|alias| instance.owner(alias)) else { continue };
        let known = match owner {
            Owner::Host => host_devices.contains(&link.name),
            Owner::Endpoint(id) => by_id.contains_key(&id) && instance.port_device(&id) == link.name,
            // Tunnels are compared where they are made.
            Owner::Tunnel => {
                let [receiver, _] = instance.receiver_devices();
                instance.tunnel_device() == link.name || receiver == link.name
            }
            Owner::Wireguard => instance.wireguard_device() == link.name,
        };
        if !known {
            difference.stray_links.push((link.index, link.name.clone()));
            continue;
        }
        match owner {
            // The port is the other end of the pair.
            Owner::Host => keep.extend(link.peer_index),
            Owner::Tunnel => {
                keep.insert(link.index);
            }
            // The WireGuard device is no port.
            Owner::Wireguard => {}
            Owner::Endpoint(id) => {
                keep.insert(link.index);
                if by_id[&id].phase == Phase::Attached {
                    there.insert(id);
                    difference.running.push((id, link.index));
                } else {
                    difference.unfinished.push(id);
                }
            }
        }
    }
    let uplinks: BTreeSet<u32> = {
        let befores = networks.iter().filter_map(|network| network.uplink_before.as_ref());
        befores.map(|before| before.index).collect()
    };
    let stray = |(_, index): &&(PortNumber, u32)| !keep.contains(index) && !uplinks.contains(index);
    difference.stray_ports = found.ports.iter().filter(stray).map(|(number, _)| *number).collect();
    difference.missing = endpoints.iter().map(|endpoint| endpoint.id).filter(|id| !there.contains(id)).collect();
    difference
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::model::UplinkBefore;

    fn instance() -> Instance {
        Instance::new("h1".parse().expect("a name"))
    }

    fn network() -> Network {
        let uplink_before = UplinkBefore {
            interface: "eth1".parse().expect("a name"),
            index: 3,
            promiscuous: false,
            rx_vlan_offload: None,
        };
        Network { uplink_before: Some(uplink_before), ..testing::network() }
    }

    fn endpoint(seed: u8, phase: Phase) -> Endpoint {
        Endpoint {
            id: EndpointId::from_bytes([seed; 32]),
            name: format!("e{seed}").parse().expect("a name"),
            address: None,
            phase,
            ..testing::endpoint()
        }
    }

    fn link(index: u32, name: String, alias: Option<String>, peer_index: Option<u32>) -> Link {
        Link {
            index,
            name,
            mac: None,
            mtu: 1500,
            kind: Some("veth".to_owned()),
            up: true,
            running: true,
            alias,
            peer_index,
            peer_netnsid: None,
            promiscuous: false,
            xdp_program: None,
            loopback: false,
            master: None,
            vxlan_port: None,
        }
    }

    #[test]
    fn running_endpoints_stay_and_devices_without_a_record_are_stray() {
        let (instance, network) = (instance(), network());
        let (running, half, gone) =
            (endpoint(1, Phase::Attached), endpoint(2, Phase::Attaching), endpoint(3, Phase::Attached));
        let forgotten = endpoint(4, Phase::Attached);
        let of = |index, endpoint: &Endpoint| {
            let mark = instance.mark(&network.name, Owner::Endpoint(endpoint.id));
            link(index, instance.port_device(&endpoint.id), Some(mark), Some(2))
        };
        let host_mark = Some(instance.mark(&network.name, Owner::Host));
        let links = [
            link(1, "lo".to_owned(), None, None),
            link(3, "eth1".to_owned(), Some("vswitch:other:front:host".to_owned()), None),
            link(10, instance.host_device(&network.name), host_mark.clone(), Some(11)),
            link(11, instance.host_port_device(&network.id), None, Some(10)),
            of(12, &running),
            of(13, &half),
            of(14, &forgotten),
            link(15, "vsw-old".to_owned(), host_mark, Some(16)),
        ];
        let ports = [(1, 11), (2, 12), (3, 13), (4, 14), (5, 3), (6, 99)].map(|(n, index)| (PortNumber(n), index));
        let endpoints = [running.clone(), half.clone(), gone.clone()];
        let difference = compare(&instance, &[network], &endpoints, Found { links: &links, ports: &ports });
        assert_eq!(difference.running, [(running.id, 12)]);
        assert_eq!(difference.missing, [half.id, gone.id], "an unfinished endpoint is missing");
        assert_eq!(difference.unfinished, [half.id]);
        assert_eq!(difference.stray_links.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [14, 15]);
        assert_eq!(difference.stray_ports, [PortNumber(4), PortNumber(6)]);
    }

    #[test]
    fn without_devices_every_endpoint_is_missing() {
        let endpoints = [endpoint(1, Phase::Attached)];
        let difference = compare(&instance(), &[network()], &endpoints, Found { links: &[], ports: &[] });
        assert_eq!(difference, Difference { missing: vec![endpoints[0].id], ..Difference::default() });
    }
}
