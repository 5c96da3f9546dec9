//! Evaluates the chains of other programs in nftables, as `nft -j list table` prints them, for a
//! packet of our networks.
//!
//! A match that cannot be evaluated counts in favour of the packet: an accept rule behind it
//! applies, a drop rule does not. So a chain that is said to drop a packet does drop it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// A packet. A field that is `None` may have any value.
#[derive(Clone, Debug, Default)]
pub(super) struct Packet {
    pub(super) ipv4: bool,
    pub(super) input: Option<String>,
    pub(super) output: Option<String>,
    /// A device by which the packet does not arrive, if `input` is `None`.
    pub(super) not_input: Option<String>,
    pub(super) source: Option<IpAddr>,
    pub(super) destination: Option<IpAddr>,
    /// nft's name of the protocol.
    pub(super) protocol: Option<&'static str>,
    pub(super) port: Option<u16>,
    /// nft's name of the ICMPv6 type.
    pub(super) icmpv6: Option<&'static str>,
    /// nft's name of the connection's state.
    pub(super) state: &'static str,
    /// Whether the destination of the connection was translated.
    pub(super) translated: bool,
    /// Whether the destination is an address of the host.
    pub(super) local: bool,
}

/// A table with its chains and sets.
#[derive(Debug)]
pub(super) struct Table(pub(super) Vec<Value>);

/// The end of a chain or rule for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    /// The calling chain goes on.
    Return,
}

/// The value of an expression.
#[derive(Clone, Debug)]
enum Field {
    Text(String),
    Number(u64),
    Address(IpAddr),
    All(Vec<Self>),
    /// Any text but this one.
    Except(String),
    Unknown,
    /// The packet has no such field, so no comparison is true.
    Absent,
}

/// The deepest nesting of chains that the kernel accepts is 16 (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

impl Table {
    /// Reports whether the base chain of this name drops the packet.
    pub(super) fn drops(&self, chain: &str, packet: &Packet) -> bool {
        match self.run(chain, packet, DEPTH) {
            End::Drop => true,
            End::Accept => false,
            End::Return => self.objects("chain").any(|found| found["name"] == chain && found["policy"] == "drop"),
        }
    }

