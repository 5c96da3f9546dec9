//! Plans the nftables table: pure functions from the wanted rules to the input of `nft`.
//!
//! Ports are looked up in maps, so the cost of a packet does not grow with the number of ports, and
//! only the first packet of a connection pays it. One map holds the address and another the port,
//! because the JSON of nft before 1.0.7 does not support a map to both. A long range that leads to the
//! same ports is one element.

mod element;
mod ranges;
mod statement;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use nftables::expr::Expression;
use nftables::schema::SetTypeValue::{Concatenated, Single};
use nftables::schema::{Chain, Map, NfCmd, NfListObject, NfObject, Nftables, Rule, Set, SetFlag, SetType, Table};
use nftables::stmt::Statement;
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::{NatError, NatNetwork, PortForward, Wanted};
use element::{Family, address, concatenated, mapped, name, net, port, port_range, protocol};
use statement::{
    accept, comes_by, dnat, drop_packet, field_in, field_is, jump, leaves_by, mark_published, masquerade, of_family,
    original_direction, return_from, route, to_host, translated,
};

/// The priorities that nft calls dstnat and srcnat. The filters of other programs have priority 0.
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const BEFORE_FILTERS: i32 = -10;
/// A priority before connection tracking.
const RAW: i32 = -300;

/// The port of the name servers (RFC 1035, 4.2).
const DNS: u16 = 53;

/// The address families. The names of each family's objects end in its digit.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Returns the commands that replace the table of this name in one transaction. `mark` is the bit
/// that marks connections to published ports. Returns `None` if no table is needed.
///
/// # Errors
/// Returns [`NatError::Conflict`] or [`NatError::Family`] for forwards that are impossible.
pub(super) fn plan(table: &str, wanted: &Wanted, mark: u32) -> Result<Option<Nftables<'static>>, NatError> {
    if wanted.is_nothing() {
        return Ok(None);
    }
    let mut ruleset = Ruleset { table, commands: replace(table) };
    for family in FAMILIES {
        ruleset.sets(family, wanted);
    }
    let devices = wanted.devices().into_iter().map(name).collect();
    ruleset.set("our_devices", vec![SetType::Ifname], devices, false);
    let internal = wanted.networks.iter().filter(|network| network.internal).map(|network| name(&network.device));
    ruleset.set("internal_devices", vec![SetType::Ifname], internal.collect(), false);
    ruleset.publish(wanted)?;
    ruleset.forward(mark);
    ruleset.isolate(wanted);
    ruleset.postrouting(wanted);
    ruleset.no_strays();
    if let Some(port) = wanted.tunnels {
        ruleset.untracked(port);
    }
    Ok(Some(Nftables { objects: ruleset.commands.into() }))
}

/// Returns the commands that create a table anew, whether it exists or not. A delete command alone
/// would fail if the table did not exist.
fn replace(table: &str) -> Vec<NfObject<'static>> {
    let object = || NfListObject::Table(named_table(table));
    [NfCmd::Add(object()), NfCmd::Delete(object()), NfCmd::Add(object())].map(NfObject::CmdObject).into()
}

/// Returns the commands that delete a table, whether it exists or not.
pub(super) fn deletion(table: &str) -> Nftables<'static> {
    let mut commands = replace(table);
    commands.truncate(2);
    Nftables { objects: commands.into() }
}

fn named_table(name: &str) -> Table<'static> {
    Table { family: NfFamily::INet, name: name.to_owned().into(), handle: None }
}

struct Ruleset<'a> {
    table: &'a str,
    commands: Vec<NfObject<'static>>,
}

