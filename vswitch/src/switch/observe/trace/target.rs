//! The sender and the destination of a traced frame, found in the state of the switch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use vswitch_common::Mac;

use super::build::{Content, Sender, frame, group_mac, link_local, plain, tagged};
use super::error::TraceError;
use super::{TraceContent, TraceQuery};
use crate::model::TraceProtocol;
use crate::switch::context::NamedPort;
use crate::switch::error::SwitchError;
use crate::switch::observe::Observe;
use crate::switch::others;
use crate::switch::state::{NetworkEntry, State};

/// The name of the host in every network.
const HOST: &str = "host";
/// The MAC address of a machine behind an uplink if no station was learned there.
const STRANGER: Mac = Mac([0x02, 0x76, 0x73, 0x77, 0x00, 0x01]);
/// The default ports of TCP and UDP: an ephemeral one, and HTTP's.
const PORTS: (u16, u16) = (49152, 80);

/// The destination of a traced frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A MAC address.
    Station(Mac),
    /// An IP address.
    Address(IpAddr),
}

impl FromStr for Target {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let mac = text.parse().map(Self::Station).ok();
        let target = mac.or_else(|| text.parse().map(Self::Address).ok());
        target.ok_or_else(|| TraceError::Target(text.to_owned()))
    }
}

impl Observe {
    /// Returns the port that a frame of a sender for a target comes in by. A sender in several
    /// networks uses the one with the target, or that of its default route.
    pub fn source_port(&self, query: &TraceQuery, target: Option<Target>) -> Result<NamedPort, SwitchError> {
        let from = query.from.as_str();
        let mut ports = self.context.ports_by_number();
        if let Some(reference) = &query.network {
            let network = self.context.snapshot().find_network(reference)?.record.id;
            ports.retain(|_, port| port.network == network);
        }
        let of_endpoint: Vec<NamedPort> = {
            let state = self.context.snapshot();
            match state.find_endpoint(from) {
                Ok(entries) => entries.iter().filter_map(|entry| ports.get(&entry.port?.number)).cloned().collect(),
                Err(SwitchError::EndpointNotFound(_)) => Vec::new(),
                Err(error) => return Err(error),
            }
        };
        let named = |port: &&NamedPort| port.name == from;
        let is_host = |port: &&NamedPort| from == HOST && port.kind == "host";
        let mut found = of_endpoint;
        if found.is_empty() {
            found = ports.values().filter(named).cloned().collect();
        }
        if found.is_empty() {
            found = ports.values().filter(is_host).cloned().collect();
        }
        // An endpoint sends by its default route to a target in none of its networks.
        let is_everywhere = found.iter().any(|port| matches!(port.kind, "host" | "tunnel"));
        let place = found.iter().position(|port| target.is_some_and(|target| self.is_near(port, target)));
        match (place, found.len()) {
            (_, 0) => Err(SwitchError::PortNotFound(from.to_owned())),
            (Some(place), _) => Ok(found.swap_remove(place)),
            (None, 2..) if is_everywhere => {
                let target = target.map_or_else(|| "the frame".to_owned(), name);
                Err(TraceError::WhichNetwork { from: from.to_owned(), target }.into())
            }
            (None, _) => Ok(found.swap_remove(0)),
        }
    }

    /// Returns whether a target is in the network of a port.
    fn is_near(&self, port: &NamedPort, target: Target) -> bool {
        let state = self.context.snapshot();
        let Some(network) = state.networks.get(&port.network) else { return false };
        match target {
            Target::Address(address) => network.record.subnet_of(address).is_some(),
            Target::Station(mac) => {
                let number = network.record.number;
                drop(state);
                self.context
                    .datapath
                    .fdb()
                    .is_ok_and(|fdb| fdb.iter().any(|(key, _)| (key.network, key.mac) == (number, mac)))
            }
        }
    }

