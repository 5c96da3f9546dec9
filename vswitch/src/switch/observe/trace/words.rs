//! Decisions and lookups in words.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use vswitch_common::forward::Copied;
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    FdbEntry, FdbKey, ListenerKey, NeighborKey, Network, NetworkNumber, Port, PortKind, PortNumber, StormClass, Subnet,
    VlanKey, ticks_to_seconds,
};
use vswitch_common::verdict::{Answer, Decision, Delivery, DropReason, Flood, Verdict, action, tag};

use super::result::TraceVerdict;
use crate::datapath::Lookup;
use crate::model::OverlayOptions;
use crate::switch::context::NamedPort;

/// The most copies of a flood that are listed.
const MOST_COPIES: usize = 16;

/// The names of ports and networks.
#[derive(Debug)]
pub struct Names {
    pub ports: BTreeMap<PortNumber, NamedPort>,
    pub networks: BTreeMap<NetworkNumber, String>,
    /// The options of overlay networks.
    pub overlays: BTreeMap<NetworkNumber, OverlayOptions>,
}

impl Names {
    /// Describes an entry that the core looked up, at the tick `now`.
    pub fn lookup(&self, lookup: &Lookup, now: u32) -> String {
        match lookup {
            Lookup::Device(ifindex, PortNumber::NONE) => format!("device {ifindex} is no port of the switch"),
            Lookup::Device(ifindex, number) => format!("device {ifindex} is {}", self.port(*number)),
            Lookup::Port(number, None) => format!("port {} is gone", number.0),
            Lookup::Port(number, Some(port)) => self.entry(*number, port),
            Lookup::Station(key, entry) => format!("FDB: {}{}", self.station(key), self.place(entry.as_ref(), now)),
            Lookup::Network(number, network) => format!("{} is {}", self.network(*number), nature(*network)),
            Lookup::Tunnel(key, port) => self.tunnel(key, *port),
            Lookup::Subnet(address, subnet) => self.owner(*address, *subnet),
            Lookup::Neighbor(key, owner) => self.neighbor(key, *owner),
            Lookup::Trunk(port, vlan, listed) => {
                let (port, vlan, is) = (self.port(*port), vlan_name(*vlan), if *listed { "is" } else { "is not" });
                format!("{vlan} {is} on the list of {port}")
            }
            Lookup::Own(key, owns) => {
                let (address, port, has) =
                    (ip(key.address), self.port(key.port), if *owns { "has" } else { "does not have" });
                format!("{port} {has} {address} in another network")
            }
            Lookup::Listener(key, listens) => self.listener(key, *listens),
            Lookup::Storm(port, class, window) => {
                let count = if window.tick == now { window.count } else { 0 };
                let (port, class) = (self.port(*port), storm_class(*class as u16));
                format!("{port} has flooded {count} {class} frames in this second")
            }
        }
    }

    /// Describes the consequences of a decision besides the verdict.
    pub fn consequences(&self, decision: &Decision) -> Vec<String> {
        let mut texts = Vec::new();
        if let Some(key) = decision.learn() {
            let (station, port) = (self.station(&key), self.port(decision.ingress));
            texts.push(format!("the FDB would learn or refresh {station} -> {port}"));
        }
        if decision.storm != 0 {
            let class = storm_class(decision.storm);
            texts.push(format!("it would count as {class} against the storm limit of {}", self.port(decision.ingress)));
        }
        if decision.snoops != 0 {
            texts.push("the daemon would get a copy: it changes the listeners of a multicast group".to_owned());
        }
        texts
    }

    /// Describes the receivers of a flood.
    pub fn copies(&self, copies: &[(PortNumber, Copied)]) -> Vec<String> {
        let said = copies.iter().take(MOST_COPIES).map(|(number, copied)| match copied {
            Copied::Tag(tag) => format!("a copy to {}{}", self.port(*number), tag_change(*tag)),
            _ => format!("no copy to {}: the frame is longer than its limit", self.port(*number)),
        });
        let more = copies.len().saturating_sub(MOST_COPIES);
        let more = (more > 0).then(|| format!("and copies to {more} more ports"));
        let none = copies.is_empty().then(|| "no port would get a copy".to_owned());
        said.chain(more).chain(none).collect()
    }