    fn objects<'a>(&'a self, kind: &'static str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter_map(move |object| object.get(kind))
    }

    fn run(&self, chain: &str, packet: &Packet, depth: usize) -> End {
        if depth == 0 {
            return End::Accept;
        }
        for rule in self.objects("rule").filter(|rule| rule["chain"] == chain) {
            match self.rule(rule, packet, depth) {
                Some(End::Return) => break,
                Some(end) => return end,
                None => {}
            }
        }
        End::Return
    }

    /// Evaluates one rule. Returns `None` if the next rule follows.
    fn rule(&self, rule: &Value, packet: &Packet, depth: usize) -> Option<End> {
        let mut certain = true;
        for statement in rule["expr"].as_array().into_iter().flatten() {
            let (kind, body) = match statement {
                Value::String(word) => (word.as_str(), &Value::Null),
                _ => statement.as_object().and_then(|fields| fields.iter().next()).map(|(key, body)| (&**key, body))?,
            };
            match kind {
                "match" => match self.matches(body, packet) {
                    Some(true) => {}
                    Some(false) => return None,
                    None => certain = false,
                },
                "vmap" => {
                    let key = field(&body["key"], packet);
                    let entries = self.elements(&body["data"]);
                    let found = entries.iter().find_map(|entry| {
                        let pair = entry.as_array()?;
                        (self.equals(&key, pair.first()?) == Some(true)).then(|| pair.get(1))?
                    });
                    if let Some((kind, target)) =
                        found.and_then(Value::as_object).and_then(|verdict| verdict.iter().next())
                        && let Some(end) = self.verdict(kind, target, packet, depth, certain)
                    {
                        return Some(end);
                    }
                }
                "xt" => certain = false,
                _ if matches!(kind, "accept" | "drop" | "reject" | "queue" | "return" | "jump" | "goto") => {
                    return self.verdict(kind, body, packet, depth, certain);
                }
                // Counters, logs, limits, changed marks.
                _ => {}
            }
        }
        None
    }

    fn verdict(&self, kind: &str, body: &Value, packet: &Packet, depth: usize, certain: bool) -> Option<End> {
        match kind {
            // A program behind a queue decides.
            "accept" | "queue" => Some(End::Accept),
            "drop" | "reject" => certain.then_some(End::Drop),
            "return" => certain.then_some(End::Return),
            "jump" | "goto" => {
                let end = self.run(body["target"].as_str().unwrap_or_default(), packet, depth - 1);
                match end {
                    End::Accept => Some(end),
                    End::Drop => certain.then_some(end),
                    End::Return => (certain && kind == "goto").then_some(end),
                }
            }
            _ => None,
        }
    }

    fn matches(&self, body: &Value, packet: &Packet) -> Option<bool> {
        let left = field(&body["left"], packet);
        let equal = self.equals(&left, &body["right"]);
        match body["op"].as_str() {
            Some("==" | "in") => equal,
            Some("!=") if !matches!(left, Field::Absent) => equal.map(|equal| !equal),
            Some("!=") => Some(false),
            _ => None,
        }
    }

    /// Returns the elements of a set or map, which is named or written out.
    fn elements(&self, value: &Value) -> Vec<Value> {
        let named = value.as_str().and_then(|name| name.strip_prefix('@'));
        let elements = match named {
            Some(name) => ["set", "map"]
                .into_iter()
                .flat_map(|kind| self.objects(kind))
                .find(|set| set["name"] == name)
                .map_or(&Value::Null, |set| &set["elem"]),
            None => &value["set"],
        };
        elements.as_array().cloned().unwrap_or_default()
    }

    /// Compares a field with a value, a range, or a set of them. Returns `None` if that is unknown.
    fn equals(&self, left: &Field, right: &Value) -> Option<bool> {
        match left {
            Field::Unknown => return None,
            Field::Absent => return Some(false),
            _ => {}
        }
        let any = |values: &[Value]| {
            let results: Vec<_> = values.iter().map(|value| self.equals(left, value)).collect();
            if results.contains(&Some(true)) {
                return Some(true);
            }
            (!results.contains(&None)).then_some(false)
        };
        match right {
            Value::Array(values) => any(values),
            Value::Object(fields) => {
                let (kind, body) = fields.iter().next()?;
                match (kind.as_str(), left) {
                    ("set", _) => any(body.as_array()?),
                    ("|", _) => any(body.as_array()?),
                    ("elem", _) => self.equals(left, &body["val"]),
                    ("concat", Field::All(parts)) => {
                        let results: Vec<_> =
                            parts.iter().zip(body.as_array()?).map(|(l, r)| self.equals(l, r)).collect();
                        if results.contains(&Some(false)) {
                            return Some(false);
                        }
                        (!results.contains(&None)).then_some(true)
                    }
                    ("prefix", Field::Address(address)) => {
                        let length = u8::try_from(body["len"].as_u64()?).ok()?;
                        let net = IpNet::new(body["addr"].as_str()?.parse().ok()?, length).ok()?;
                        Some(net.contains(address))
                    }
                    ("range", _) => {
                        let [low, high] = body.as_array()?.as_slice() else { return None };
                        match left {
                            Field::Number(number) => Some((low.as_u64()?..=high.as_u64()?).contains(number)),
                            Field::Address(address) => {
                                let bound = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
                                Some((bound(low)?..=bound(high)?).contains(address))
                            }
                            _ => None,
                        }
                    }
                    _ => None,
                }
            }
            Value::String(text) if text.starts_with('@') => any(&self.elements(right)),
            Value::String(text) if text == "*" => Some(true),
            Value::String(text) => Some(match left {
                Field::Text(known) => match text.strip_suffix('*') {
                    Some(beginning) => known.starts_with(beginning),
                    None => known == text,
                },
                Field::Except(other) if other == text => false,
                Field::Address(address) => text.parse() == Ok(*address),
                // A name of a service.
                _ => return None,
            }),
            Value::Number(number) => match left {
                Field::Number(known) => Some(number.as_u64() == Some(*known)),
                _ => None,
            },
            Value::Bool(_) | Value::Null => None,
        }
    }
}