    /// Builds the frame that the station of a port would send.
    pub fn built(&self, port: &NamedPort, content: &TraceContent) -> Result<Vec<u8>, SwitchError> {
        let sender = self.sender(port)?;
        let ports = (content.source_port.unwrap_or(PORTS.0), content.destination_port.unwrap_or(PORTS.1));
        let (destination, address) = match content.to {
            Target::Station(mac) => (Some(mac), self.address_of(port, mac, &sender)),
            Target::Address(address) => (None, Some(address)),
        };
        let frame = match (address, content.protocol) {
            (None, None) => plain(sender.mac, destination.unwrap_or(Mac::BROADCAST)),
            (None, Some(_)) => return Err(TraceError::NoIp(destination.unwrap_or(Mac::ZERO)).into()),
            (Some(target), protocol) => {
                let protocol = protocol.unwrap_or(TraceProtocol::Icmp);
                let destination = match (destination, protocol) {
                    (None, TraceProtocol::Arp) => None,
                    (None, _) => Some(self.next_hop(port, &sender, target)?),
                    (given, _) => given,
                };
                frame(&sender, &Content { destination, target, protocol, ports })?
            }
        };
        Ok(match content.vlan {
            Some(vlan) => tagged(frame, vlan),
            None => frame,
        })
    }

    fn sender(&self, port: &NamedPort) -> Result<Sender, SwitchError> {
        let entry = self.context.datapath.ports()?.into_iter().find(|(number, _)| *number == port.number);
        let (_, entry) = entry.ok_or(SwitchError::PortGone(port.number))?;
        let name = port.name.clone();
        if port.kind == "tunnel"
            && let Some(station) = self.station_behind(port)
        {
            return Ok(Sender { name, ..station });
        }
        if matches!(port.kind, "uplink" | "tunnel") {
            // The interface's own address is the host's, so another machine on the wire is the
            // sender.
            let mut heard = self.context.datapath.fdb()?.into_iter().filter(|(key, station)| {
                station.port == port.number && !station.is_static() && key.network == entry.network
            });
            let mac = heard.next().map_or(STRANGER, |(key, _)| key.mac);
            let state = self.context.snapshot();
            let subnets = state.networks.get(&port.network).map(|network| &network.record.subnets);
            let ips = subnets.into_iter().flatten().map(|config| last_host(config.subnet.net()));
            return Ok(Sender { name, mac, ips: ips.collect() });
        }
        let state = self.context.snapshot();
        let ips = match port.kind {
            "host" => state.networks.get(&port.network).map(|network| network.record.gateways().collect()),
            _ => {
                let of_port = state
                    .endpoints_of(port.network)
                    .find(|entry| entry.port.is_some_and(|handle| handle.number == port.number));
                of_port.and_then(|entry| entry.record.address.as_ref()).map(|address| address.ips().collect())
            }
        };
        Ok(Sender { name, mac: entry.mac, ips: ips.unwrap_or_default() })
    }

    /// Returns an endpoint of the cluster on the host behind a tunnel.
    fn station_behind(&self, port: &NamedPort) -> Option<Sender> {
        let state = self.context.snapshot();
        let peer = state
            .networks
            .get(&port.network)?
            .tunnels
            .as_ref()?
            .iter()
            .find(|(_, handle)| handle.number == port.number)?
            .0;
        let host = state.others.hosts.values().find(|host| host.address == *peer)?.id;
        let station = state.others.of_network(port.network).find(|station| station.host == host)?;
        Some(Sender { name: String::new(), mac: station.mac.get(), ips: others::addresses(station).collect() })
    }

    /// Returns the IP address of a station in a port's network, if one is known: the first in a
    /// family of the sender.
    fn address_of(&self, port: &NamedPort, mac: Mac, sender: &Sender) -> Option<IpAddr> {
        let fits = |ip: &IpAddr| sender.ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
        if mac == Mac::BROADCAST {
            return Some(IpAddr::V4(Ipv4Addr::BROADCAST)).filter(fits);
        }
        let is_host = self.host_mac(port) == Some(mac);
        let state = self.context.snapshot();
        let network = state.networks.get(&port.network)?;
        if is_host {
            return network.record.gateways().find(fits);
        }
        stations(&state, network).find(|(station, _)| *station == mac)?.1.into_iter().find(fits)
    }

