//! Chains of other programs in nftables that drop forwarded packets.

use serde_json::Value;

use crate::nat::Wanted;

/// Returns the notes about these chains for `status`.
pub(super) fn dropped_by(chains: &[Value], our_table: &str, wanted: &Wanted) -> Vec<String> {
    let devices: Vec<_> = wanted.devices().into_iter().collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut notes = Vec::new();
    for chain in chains.iter().map(|object| &object["chain"]).filter(|chain| chain["hook"] == "forward") {
        let [family, table, name] = ["family", "table", "name"].map(|field| text(&chain[field]));
        let iptables = matches!(family.as_str(), "ip" | "ip6") && table == "filter" && name == "FORWARD";
        if iptables || table == our_table || !matches!(family.as_str(), "ip" | "ip6" | "inet") {
            continue;
        }
        // firewalld rejects packets at the end of its chain, independently of the policy.
        if table == "firewalld" {
            let add = devices.iter().map(|device| format!(" --add-interface={device}"));
            let command = format!("firewall-cmd --permanent --zone=trusted{}", add.collect::<String>());
            notes.push(format!("firewalld may reject what goes in and out of networks (`{command}`, then `--reload`)"));
        } else if chain["policy"] == "drop" {
            let set = devices.join(", ");
            notes.push(format!(
                "forwarding is dropped by the chain {name} of the table {family} {table}, unless it accepts our devices \
                 (`nft insert rule {family} {table} {name} iifname '{{ {set} }}' accept` and `nft insert rule {family} \
                 {table} {name} oifname '{{ {set} }}' ct status dnat accept`, and accept established connections)"
            ));
        }
    }
    notes.dedup();
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::nat::NatNetwork;

    #[test]
    fn others_that_drop_are_named_with_what_to_do() {
        let chain = |family: &str, table: &str, name: &str, policy: &str| serde_json::json!({"chain": {"family": family, "table": table, "name": name, "hook": "forward", "policy": policy}});
        let network = NatNetwork {
            device: "vsw-a".to_owned(),
            subnets: vec!["10.1.0.0/24".parse().expect("a subnet")],
            masquerade: true,
            internal: false,
            modes: Default::default(),
        };
        let wanted = Wanted { networks: vec![network], forwards: Vec::new(), tunnels: None };
        let notes = |chains: &[Value]| dropped_by(chains, "vswitch-default", &wanted);
        let dropping = notes(&[chain("inet", "mine", "forward", "drop")]);
        assert!(dropping[0].contains("table inet mine") && dropping[0].contains("vsw-a"), "{dropping:?}");
        assert!(notes(&[chain("inet", "firewalld", "filter_FORWARD", "accept")])[0].contains("--add-interface=vsw-a"));
        let others = [
            chain("inet", "mine", "forward", "accept"),
            chain("inet", "vswitch-default", "forward", "accept"),
            chain("ip", "filter", "FORWARD", "drop"),
            chain("bridge", "mine", "forward", "drop"),
        ];
        assert_eq!(notes(&others), Vec::<String>::new());
    }
}