impl Ruleset<'_> {
    /// Adds the sets of subnets (all subnets, the masqueraded ones, those that nothing leaves with,
    /// and all with their devices), the set of addresses that have their default route elsewhere, and
    /// the sets of devices by gateway mode.
    fn sets(&mut self, family: Family, wanted: &Wanted) {
        let ipv4 = family == Family::V4;
        let subnets = |of: &dyn Fn(&NatNetwork) -> bool| {
            let networks = wanted.networks.iter().filter(|network| of(network));
            let nets: Vec<IpNet> = networks.flat_map(|network| &network.subnets).map(IpNet::trunc).collect();
            let nets = IpNet::aggregate(&nets);
            nets.into_iter().filter(|subnet| family.is_of(subnet.addr())).map(net).collect::<Vec<_>>()
        };
        self.set(&family.called("subnets"), vec![family.set_type()], subnets(&|_| true), true);
        let masqueraded = subnets(&|network| network.masquerades(ipv4));
        self.set(&family.called("masquerade"), vec![family.set_type()], masqueraded, true);
        let private = subnets(&|network| network.is_private(ipv4));
        self.set(&family.called("private"), vec![family.set_type()], private, true);
        let devices = |of: &dyn Fn(&NatNetwork) -> bool| {
            wanted.networks.iter().filter(|network| of(network)).map(|network| name(&network.device)).collect()
        };
        let closed = devices(&|network| network.is_closed(ipv4));
        self.set(&family.called("closed"), vec![SetType::Ifname], closed, false);
        let answering = wanted.forwards.iter().filter(|forward| forward.masquerade && family.is_of(forward.to));
        let answering: std::collections::BTreeSet<IpAddr> = answering.map(|forward| forward.to).collect();
        let answering = answering.into_iter().map(address).collect();
        self.set(&family.called("elsewhere"), vec![family.set_type()], answering, false);
        let isolated = devices(&|network| network.is_isolated(ipv4));
        self.set(&family.called("isolated"), vec![SetType::Ifname], isolated, false);
        let mut inside: Vec<_> = wanted
            .networks
            .iter()
            .flat_map(|network| network.subnets.iter().map(|subnet| (network.device.as_str(), subnet.trunc())))
            .filter(|(_, subnet)| family.is_of(subnet.addr()))
            .collect();
        inside.sort();
        inside.dedup();
        let inside = inside.into_iter().map(|(device, subnet)| concatenated([name(device), net(subnet)])).collect();
        self.set(&family.called("inside"), vec![SetType::Ifname, family.set_type()], inside, true);
    }

    /// Adds the rules that forward packets to published ports to the containers.
    fn publish(&mut self, wanted: &Wanted) -> Result<(), NatError> {
        self.base_chain("prerouting", NfChainType::NAT, NfHook::Prerouting, DSTNAT);
        self.base_chain("output", NfChainType::NAT, NfHook::Output, DSTNAT);
        // An internal network does not reach the published ports of other networks either.
        self.rule("prerouting", vec![comes_by("internal_devices"), return_from()]);
        for family in FAMILIES {
            let forwards = Forwards::of(family, wanted)?;
            if forwards.is_empty() {
                continue;
            }
            let chain = family.called("published");
            self.chain(&chain);
            if family == Family::V4 {
                // Packets from the wire are never for 127.0.0.1.
                self.rule("prerouting", vec![field_is(family, "daddr", Family::loopback()), return_from()]);
            }
            for hook in ["prerouting", "output"] {
                self.rule(hook, vec![of_family(family), to_host(), jump(&chain)]);
            }
            if family == Family::V4 {
                self.no_redirects();
            }
            // A port published at one address takes precedence over the same port published at all
            // addresses.
            let at_address = forwards
                .at_address
                .iter()
                .map(|(&(protocol, host, port), forward)| ((protocol, Some(host), port), *forward));
            self.translation(family, true, at_address);
            let at_all = forwards.at_all.iter().map(|(&(protocol, port), forward)| ((protocol, None, port), *forward));
            self.translation(family, false, at_all);
        }
        if !wanted.loopback_devices().is_empty() {
            self.loopback_guard();
        }
        Ok(())
    }

    /// Drops packets to 127.0.0.1 that come in through our devices. With route_localnet on a
    /// device, the kernel no longer discards such packets as forged. They are forged unless they
    /// are replies.
    fn loopback_guard(&mut self) {
        self.base_chain("input", NfChainType::Filter, NfHook::Input, BEFORE_FILTERS);
        let forged = vec![
            field_is(Family::V4, "daddr", Family::loopback()),
            comes_by("our_devices"),
            original_direction(),
            drop_packet(),
        ];
        self.rule("input", forged);
    }

    /// Drops ICMP redirects into our networks. If a published port leads back into the network of
    /// the client, the kernel would tell the client that a neighbor is the better next hop to the
    /// host's address. The client would believe that and no longer reach the host. (An IPv6
    /// redirect names the neighbor's own address, which is correct.)
    fn no_redirects(&mut self) {
        self.base_chain("redirects", NfChainType::Filter, NfHook::Output, BEFORE_FILTERS);
        self.rule("redirects", vec![statement::redirect(), leaves_by("our_devices"), drop_packet()]);
    }

    /// Adds the mark of published ports, and closes networks to the outside: what comes in by
    /// another device belongs to a known connection or to a published port. Packets between our
    /// networks are for the programs at the host ports to decide about.
    fn forward(&mut self, mark: u32) {
        self.base_chain("forward", NfChainType::Filter, NfHook::Forward, BEFORE_FILTERS);
        // A bit that another program has set opens nothing.
        self.rule("forward", vec![leaves_by("our_devices"), statement::unmark(mark)]);
        self.rule("forward", vec![leaves_by("our_devices"), translated(), mark_published(mark)]);
        self.rule("forward", vec![statement::known(), accept()]);
        self.rule("forward", vec![translated(), accept()]);
        for family in FAMILIES {
            let outside = ["our_devices", "internal_devices"].map(statement::comes_not_by);
            let mut closed = vec![of_family(family), leaves_by(&family.called("closed"))];
            closed.extend(outside);
            closed.push(drop_packet());
            self.rule("forward", closed);
        }
    }

    /// Separates isolated networks from the host: their endpoints reach its name server alone, and
    /// the host opens no connection to them.
    fn isolate(&mut self, wanted: &Wanted) {
        if !wanted.networks.iter().any(|network| network.is_isolated(true) || network.is_isolated(false)) {
            return;
        }
        self.base_chain("isolated_in", NfChainType::Filter, NfHook::Input, BEFORE_FILTERS);
        self.base_chain("isolated_out", NfChainType::Filter, NfHook::Output, BEFORE_FILTERS);
        for chain in ["isolated_in", "isolated_out"] {
            // Neighbor discovery.
            for message in ["nd-neighbor-solicit", "nd-neighbor-advert"] {
                self.rule(chain, vec![statement::icmpv6(message), accept()]);
            }
        }
        for family in FAMILIES {
            let set = family.called("isolated");
            for protocol in ["tcp", "udp"] {
                let to_names = vec![of_family(family), comes_by(&set), statement::to_port(protocol, DNS), accept()];
                self.rule("isolated_in", to_names);
            }
            self.rule("isolated_in", vec![of_family(family), comes_by(&set), drop_packet()]);
            self.rule("isolated_out", vec![of_family(family), leaves_by(&set), statement::known(), accept()]);
            self.rule("isolated_out", vec![of_family(family), leaves_by(&set), drop_packet()]);
        }
    }

    fn postrouting(&mut self, wanted: &Wanted) {
        self.base_chain("postrouting", NfChainType::NAT, NfHook::Postrouting, SRCNAT);
        for family in FAMILIES {
            let [subnets, masquerade_set, inside] = ["subnets", "masquerade", "inside"].map(|set| family.called(set));
            // Without masquerading, a container that connects to itself or to a neighbor through
            // the host port would get the reply from an address that it did not connect to.
            self.rule("postrouting", vec![translated(), route(family, &inside, true), masquerade()]);
            let elsewhere = field_in(family, "daddr", &family.called("elsewhere"), true);
            let answered = vec![translated(), statement::udp(), elsewhere, leaves_by("our_devices"), masquerade()];
            self.rule("postrouting", answered);
            if family == Family::V4 && !wanted.loopback_devices().is_empty() {
                let source = field_is(family, "saddr", Family::loopback());
                self.rule("postrouting", vec![translated(), source, leaves_by("our_devices"), masquerade()]);
            }
            let from_inside = field_in(family, "saddr", &masquerade_set, true);
            let to_outside = field_in(family, "daddr", &subnets, false);
            self.rule("postrouting", vec![from_inside, to_outside, route(family, &inside, false), masquerade()]);
        }
    }

    /// Keeps packets that conntrack assigns to no connection from doing harm. They are not
    /// translated, so they would leave with a private address, or reach the host's own stack. The
    /// stack knows nothing of the connection, and its RST would end it.
    fn no_strays(&mut self) {
        self.base_chain("private", NfChainType::Filter, NfHook::Postrouting, SRCNAT + 1);
        for family in FAMILIES {
            for (set, strays_only) in [("masquerade", true), ("private", false)] {
                let [set, subnets, inside] = [set, "subnets", "inside"].map(|set| family.called(set));
                let mut leaves = vec![comes_by("our_devices")];
                leaves.extend(strays_only.then(statement::of_no_connection));
                leaves.extend([
                    field_in(family, "saddr", &set, true),
                    field_in(family, "daddr", &subnets, false),
                    route(family, &inside, false),
                    drop_packet(),
                ]);
                self.rule("private", leaves);
            }
        }
        // A RST for a connection of the host, or for a port without a listener, belongs to an
        // entry of conntrack.
        self.base_chain("resets", NfChainType::Filter, NfHook::Output, BEFORE_FILTERS);
        self.rule("resets", vec![statement::reset(), statement::invalid(), drop_packet()]);
    }

    /// Excludes tunnel packets from connection tracking. Each inner flow has an outer source port
    /// of its own, and no outer packet is a reply to another. Tracking would cost each packet a
    /// lookup, and the table an entry for each flow. Tunnel packets that the host only forwards
    /// stay tracked, because they may need masquerading.
    fn untracked(&mut self, port: u16) {
        let to_port = || statement::to_port("udp", port);
        self.base_chain("tunnels_in", NfChainType::Filter, NfHook::Prerouting, RAW);
        self.rule("tunnels_in", vec![to_port(), to_host(), statement::untracked()]);
        self.base_chain("tunnels_out", NfChainType::Filter, NfHook::Output, RAW);
        self.rule("tunnels_out", vec![to_port(), statement::untracked()]);
    }

    /// Adds the maps of ports that are published at one address, or at all addresses, and the rules
    /// that look ports up in them: one map for the addresses of long ranges; for single ports, two
    /// maps with the same key.
    fn translation<'a>(
        &mut self,
        family: Family,
        by_address: bool,
        forwards: impl Iterator<Item = (ranges::Key, &'a PortForward)>,
    ) {
        let (runs, single) = ranges::split(forwards);
        let kind = family.called(if by_address { "at" } else { "any" });
        let key: &[SetType] = match by_address {
            true => &[SetType::InetProto, family.set_type(), SetType::InetService],
            false => &[SetType::InetProto, SetType::InetService],
        };
        let key_of = |protocol_number, host: Option<IpAddr>, port| match host {
            Some(host) => concatenated([protocol(protocol_number), address(host), port]),
            None => concatenated([protocol(protocol_number), port]),
        };
        if !runs.is_empty() {
            let name = format!("{kind}_ranges");
            let elements = runs.iter().map(|run| {
                mapped(key_of(run.protocol, run.host, port_range(run.first, run.last)), address(run.forward.to))
            });
            self.map(&name, key, family.set_type(), elements.collect(), true);
            self.rule(&family.called("published"), vec![dnat(family, by_address, &name, None)]);
        }
        if !single.is_empty() {
            let [addresses, ports] = ["addresses", "ports"].map(|what| format!("{kind}_{what}"));
            let elements = |value: fn(&PortForward) -> Expression<'static>| {
                let element = |((protocol, host, host_port), forward): &(ranges::Key, &PortForward)| {
                    mapped(key_of(*protocol, *host, port(*host_port)), value(forward))
                };
                single.iter().map(element).collect()
            };
            self.map(&addresses, key, family.set_type(), elements(|forward| address(forward.to)), false);
            self.map(&ports, key, SetType::InetService, elements(|forward| port(forward.to_port)), false);
            self.rule(&family.called("published"), vec![dnat(family, by_address, &addresses, Some(&ports))]);
        }
    }

    fn add(&mut self, object: NfListObject<'static>) {
        self.commands.push(NfObject::CmdObject(NfCmd::Add(object)));
    }

    fn set(&mut self, name: &str, types: Vec<SetType>, elements: Vec<Expression<'static>>, nets: bool) {
        let set_type = match types[..] {
            [single] => Single(single),
            _ => Concatenated(types.into()),
        };
        self.add(NfListObject::Set(Box::new(Set {
            family: NfFamily::INet,
            table: self.table.to_owned().into(),
            name: name.to_owned().into(),
            set_type,
            flags: nets.then(|| [SetFlag::Interval].into()),
            // nft refuses an empty list.
            elem: (!elements.is_empty()).then(|| elements.into()),
            ..Set::default()
        })));
    }

    fn map(&mut self, name: &str, key: &[SetType], value: SetType, elements: Vec<Expression<'static>>, ranges: bool) {
        self.add(NfListObject::Map(Box::new(Map {
            family: NfFamily::INet,
            table: self.table.to_owned().into(),
            name: name.to_owned().into(),
            set_type: Concatenated(key.to_vec().into()),
            map: Single(value),
            flags: ranges.then(|| [SetFlag::Interval].into()),
            elem: Some(elements.into()),
            ..Map::default()
        })));
    }

    fn chain(&mut self, name: &str) {
        let chain = Chain {
            family: NfFamily::INet,
            table: self.table.to_owned().into(),
            name: name.to_owned().into(),
            ..Chain::default()
        };
        self.add(NfListObject::Chain(chain));
    }

    fn base_chain(&mut self, name: &str, kind: NfChainType, hook: NfHook, priority: i32) {
        let chain = Chain {
            family: NfFamily::INet,
            table: self.table.to_owned().into(),
            name: name.to_owned().into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        };
        self.add(NfListObject::Chain(chain));
    }

    fn rule(&mut self, chain: &str, statements: Vec<Statement<'static>>) {
        let rule = Rule {
            family: NfFamily::INet,
            table: self.table.to_owned().into(),
            chain: chain.to_owned().into(),
            expr: statements.into(),
            ..Rule::default()
        };
        self.add(NfListObject::Rule(rule));
    }
}

