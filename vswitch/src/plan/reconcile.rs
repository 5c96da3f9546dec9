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
    /// Endpoints that run, with the indexes of their devices: whatever the other end is called and
    /// wherever it is, and also if the record is behind.
    pub running: Vec<(EndpointId, u32)>,
    /// Endpoints to attach again: without a device, or with one that was never up.
    pub missing: Vec<EndpointId>,
    /// The endpoints of `missing` whose device exists.
    pub unfinished: Vec<EndpointId>,
    /// Endpoints to remove, with the indexes of their devices: a detach that was begun, or an
    /// attach that had only reserved addresses.
    pub leaving: Vec<(EndpointId, Option<u32>)>,
}

/// Compares the records of an instance with the state of the kernel.
pub fn compare(instance: &Instance, networks: &[Network], endpoints: &[Endpoint], found: Found<'_>) -> Difference {
    let by_id: BTreeMap<EndpointId, &Endpoint> = endpoints.iter().map(|endpoint| (endpoint.id, endpoint)).collect();
    let host_devices: BTreeSet<String> =
        networks.iter().map(|network| instance.host_device(network.device_name())).collect();

    let mut difference = Difference::default();
    let mut keep = BTreeSet::new();
    let mut devices: BTreeMap<EndpointId, &Link> = BTreeMap::new();
    for link in found.links {
        let Some(owner) = link.alias.as_deref().and_then(|alias| instance.owner(alias)) else { continue };
        let known = match owner {
            Owner::Host => host_devices.contains(&link.name),
            // A device that is up has a container behind it, whatever it is called by now.
            Owner::Endpoint(id) => {
                by_id.contains_key(&id)
                    && !devices.contains_key(&id)
                    && (link.up || instance.port_device(&id) == link.name)
            }
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
                devices.insert(id, link);
            }
        }
    }
    let uplinks: BTreeSet<u32> = {
        let befores = networks.iter().filter_map(|network| network.uplink_before.as_ref());
        befores.map(|before| before.index).collect()
    };
    let stray = |(_, index): &&(PortNumber, u32)| !keep.contains(index) && !uplinks.contains(index);
    difference.stray_ports = found.ports.iter().filter(stray).map(|(number, _)| *number).collect();
    for Endpoint { id, phase, .. } in endpoints {
        match (phase, devices.get(id)) {
            (Phase::Detaching, device) => difference.leaving.push((*id, device.map(|link| link.index))),
            (Phase::Reserved, None) => difference.leaving.push((*id, None)),
            (Phase::Attached, Some(link)) => difference.running.push((*id, link.index)),
            // The port's device goes up last, once the port is complete.
            (_, Some(link)) if link.up => difference.running.push((*id, link.index)),
            (_, Some(_)) => {
                difference.unfinished.push(*id);
                difference.missing.push(*id);
            }
            (_, None) => difference.missing.push(*id),
        }
    }
    difference
}

#[cfg(test)]
mod tests {
    use std::slice;

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
            let mark = instance.mark(network.device_name(), Owner::Endpoint(endpoint.id));
            link(index, instance.port_device(&endpoint.id), Some(mark), Some(2))
        };
        let host_mark = Some(instance.mark(network.device_name(), Owner::Host));
        let links = [
            link(1, "lo".to_owned(), None, None),
            link(3, "eth1".to_owned(), Some("vswitch:other:front:host".to_owned()), None),
            link(10, instance.host_device(network.device_name()), host_mark.clone(), Some(11)),
            link(11, instance.host_port_device(&network.id), None, Some(10)),
            of(12, &running),
            Link { up: false, ..of(13, &half) },
            of(14, &forgotten),
            link(15, "vsw-old".to_owned(), host_mark, Some(16)),
        ];
        let ports = [(1, 11), (2, 12), (3, 13), (4, 14), (5, 3), (6, 99)].map(|(n, index)| (PortNumber(n), index));
        let endpoints = [running.clone(), half.clone(), gone.clone()];
        let difference =
            compare(&instance, slice::from_ref(&network), &endpoints, Found { links: &links, ports: &ports });
        assert_eq!(difference.running, [(running.id, 12)]);
        assert_eq!(difference.missing, [half.id, gone.id], "an unfinished endpoint is missing");
        assert_eq!(difference.unfinished, [half.id]);
        assert_eq!(difference.stray_links.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [14, 15]);
        assert_eq!(difference.stray_ports, [PortNumber(4), PortNumber(6)]);
    }

    #[test]
    fn each_phase_is_finished_taken_over_or_undone() {
        let (instance, network) = (instance(), network());
        let phases = [Phase::Reserved, Phase::Attaching, Phase::Attached, Phase::Detaching];
        let endpoints: Vec<Endpoint> = (1..).zip(phases).map(|(seed, phase)| endpoint(seed, phase)).collect();
        let ids: Vec<EndpointId> = endpoints.iter().map(|endpoint| endpoint.id).collect();
        let device = |index: u32, up: bool, renamed: bool| {
            let id = ids[index as usize - 1];
            let name = if renamed { format!("other{index}") } else { instance.port_device(&id) };
            let mark = instance.mark(network.device_name(), Owner::Endpoint(id));
            Link { up, ..link(index, name, Some(mark), Some(2)) }
        };
        let compared = |links: &[Link]| {
            let found = Found { links, ports: &[] };
            let mut difference = compare(&instance, slice::from_ref(&network), &endpoints, found);
            difference.stray_links.clear();
            difference
        };
        // Without devices.
        let leaving = vec![(ids[0], None), (ids[3], None)];
        let none = Difference { missing: vec![ids[1], ids[2]], leaving, ..Difference::default() };
        assert_eq!(compared(&[]), none);
        // With devices that are up, whatever they are called.
        for renamed in [false, true] {
            let links: Vec<Link> = (1..=4).map(|index| device(index, true, renamed)).collect();
            let running = vec![(ids[0], 1), (ids[1], 2), (ids[2], 3)];
            let all = Difference { running, leaving: vec![(ids[3], Some(4))], ..Difference::default() };
            assert_eq!(compared(&links), all);
        }
        // With devices that are down. Only an attached endpoint ran.
        let links: Vec<Link> = (1..=4).map(|index| device(index, false, false)).collect();
        let half = Difference {
            running: vec![(ids[2], 3)],
            missing: vec![ids[0], ids[1]],
            unfinished: vec![ids[0], ids[1]],
            leaving: vec![(ids[3], Some(4))],
            ..Difference::default()
        };
        assert_eq!(compared(&links), half);
    }

    #[test]
    fn without_devices_every_endpoint_is_missing() {
        let endpoints = [endpoint(1, Phase::Attached)];
        let difference = compare(&instance(), &[network()], &endpoints, Found { links: &[], ports: &[] });
        assert_eq!(difference, Difference { missing: vec![endpoints[0].id], ..Difference::default() });
    }
}
