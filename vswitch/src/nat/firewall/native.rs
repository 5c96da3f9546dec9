//! Chains of other programs in nftables that drop packets of our networks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::evaluate::{Packet, Table};
use super::program::Family;
use crate::nat::{FirewallStatus, NatError, NatNetwork, Wanted, nft};

/// The name of firewalld's table.
pub(super) const FIREWALLD: &str = "firewalld";

/// A port that a client of the host may have.
const EPHEMERAL: u16 = 40_000;

/// A kind of packets that our networks need, and the rule that accepts it.
struct Need {
    hook: &'static str,
    /// What is dropped, as the beginning of a sentence.
    what: &'static str,
    devices: BTreeSet<String>,
    packets: Vec<Packet>,
    /// The rule behind the match of the device.
    rule: &'static str,
    /// Whether the rule matches the device that the packet leaves by.
    leaves: bool,
}

/// A base chain of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Base {
    family: String,
    table: String,
    name: String,
    hook: String,
}

/// Returns the state of the chains of other programs on the hooks that our packets pass.
pub(super) async fn check(
    chains: &[Value],
    our_table: &str,
    unreadable: &[Family],
    wanted: &Wanted,
) -> Result<Vec<FirewallStatus>, NatError> {
    let bases = bases(chains, our_table, unreadable);
    let needs = needs(wanted);
    if needs.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut listed: Vec<(String, String, Table)> = Vec::new();
    for base in &bases {
        if !listed.iter().any(|(family, table, _)| (family, table) == (&base.family, &base.table)) {
            let objects = nft::table(&base.family, &base.table).await?;
            listed.push((base.family.clone(), base.table.clone(), Table(objects)));
        }
        let table = listed.iter().find(|(family, table, _)| (family, table) == (&base.family, &base.table));
        found.extend(table.map(|(.., table)| base.status(table, &needs)));
    }
    Ok(found)
}

/// Returns the chains of other programs that our packets pass. Chains of iptables are left to
/// iptables, unless it cannot read them.
fn bases(chains: &[Value], our_table: &str, unreadable: &[Family]) -> Vec<Base> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = chains.iter().map(|object| &object["chain"]).map(|chain| {
        let [family, table, name, hook] = ["family", "table", "name", "hook"].map(|field| text(&chain[field]));
        Base { family, table, name, hook }
    });
    all.filter(|base| {
        let iptables = Family::ALL.into_iter().any(|family| {
            base.family == family.in_nft()
                && !unreadable.contains(&family)
                && base.table == "filter"
                && matches!(base.name.as_str(), "FORWARD" | "INPUT")
        });
        matches!(base.family.as_str(), "ip" | "ip6" | "inet")
            && matches!(base.hook.as_str(), "forward" | "input")
            && base.table != our_table
            && !iptables
    })
    .collect()
}

impl Base {
    /// Returns what this chain does to our packets.
    fn status(&self, table: &Table, needs: &[Need]) -> FirewallStatus {
        let Self { family, table: table_name, name, hook } = self;
        let of_family = |packet: &&Packet| match family.as_str() {
            "ip" => packet.ipv4,
            "ip6" => !packet.ipv4,
            _ => true,
        };
        let dropped: Vec<_> = needs
            .iter()
            .filter(|need| need.hook == hook)
            .filter(|need| need.packets.iter().filter(of_family).any(|packet| table.drops(name, packet)))
            .collect();
        let firewall = format!("{family} {table_name} {name}");
        if dropped.is_empty() {
            let found = "lets our networks pass".to_owned();
            return FirewallStatus { firewall, drops: false, found, advice: None };
        }
        let mut what: Vec<_> = dropped.iter().map(|need| need.what).collect();
        what.dedup();
        let verb = if what == ["forwarding"] { "is" } else { "are" };
        let found =
            format!("{} {verb} dropped by the chain {name} of the table {family} {table_name}", what.join(" and "));
        let rules: Vec<_> =
            dropped.iter().map(|need| format!("`{}`", need.command(family, table_name, name))).collect();
        let advice = format!("{}, and the same in the file that loads the table", rules.join(", "));
        FirewallStatus { firewall, drops: true, found, advice: Some(advice) }
    }
}

impl Need {
    /// Returns the command that accepts the packets in a chain.
    fn command(&self, family: &str, table: &str, chain: &str) -> String {
        let devices: Vec<_> = self.devices.iter().map(String::as_str).collect();
        let (key, devices, rule) = (if self.leaves { "oifname" } else { "iifname" }, devices.join(", "), self.rule);
        let rule = if rule.is_empty() { String::new() } else { format!("{rule} ") };
        format!("nft 'insert rule {family} {table} {chain} {key} {{ {devices} }} {rule}accept'")
    }
}