/// The forwards of a family, sorted and without duplicates.
#[derive(Default)]
struct Forwards<'a> {
    at_address: BTreeMap<(crate::model::Protocol, IpAddr, u16), &'a PortForward>,
    at_all: BTreeMap<(crate::model::Protocol, u16), &'a PortForward>,
}

impl<'a> Forwards<'a> {
    fn of(family: Family, wanted: &'a Wanted) -> Result<Self, NatError> {
        let mut found = Self::default();
        for forward in wanted.forwards.iter().filter(|forward| family.is_of(forward.to)) {
            let PortForward { protocol, host_port, to, .. } = *forward;
            if let Some(host_ip) = forward.host_ip.filter(|host_ip| !family.is_of(*host_ip)) {
                return Err(NatError::Family { host_ip, to });
            }
            let other = match forward.address() {
                Some(address) => found.at_address.insert((protocol, address, host_port), forward),
                None => found.at_all.insert((protocol, host_port), forward),
            };
            if let Some(other) = other.filter(|other| (other.to, other.to_port) != (to, forward.to_port)) {
                return Err(NatError::Conflict { first: other.clone().into(), second: forward.clone().into() });
            }
        }
        Ok(found)
    }

    fn is_empty(&self) -> bool {
        self.at_address.is_empty() && self.at_all.is_empty()
    }
}

#[cfg(test)]
mod tests;