/// Returns the value of an expression for a packet.
fn field(expression: &Value, packet: &Packet) -> Field {
    let text = |value: Option<&str>| value.map_or(Field::Unknown, |value| Field::Text(value.to_owned()));
    let address = |value: Option<IpAddr>| value.map_or(Field::Unknown, Field::Address);
    let Some((kind, body)) = expression.as_object().and_then(|fields| fields.iter().next()) else {
        return Field::Unknown;
    };
    let word = |name: &str| body[name].as_str().unwrap_or_default();
    match kind.as_str() {
        "concat" => Field::All(body.as_array().into_iter().flatten().map(|part| field(part, packet)).collect()),
        "meta" => match word("key") {
            "iifname" | "iif" => match (&packet.input, &packet.not_input) {
                (None, Some(device)) => Field::Except(device.clone()),
                (input, _) => text(input.as_deref()),
            },
            "oifname" | "oif" => text(packet.output.as_deref()),
            "l4proto" => text(packet.protocol),
            "nfproto" => text(Some(if packet.ipv4 { "ipv4" } else { "ipv6" })),
            "protocol" => text(Some(if packet.ipv4 { "ip" } else { "ip6" })),
            "mark" => Field::Number(0),
            _ => Field::Unknown,
        },
        "ct" => match word("key") {
            "state" => text(Some(packet.state)),
            "status" if packet.translated => text(Some("dnat")),
            "status" => Field::Absent,
            "mark" => Field::Number(0),
            _ => Field::Unknown,
        },
        "fib" if body["result"] == "type" => text(Some(if packet.local { "local" } else { "unicast" })),
        "payload" => match (word("protocol"), word("field")) {
            ("ip" | "ip6", _) if (word("protocol") == "ip") != packet.ipv4 => Field::Absent,
            ("ip" | "ip6", "saddr") => address(packet.source),
            ("ip" | "ip6", "daddr") => address(packet.destination),
            ("ip", "protocol") | ("ip6", "nexthdr") => text(packet.protocol),
            (protocol @ ("tcp" | "udp" | "th"), field) => match packet.protocol {
                Some("tcp" | "udp") if protocol == "th" || packet.protocol == Some(protocol) => match field {
                    "dport" => packet.port.map_or(Field::Unknown, |port| Field::Number(port.into())),
                    _ => Field::Unknown,
                },
                Some(_) => Field::Absent,
                None => Field::Unknown,
            },
            ("icmpv6", "type") => match (packet.icmpv6, packet.protocol) {
                (Some(name), _) => text(Some(name)),
                (None, Some(_)) => Field::Absent,
                (None, None) => Field::Unknown,
            },
            (other, _) => match packet.protocol {
                Some(protocol) if matches!(other, "icmp" | "icmpv6" | "sctp" | "dccp") && protocol != other => {
                    Field::Absent
                }
                _ => Field::Unknown,
            },
        },
        _ => Field::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn query() -> Packet {
        Packet {
            ipv4: true,
            input: Some("vsw-a".to_owned()),
            source: "10.1.0.2".parse().ok(),
            destination: "10.1.0.1".parse().ok(),
            protocol: Some("udp"),
            port: Some(53),
            state: "new",
            local: true,
            ..Packet::default()
        }
    }

    /// Returns whether a chain with these rules and this policy drops a name query.
    fn drops(policy: &str, rules: Value) -> bool {
        let mut objects = vec![
            json!({"chain": {"name": "input", "policy": policy}}),
            json!({"set": {"name": "inside", "elem": ["eth0", "vsw-a"]}}),
            json!({"rule": {"chain": "allowed", "expr": [{"accept": null}]}}),
            json!({"rule": {"chain": "refused", "expr": [{"log": null}, {"reject": {"type": "icmpx"}}]}}),
        ];
        let rules = rules.as_array().cloned().unwrap_or_default();
        objects.extend(rules.into_iter().map(|expr| json!({"rule": {"chain": "input", "expr": expr}})));
        Table(objects).drops("input", &query())
    }

    fn is(left: Value, right: Value) -> Value {
        json!({"match": {"op": "==", "left": left, "right": right}})
    }

    #[test]
    fn a_policy_or_a_last_rule_drops() {
        assert!(drops("drop", json!([])));
        assert!(!drops("accept", json!([])));
        assert!(drops("accept", json!([[{"counter": {"packets": 0}}, {"reject": null}]])));
        assert!(drops("accept", json!([["drop"]])));
        assert!(drops("accept", json!([[{"jump": {"target": "refused"}}]])));
        assert!(!drops("drop", json!([[{"goto": {"target": "allowed"}}]])));
        // The rest of a chain behind `goto` is not reached.
        assert!(drops("drop", json!([[{"goto": {"target": "none"}}], ["accept"]])));
        assert!(!drops("drop", json!([[{"jump": {"target": "none"}}], ["accept"]])));
    }

    #[test]
    fn rules_for_other_packets_do_not_apply() {
        let meta = |key: &str| json!({"meta": {"key": key}});
        let payload = |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
        let accepts = |matches: Value| {
            let mut rule = matches.as_array().cloned().unwrap_or_default();
            rule.push(json!("accept"));
            !drops("drop", json!([rule]))
        };
        let ct = |key: &str| json!({"ct": {"key": key}});
        for (left, right, expected) in [
            (meta("iifname"), json!("vsw-*"), true),
            (meta("iifname"), json!("lo"), false),
            (meta("iifname"), json!("@inside"), true),
            (meta("l4proto"), json!({"set": ["tcp", "udp"]}), true),
            (payload("th", "dport"), json!(53), true),
            (payload("udp", "dport"), json!({"set": [{"range": [50, 60]}]}), true),
            (payload("tcp", "dport"), json!(53), false),
            (payload("ip", "saddr"), json!({"prefix": {"addr": "10.1.0.0", "len": 16}}), true),
            (payload("ip", "saddr"), json!({"range": ["10.2.0.0", "10.3.0.0"]}), false),
            (payload("ip6", "saddr"), json!("fe80::1"), false),
            (payload("icmpv6", "type"), json!("echo-request"), false),
            (ct("state"), json!(["established", "related"]), false),
            (ct("state"), json!({"|": ["established", "new"]}), true),
            (ct("status"), json!("dnat"), false),
            (meta("mark"), json!(1), false),
            (json!({"fib": {"result": "type", "flags": ["daddr"]}}), json!("local"), true),
            (
                json!({"concat": [meta("iifname"), payload("udp", "dport")]}),
                json!({"set": [{"concat": ["eth0", 53]}, {"concat": ["vsw-a", 53]}]}),
                true,
            ),
        ] {
            assert_eq!(accepts(json!([is(left.clone(), right.clone())])), expected, "{left} {right}");
        }
        let other = json!([{"match": {"op": "!=", "left": meta("iifname"), "right": "lo"}}]);
        assert!(accepts(other));
        let vmap = |verdict: Value| {
            let data = json!({"set": [["established", {"accept": null}], ["new", verdict]]});
            drops("accept", json!([[{"vmap": {"key": ct("state"), "data": data}}]]))
        };
        assert!(vmap(json!({"drop": null})) && !vmap(json!({"jump": {"target": "allowed"}})));
    }

    #[test]
    fn the_unknown_counts_in_favour_of_the_packet() {
        let unknown = json!({"match": {"op": "==", "left": {"meta": {"key": "hour"}}, "right": "1:00"}});
        assert!(!drops("accept", json!([[unknown, "drop"]])));
        assert!(!drops("drop", json!([[unknown, "accept"]])));
        assert!(!drops("drop", json!([[{"xt": null}, "accept"]])));
        assert!(!drops("accept", json!([[unknown, {"jump": {"target": "refused"}}]])));
    }
}