    /// Describes the verdict of a decision.
    pub fn verdict(&self, decision: &Decision) -> TraceVerdict {
        let verdict = decision.verdict();
        let to = match verdict {
            Some(Verdict::Redirect(Delivery { port, .. }) | Verdict::Answer(_, port)) => {
                self.ports.get(&port).map(|port| port.name.clone())
            }
            _ => None,
        };
        let reason = if let Some(Verdict::Drop(reason)) = verdict { Some(reason) } else { None };
        let redirected = matches!(verdict, Some(Verdict::Redirect(_)));
        TraceVerdict {
            action: action_name(decision.action),
            to,
            to_host: redirected && decision.to.way == Delivery::LOCAL,
            tag: redirected.then(|| tag_name(decision.to.tag)),
            reason,
            explanation: self.outcome(decision, verdict),
            learns: decision.learns != 0,
            snoops: decision.snoops != 0,
            storm: (decision.storm != 0).then(|| storm_class(decision.storm)),
        }
    }

    fn outcome(&self, decision: &Decision, verdict: Option<Verdict>) -> String {
        match verdict {
            Some(Verdict::Defer) => "XDP defers it to tcx".to_owned(),
            Some(Verdict::Redirect(to)) => self.delivery(&to, decision.station.network),
            Some(Verdict::Flood(flood)) => format!("a copy to {}", receivers(flood)),
            Some(Verdict::Pass) => "to the host's IP stack, on the device where it arrived".to_owned(),
            Some(Verdict::Answer(answer, port)) => {
                let packet = match answer {
                    Answer::Arp => "an ARP reply",
                    Answer::Neighbor => "a neighbor advertisement",
                    Answer::TooBig => "an ICMP message with the path MTU",
                };
                format!("the switch answers it with {packet} on behalf of {}; no other port gets it", self.port(port))
            }
            Some(Verdict::Drop(reason)) => format!("dropped ({}): it is {}", reason.name(), self.reason(reason)),
            None => format!("no verdict: action {}, reason {}", decision.action, decision.reason),
        }
    }