/// Returns what the networks need from the host's firewalls.
fn needs(wanted: &Wanted) -> Vec<Need> {
    let all: Vec<&NatNetwork> = wanted.networks.iter().filter(|network| !network.names.is_empty()).collect();
    let open: Vec<&NatNetwork> = wanted.open_networks().collect();
    let devices = |networks: &[&NatNetwork]| networks.iter().map(|network| network.device.clone()).collect();
    let inwards = |network: &NatNetwork, server: std::net::IpAddr| Packet {
        ipv4: server.is_ipv4(),
        input: Some(network.device.clone()),
        source: network.subnets.iter().find(|subnet| subnet.contains(&server)).and_then(|subnet| {
            // Any address of an endpoint.
            subnet.hosts().find(|address| *address != server)
        }),
        destination: Some(server),
        local: true,
        state: "new",
        ..Packet::default()
    };
    let servers = || all.iter().flat_map(|network| network.names.iter().map(|server| inwards(network, *server)));
    let queries = servers().flat_map(|packet| {
        ["udp", "tcp"].map(|protocol| Packet { protocol: Some(protocol), port: Some(53), ..packet.clone() })
    });
    let solicitations = servers().filter(|packet| !packet.ipv4).flat_map(|packet| {
        ["nd-neighbor-solicit", "nd-neighbor-advert"].map(|kind| Packet {
            protocol: Some("ipv6-icmp"),
            icmpv6: Some(kind),
            state: "untracked",
            ..packet.clone()
        })
    });
    let answers =
        servers().map(|packet| Packet { protocol: Some("tcp"), port: Some(EPHEMERAL), state: "established", ..packet });
    let outwards = |network: &NatNetwork| {
        let families: BTreeSet<bool> = network.subnets.iter().map(|subnet| subnet.addr().is_ipv4()).collect();
        let device = network.device.clone();
        families.into_iter().map(move |ipv4| Packet {
            ipv4,
            input: Some(device.clone()),
            state: "new",
            ..Packet::default()
        })
    };
    let backwards = |network: &NatNetwork| {
        outwards(network).map(|packet| Packet {
            output: packet.input.clone(),
            not_input: packet.input,
            input: None,
            state: "established",
            ..packet
        })
    };
    let published = wanted.forwards.iter().map(|forward| Packet {
        ipv4: forward.to.is_ipv4(),
        output: Some(forward.device.clone()),
        destination: Some(forward.to),
        protocol: Some(forward.protocol.name()),
        port: Some(forward.to_port),
        state: "new",
        translated: true,
        ..Packet::default()
    });
    let to_published = wanted.forwards.iter().map(|forward| forward.device.clone());
    let need =
        |hook, what, devices, packets: Vec<Packet>, rule, leaves| Need { hook, what, devices, packets, rule, leaves };
    let established = "ct state established,related";
    let mut needs = vec![
        need("input", "names", devices(&all), queries.collect(), "meta l4proto { tcp, udp } th dport 53", false),
        need("input", "answers to the host", devices(&all), answers.collect(), established, false),
        need(
            "input",
            "neighbor solicitations",
            devices(&all),
            solicitations.collect(),
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }",
            false,
        ),
        need(
            "forward",
            "forwarding",
            devices(&open),
            open.iter().flat_map(|network| outwards(network)).collect(),
            "",
            false,
        ),
        need(
            "forward",
            "forwarding",
            devices(&open),
            open.iter().flat_map(|network| backwards(network)).collect(),
            established,
            true,
        ),
        need("forward", "forwarding", to_published.collect(), published.collect(), "ct status dnat", true),
    ];
    needs.retain(|need| !need.packets.is_empty());
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn wanted() -> Wanted {
        let network = NatNetwork {
            device: "vsw-a".to_owned(),
            subnets: vec!["10.1.0.0/24".parse().expect("a subnet")],
            names: vec!["10.1.0.1".parse().expect("an address")],
            masquerade: true,
            ..NatNetwork::default()
        };
        Wanted { networks: vec![network], forwards: Vec::new(), tunnels: None }
    }

    fn base(hook: &str) -> Base {
        Base { family: "inet".to_owned(), table: "mine".to_owned(), name: "all".to_owned(), hook: hook.to_owned() }
    }

    #[test]
    fn a_chain_that_drops_is_named_with_what_to_do() {
        let table = |rules: &[Value]| {
            let chain = json!({"chain": {"name": "all", "policy": "drop"}});
            let rules = rules.iter().map(|expr| json!({"rule": {"chain": "all", "expr": expr}}));
            Table(std::iter::once(chain).chain(rules).collect())
        };
        let status = |hook: &str, rules: &[Value]| base(hook).status(&table(rules), &needs(&wanted()));
        let input = status("input", &[]);
        assert!(input.found.starts_with("names and answers to the host are dropped by the chain all "), "{input:?}");
        let advice = input.advice.unwrap_or_default();
        let rule = "`nft 'insert rule inet mine all iifname { vsw-a } meta l4proto { tcp, udp } th dport 53 accept'`";
        assert!(advice.starts_with(rule), "{advice}");
        let forward = status("forward", &[]);
        assert_eq!(forward.found, "forwarding is dropped by the chain all of the table inet mine");
        let of = |key: &str, rest: Value| json!([{"match": {"op": "==", "left": {"meta": {"key": key}}, "right": "vsw-a"}}, rest, {"accept": null}]);
        let established =
            json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}});
        assert!(status("forward", &[of("iifname", json!({"counter": null}))]).drops, "the answers are dropped");
        assert!(
            !status("forward", &[of("iifname", json!({"counter": null})), of("oifname", established.clone())]).drops
        );
        assert!(!status("input", &[of("iifname", json!({"counter": null}))]).drops);
    }

    #[test]
    fn chains_of_iptables_and_our_own_are_not_among_them() {
        let chain = |family: &str, table: &str, name: &str, hook: &str| json!({"chain": {"family": family, "table": table, "name": name, "hook": hook}});
        let chains = [
            chain("inet", "mine", "all", "input"),
            chain("inet", "vswitch-default", "forward", "forward"),
            chain("ip", "filter", "FORWARD", "forward"),
            chain("bridge", "mine", "forward", "forward"),
            chain("inet", "mine", "output", "output"),
            chain("inet", "mine", "sub", ""),
        ];
        assert_eq!(bases(&chains, "vswitch-default", &[]), [base("input")]);
        assert_eq!(bases(&chains, "vswitch-default", &[Family::V4]).len(), 2);
    }
}