    /// Returns the MAC address that a packet for an address is sent to.
    fn next_hop(&self, port: &NamedPort, sender: &Sender, target: IpAddr) -> Result<Mac, SwitchError> {
        if let Some(group) = group_mac(target) {
            return Ok(group);
        }
        let host = self.host_mac(port);
        let state = self.context.snapshot();
        let gone = || SwitchError::NetworkNotFound(port.network_name.clone());
        let network = state.networks.get(&port.network).ok_or_else(gone)?;
        let has = |mac: Mac, ip: IpAddr| ip == target || target == IpAddr::V6(link_local(mac));
        let owner = stations(&state, network).find(|(mac, ips)| ips.iter().any(|ip| has(*mac, *ip)));
        let is_hosts = network.record.gateways().any(|gateway| gateway == target)
            || host.is_some_and(|host| target == IpAddr::V6(link_local(host)));
        let near = network.record.subnet_of(target);
        let is_last =
            near.is_some_and(|config| matches!(config.subnet.net(), IpNet::V4(net) if net.broadcast() == target));
        let link_local = matches!(target, IpAddr::V6(ip) if ip.is_unicast_link_local());
        match owner {
            Some((owner, _)) => Ok(owner),
            None if is_hosts => host.ok_or_else(|| TraceError::NoOwner { address: target }.into()),
            None if is_last => Ok(Mac::BROADCAST),
            None if near.is_some() || link_local => Err(TraceError::NoOwner { address: target }.into()),
            None => {
                let routed = port.kind == "endpoint" && !network.record.internal;
                let no_route = || TraceError::NoRoute { from: sender.name.clone(), target };
                Ok(host.filter(|_| routed).ok_or_else(no_route)?)
            }
        }
    }

    /// Returns the host's MAC address in a port's network.
    fn host_mac(&self, port: &NamedPort) -> Option<Mac> {
        let number = self.context.snapshot().networks.get(&port.network)?.host_port?.number;
        let ports = self.context.datapath.ports().ok()?;
        ports.into_iter().find(|(other, _)| *other == number).map(|(_, entry)| entry.mac)
    }
}

/// Returns the MAC and IP addresses of a network's endpoints, on this host and on the others of a
/// cluster.
fn stations(state: &State, network: &NetworkEntry) -> impl Iterator<Item = (Mac, Vec<IpAddr>)> {
    let id = network.record.id;
    let here = state.endpoints_of(id).filter_map(|entry| entry.record.address.as_ref());
    let here = here.map(|address| (address.mac.get(), address.ips().collect()));
    here.chain(state.others.of_network(id).map(|other| (other.mac.get(), others::addresses(other).collect())))
}

/// Returns the last host address of a subnet, for a machine on the wire.
fn last_host(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(subnet) => Ipv4Addr::from_bits(subnet.broadcast().to_bits().saturating_sub(1)).into(),
        IpNet::V6(subnet) => Ipv6Addr::from_bits(subnet.broadcast().to_bits()).into(),
    }
}

fn name(target: Target) -> String {
    match target {
        Target::Station(mac) => mac.to_string(),
        Target::Address(address) => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_station_or_an_address() {
        assert!(matches!("02:00:00:00:00:01".parse(), Ok(Target::Station(_))));
        assert!(matches!("10.0.0.1".parse(), Ok(Target::Address(IpAddr::V4(_)))));
        assert!(matches!("fd00::1".parse(), Ok(Target::Address(IpAddr::V6(_)))));
        for bad in ["", "web", "10.0.0.0/8", "02:00"] {
            assert!(matches!(bad.parse::<Target>(), Err(TraceError::Target(_))), "{bad}");
        }
    }

    #[test]
    fn a_machine_on_the_wire_has_the_last_address_of_the_subnet() {
        let last = |subnet: &str| last_host(subnet.parse().expect("a subnet")).to_string();
        assert_eq!(last("10.77.0.0/24"), "10.77.0.254");
        assert_eq!(last("fd00::/126"), "fd00::3");
    }
}