    fn reason(&self, reason: DropReason) -> &'static str {
        reason.explanation()
    }

    fn delivery(&self, to: &Delivery, network: NetworkNumber) -> String {
        let port = self.port(to.port);
        let way = match (to.kind(), to.way == Delivery::LOCAL) {
            (Some(PortKind::Host), _) => format!("to the host's IP stack, by {port}"),
            (Some(PortKind::Uplink), true) => format!("to the host's IP stack on {port}"),
            (Some(PortKind::Parent), true) => format!("to the host's IP stack on {port}"),
            (Some(PortKind::Parent), false) if to.way == Delivery::ROUTED => {
                format!("to the next hop of the host's routes, by {port}")
            }
            (Some(PortKind::Parent), false) => format!("out on the wire, by {port}"),
            (Some(PortKind::Uplink), false) => format!("out on the wire, by {port}"),
            (Some(PortKind::Tunnel), _) => format!("to another host{}, by {port}", self.wrapping(network)),
            _ => format!("to {port}"),
        };
        way + tag_change(to.tag)
    }

    /// Describes how frames of a network travel between hosts.
    fn wrapping(&self, network: NetworkNumber) -> String {
        match self.overlays.get(&network) {
            Some(overlay) if overlay.encrypted => {
                format!(", in VXLAN with VNI {} inside WireGuard", overlay.vni_number())
            }
            Some(overlay) => format!(", in VXLAN with VNI {}", overlay.vni_number()),
            None => String::new(),
        }
    }

    fn tunnel(&self, key: &TunnelKey, port: Option<PortNumber>) -> String {
        let peer = ip(key.remote);
        match port {
            Some(port) => format!("packets of {peer} with VNI {} arrive on {}", key.vni, self.port(port)),
            None => format!("packets of {peer} with VNI {} are refused", key.vni),
        }
    }

    fn port(&self, number: PortNumber) -> String {
        match self.ports.get(&number) {
            Some(port) => format!("port {} ({})", number.0, port.name),
            None => format!("port {}", number.0),
        }
    }

    fn network(&self, number: NetworkNumber) -> String {
        match self.networks.get(&number) {
            Some(name) => format!("network {name}"),
            None => format!("network number {}", number.0),
        }
    }

    fn entry(&self, number: PortNumber, port: &Port) -> String {
        let kind = match port.kind() {
            Some(PortKind::Container) => "an endpoint's",
            Some(PortKind::Host) => "the host's",
            Some(PortKind::Uplink) => "an uplink",
            Some(PortKind::Parent) => "the parent",
            Some(PortKind::Child) => "an endpoint's",
            Some(PortKind::Tunnel) => "a tunnel",
            None => "of no kind",
        };
        let kind = match port.kind() {
            Some(PortKind::Tunnel) if port.mtu != 0 => format!("{kind} for packets of up to {} bytes", port.mtu),
            _ => kind.to_owned(),
        };
        let vlan = if port.vlan == VlanKey::NONE { String::new() } else { format!(", {}", vlan_name(port.vlan)) };
        let rules = rules(port);
        let rules = if rules.is_empty() { String::new() } else { format!(": {}", rules.join(", ")) };
        format!("{} is {kind}, in {}{vlan}{rules}", self.port(number), self.network(port.network))
    }

    fn station(&self, key: &FdbKey) -> String {
        format!("{} in {}, {}", key.mac, self.network(key.network), vlan_name(key.vlan))
    }

    fn place(&self, entry: Option<&FdbEntry>, now: u32) -> String {
        let Some(entry) = entry else { return ": unknown".to_owned() };
        let port = self.port(entry.port);
        let age = ticks_to_seconds(now.saturating_sub(entry.seen));
        let how = match (entry.is_static(), entry.is_static_or_sticky()) {
            (true, _) => "static".to_owned(),
            (false, true) => format!("sticky, heard {age} s ago"),
            (false, false) => format!("learned, heard {age} s ago"),
        };
        let held = if entry.is_held(now) { ", held: it moved too often" } else { "" };
        format!(" -> {port}, {how}{held}")
    }

    fn owner(&self, address: Address, subnet: Option<Subnet>) -> String {
        let address = ip(address);
        match subnet {
            None => format!("address {address} is in no subnet of a network"),
            Some(subnet) if subnet.is_gateway() => {
                format!("address {address} is a gateway address of the host in {}", self.network(subnet.network))
            }
            Some(subnet) => format!("address {address} is in a subnet of {}", self.network(subnet.network)),
        }
    }

    fn neighbor(&self, key: &NeighborKey, owner: PortNumber) -> String {
        let address = ip(key.address);
        match owner {
            PortNumber::NONE => {
                format!("address {address} has no known owner in {}", self.network(key.network))
            }
            port => format!("address {address} belongs to {}", self.port(port)),
        }
    }

    fn listener(&self, key: &ListenerKey, listens: bool) -> String {
        let (port, group) = (self.port(key.port), ip(key.group));
        format!("{port} {} to {group}", if listens { "listens" } else { "does not listen" })
    }
}

/// Returns the name of an action.
const fn action_name(number: u32) -> &'static str {
    match number {
        action::DEFER => "leave",
        action::REDIRECT => "redirect",
        action::FLOOD_GROUP => "flood_group",
        action::FLOOD_UNKNOWN => "flood_unknown",
        action::FLOOD_EXCEPT_HOST => "flood_apart",
        action::FLOOD_LISTENERS => "flood_listeners",
        action::FLOOD_LISTENERS_EXCEPT_HOST => "flood_listeners_apart",
        action::FLOOD_ROUTERS => "flood_routers",
        action::FLOOD_REFLECTED => "flood_reflected",
        action::FLOOD_CHILDREN => "flood_children",
        action::ANSWER_ARP => "answer_arp",
        action::ANSWER_NEIGHBOR => "answer_neighbor",
        action::ANSWER_TOO_BIG => "answer_too_big",
        action::PASS => "pass",
        action::DROP => "drop",
        _ => "unknown",
    }
}

const fn tag_change(number: u8) -> &'static str {
    match number {
        tag::POP => ", its VLAN tag taken off",
        tag::PUSH => ", with a tag of its VLAN put on",
        tag::NUMBER => ", its priority tag numbered with its VLAN",
        _ => "",
    }
}

const fn tag_name(number: u8) -> &'static str {
    match number {
        tag::POP => "pop",
        tag::PUSH => "push",
        tag::NUMBER => "number",
        _ => "keep",
    }
}

const fn storm_class(number: u16) -> &'static str {
    const BROADCAST: u16 = StormClass::Broadcast as u16;
    const MULTICAST: u16 = StormClass::Multicast as u16;
    const UNKNOWN: u16 = StormClass::Unknown as u16;
    match number {
        BROADCAST => "broadcast",
        MULTICAST => "multicast",
        UNKNOWN => "unknown unicast",
        _ => "other",
    }
}

const fn receivers(flood: Flood) -> &'static str {
    match flood {
        Flood::Group => "every other port of the network: the destination is a group",
        Flood::UnknownUnicast => {
            "every other port that may have unknown stations behind it: the destination is unknown"
        }
        Flood::ExceptHost => {
            "every other port of the network except the host port: the destination is a group that the host is not in"
        }
        Flood::Listeners => "every other port that listens to the group, or has a multicast router behind it",
        Flood::ListenersExceptHost => {
            "every other port except the host port that listens to the group or has a multicast router behind it"
        }
        Flood::Routers => "every other port that has a multicast router behind it: it is a membership report",
        Flood::Reflected => "the endpoints that receive reflected frames, except the sender",
        Flood::Children => "the endpoints that the host reaches, and the wire",
        Flood::Host => "the host alone: the port exceeds its storm limit",
    }
}

const fn nature(network: Network) -> &'static str {
    if network.is_internal() { "internal: no packet is routed into it or out of it" } else { "not internal" }
}

/// Returns the names of a port's rules.
fn rules(port: &Port) -> Vec<&'static str> {
    let flags = [
        (Port::ISOLATED, "isolated"),
        (Port::HAIRPIN, "hairpin"),
        (Port::LEARN, "learning"),
        (Port::ALL_VLANS, "trunk of all VLANs"),
        (Port::SPOOF_GUARD, "spoof_guard"),
        (Port::RA_GUARD, "ra_guard"),
        (Port::DHCP_GUARD, "dhcp_guard"),
        (Port::BPDU_GUARD, "bpdu_guard"),
        (Port::ARP_SUPPRESS, "arp_suppress"),
        (Port::SNOOPING, "snooping"),
        (Port::ROUTER, "multicast router"),
    ];
    let mut rules: Vec<_> = flags.into_iter().filter(|(flag, _)| port.has(*flag)).map(|(_, name)| name).collect();
    if port.has(Port::TRUNK) && !port.has(Port::ALL_VLANS) {
        rules.push("trunk");
    }
    rules
}

fn vlan_name(vlan: VlanKey) -> String {
    let service = if vlan.0 & VlanKey::SERVICE == 0 { "" } else { "s" };
    format!("VLAN {service}{}", vlan.0 & !VlanKey::SERVICE)
}

fn ip(address: Address) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(address.octets())).to_canonical()
}

#[cfg(test)]
mod tests;
