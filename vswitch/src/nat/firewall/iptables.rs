//! Plans our chains in iptables: pure functions from the output of `iptables -S` to the input of
//! `iptables-restore`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::nat::NatNetwork;

const DOCKER_USER: &str = "DOCKER-USER";

/// A chain of iptables from which packets get to a chain of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Forward,
    Input,
}

/// The wanted contents of a chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    hook: Hook,
    /// The rules in the syntax of `iptables -S`. If empty, the chain should not exist.
    rules: Vec<String>,
}

/// The present state of the table `filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The chain that was looked at.
    hook: Hook,
    /// Whether the chain drops packets that no rule accepts, by its policy or by its last rule.
    pub(super) drops_rest: bool,
    /// Whether Docker's chain for user rules exists. Docker evaluates it before its own chains.
    pub(super) docker_user: bool,
    /// The rules in our chain.
    pub(super) rules: Vec<String>,
    /// Whether our chain exists.
    chain: bool,
    /// The chains with a jump to our chain, once per jump.
    jumps: Vec<String>,
    /// The position of our jump in Docker's chain, counted from 1: behind the operator's rules,
    /// which may drop packets, and before the return with which some versions of Docker end the
    /// chain. Jumps to our chain do not count.
    docker_place: usize,
    /// Whether the present jump is behind a rule that ends the chain, and so is never reached.
    unreached: bool,
}

impl Hook {
    pub(super) const ALL: [Self; 2] = [Self::Forward, Self::Input];

    /// Returns the name of the chain in iptables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Forward => "FORWARD",
            Self::Input => "INPUT",
        }
    }
}

impl Chain {
    /// Returns the chain that accepts what leaves the networks with these devices, and what comes
    /// back.
    pub(super) fn forward(name: String, devices: &BTreeSet<String>) -> Self {
        let of_device = |device: &String| {
            [
                // Docker decides about packets between Docker's networks and ours.
                format!("-A {name} -i {device} -o docker+ -j RETURN"),
                format!("-A {name} -i {device} -o br-+ -j RETURN"),
                format!("-A {name} -i {device} -j ACCEPT"),
                format!("-A {name} -o {device} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
                format!("-A {name} -o {device} -m conntrack --ctstate DNAT -j ACCEPT"),
            ]
        };
        let rules = devices.iter().flat_map(of_device).collect();
        Self { name, hook: Hook::Forward, rules }
    }

    /// Returns the chain that accepts what the host needs from the networks, in one family: queries
    /// to the DNS server of the network, answers to the host, and neighbor discovery.
    pub(super) fn input<'a>(name: String, ipv4: bool, networks: impl Iterator<Item = &'a NatNetwork>) -> Self {
        let of_network =
            |network: &NatNetwork| {
                let device = &network.device;
                let length = if ipv4 { 32 } else { 128 };
                let servers = network.names.iter().filter(|server| server.is_ipv4() == ipv4);
                let query = |server: &IpAddr| {
                    ["udp", "tcp"].map(|protocol| {
                    format!(
                        "-A {name} -d {server}/{length} -i {device} -p {protocol} -m {protocol} --dport 53 -j ACCEPT"
                    )
                })
                };
                let mut rules: Vec<_> = servers.flat_map(query).collect();
                if network.subnets.iter().any(|subnet| subnet.addr().is_ipv4() == ipv4) {
                    rules.push(format!("-A {name} -i {device} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
                    let types = [135, 136].into_iter().filter(|_| !ipv4);
                    rules.extend(types.map(|kind| {
                        format!("-A {name} -i {device} -p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j ACCEPT")
                    }));
                }
                rules
            };
        let rules = networks.flat_map(of_network).collect();
        Self { name, hook: Hook::Input, rules }
    }

    /// Returns no chain.
    pub(super) const fn none(name: String, hook: Hook) -> Self {
        Self { name, hook, rules: Vec::new() }
    }

    /// Reports whether the chain should exist.
    pub(super) fn is_there(&self) -> bool {
        !self.rules.is_empty()
    }
}

impl Seen {
    /// Parses the output of `iptables -S` for the table `filter`.
    pub(super) fn read(listing: &str, hook: Hook, chain: &str) -> Self {
        let mut seen = Self {
            hook,
            drops_rest: Rules(listing, chain).drop_rest(hook.name(), DEPTH),
            docker_user: false,
            rules: Vec::new(),
            chain: false,
            jumps: Vec::new(),
            docker_place: 1,
            unreached: false,
        };
        let (own_rule, jump) = (format!("-A {chain} "), format!("-j {chain}"));
        let policy = format!("{} DROP", hook.name());
        let (mut returned, mut ended) = (false, false);
        for line in listing.lines().map(str::trim_end) {
            let rule = line.strip_prefix("-A ").and_then(|rule| rule.split_once(' '));
            match (line.split_once(' '), rule) {
                _ if line.starts_with(&own_rule) => seen.rules.push(line.to_owned()),
                (_, Some((within, rule))) => {
                    if rule == jump {
                        seen.jumps.push(within.to_owned());
                    }
                    if within == DOCKER_USER {
                        match rule {
                            "-j RETURN" => returned = true,
                            rule if rule == jump => seen.unreached |= returned,
                            _ if !returned => seen.docker_place += 1,
                            _ => {}
                        }
                    } else if within == hook.name() {
                        seen.unreached |= ended && rule == jump;
                        ended |= is_drop(rule) || rule == "-j ACCEPT";
                    }
                }
                (Some(("-P", found)), _) => seen.drops_rest |= found == policy,
                (Some(("-N", name)), _) => {
                    seen.docker_user |= name == DOCKER_USER && hook == Hook::Forward;
                    seen.chain |= name == chain;
                }
                _ => {}
            }
        }
        seen
    }

    /// Reports whether this table may drop packets at the hook.
    pub(super) const fn drops(&self) -> bool {
        self.drops_rest || self.docker_user
    }

    /// Returns the input for `iptables-restore --noflush`. Returns `None` if the chain has the
    /// wanted rules, or if `as_written` says that the present rules are our last rules as iptables
    /// prints them.
    pub(super) fn changes(&self, wanted: &Chain, as_written: bool) -> Option<String> {
        let name = &wanted.name;
        if !wanted.is_there() {
            return self.chain.then(|| {
                let jumps: String = self.jumps.iter().map(|from| format!("-D {from} -j {name}\n")).collect();
                format!("*filter\n{jumps}-F {name}\n-X {name}\nCOMMIT\n")
            });
        }
        let from = if self.docker_user { DOCKER_USER } else { self.hook.name() };
        let linked = self.jumps == [from] && !self.unreached;
        if self.chain && linked && (as_written || self.rules == wanted.rules) {
            return None;
        }
        // This line creates the chain, or empties it.
        let mut script = format!("*filter\n:{name} - [0:0]\n");
        for rule in &wanted.rules {
            let _infallible = writeln!(script, "{rule}");
        }
        if !linked {
            for from in &self.jumps {
                let _infallible = writeln!(script, "-D {from} -j {name}");
            }
            let place = if self.docker_user { self.docker_place } else { 1 };
            let _infallible = writeln!(script, "-I {from} {place} -j {name}");
        }
        script.push_str("COMMIT\n");
        Some(script)
    }
}

/// The rules of a listing, without those of the chain of this name.
struct Rules<'a>(&'a str, &'a str);

/// The deepest nesting of chains that is followed.
const DEPTH: usize = 8;

impl Rules<'_> {
    /// Reports whether a chain drops all packets that none of its rules accepts, by a rule without a
    /// condition.
    fn drop_rest(&self, chain: &str, depth: usize) -> bool {
        let beginning = format!("-A {chain} ");
        let rules = self.0.lines().filter_map(|line| line.trim_end().strip_prefix(&beginning));
        for rule in rules {
            let target = rule.strip_prefix("-j ").or_else(|| rule.strip_prefix("-g "));
            match target {
                Some("ACCEPT" | "RETURN") => return false,
                _ if is_drop(rule) => return true,
                Some(target) if target != self.1 && depth > 0 && self.drop_rest(target, depth - 1) => return true,
                _ => {}
            }
        }
        false
    }
}

/// Reports whether a rule drops all packets.
fn is_drop(rule: &str) -> bool {
    rule == "-j DROP" || rule.starts_with("-j REJECT")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "VSWITCH-1a2b";

    fn chain(devices: &[&str]) -> Chain {
        Chain::forward(NAME.to_owned(), &devices.iter().map(|device| (*device).to_owned()).collect())
    }

    fn seen(listing: &str) -> Seen {
        Seen::read(listing, Hook::Forward, NAME)
    }

    fn rules() -> String {
        chain(&["vsw-a"]).rules.join("\n")
    }

    #[test]
    fn the_host_gets_queries_answers_and_neighbors() {
        let network = NatNetwork {
            device: "vsw-a".to_owned(),
            subnets: ["10.1.0.0/24", "fd00:1::/64"].map(|subnet| subnet.parse().expect("a subnet")).into(),
            names: ["10.1.0.1", "fd00:1::1"].map(|server| server.parse().expect("an address")).into(),
            internal: true,
            ..NatNetwork::default()
        };
        let script = |ipv4: bool| {
            let chain = Chain::input(NAME.to_owned(), ipv4, std::iter::once(&network));
            Seen::read("-P INPUT DROP\n", Hook::Input, NAME).changes(&chain, false).expect("there is none yet")
        };
        let established = format!("-A {NAME} -i vsw-a -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
        assert_eq!(
            script(true),
            format!(
                "*filter\n:{NAME} - [0:0]\n-A {NAME} -d 10.1.0.1/32 -i vsw-a -p udp -m udp --dport 53 -j ACCEPT\n\
                 -A {NAME} -d 10.1.0.1/32 -i vsw-a -p tcp -m tcp --dport 53 -j ACCEPT\n{established}\n\
                 -I INPUT 1 -j {NAME}\nCOMMIT\n"
            )
        );
        let ipv6 = script(false);
        assert!(ipv6.contains("-d fd00:1::1/128 -i vsw-a -p udp") && !ipv6.contains("10.1.0"), "{ipv6}");
        assert!(ipv6.contains("--icmpv6-type 135 ") && ipv6.contains("--icmpv6-type 136 "), "{ipv6}");
    }

    #[test]
    fn a_last_rule_may_drop_instead_of_the_policy() {
        let drops = |rules: &str| Seen::read(&format!("-P INPUT ACCEPT\n-N LAST\n{rules}"), Hook::Input, NAME).drops();
        assert!(drops("-A INPUT -i lo -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n"));
        assert!(drops("-A INPUT -j LAST\n-A LAST -m limit --limit 3/min -j LOG\n-A LAST -j DROP\n"));
        assert!(!drops("-A INPUT -j LAST\n-A LAST -i eth9 -j DROP\n"));
        assert!(!drops("-A INPUT -j ACCEPT\n-A INPUT -j DROP\n"));
        assert!(!drops("-A FORWARD -j DROP\n"));
        assert!(!drops(&format!("-A INPUT -j {NAME}\n-A {NAME} -j DROP\n")));
        // A jump that is not reached is moved.
        let behind =
            format!("-P INPUT ACCEPT\n-N {NAME}\n-A INPUT -j DROP\n-A INPUT -j {NAME}\n-A {NAME} -i a -j ACCEPT\n");
        let chain =
            Chain { name: NAME.to_owned(), hook: Hook::Input, rules: vec![format!("-A {NAME} -i a -j ACCEPT")] };
        let script = Seen::read(&behind, Hook::Input, NAME).changes(&chain, false).expect("it is not reached");
        assert!(script.contains(&format!("-D INPUT -j {NAME}\n-I INPUT 1 -j {NAME}\n")), "{script}");
    }

    #[test]
    fn where_nobody_drops_nothing_is_done() {
        let accepting = seen("-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n-A FORWARD -i eth9 -j DROP\n");
        assert!(!accepting.drops());
        assert_eq!(accepting.changes(&chain(&[]), false), None);
        assert!(!seen("").drops());
    }

    #[test]
    fn a_policy_of_drop_gets_a_chain_at_its_head() {
        let dropping = seen("-P INPUT ACCEPT\n-P FORWARD DROP\n-A FORWARD -i eth9 -j ACCEPT\n");
        assert!(dropping.drops());
        let script = dropping.changes(&chain(&["vsw-a"]), false).expect("there is none yet");
        assert_eq!(script, format!("*filter\n:{NAME} - [0:0]\n{}\n-I FORWARD 1 -j {NAME}\nCOMMIT\n", rules()));
        let after = seen(&format!("-P FORWARD DROP\n-N {NAME}\n-A FORWARD -j {NAME}\n{}\n", rules()));
        assert_eq!(after.changes(&chain(&["vsw-a"]), false), None);
        assert!(after.changes(&chain(&["vsw-a", "vsw-b"]), false).is_some());
    }

    #[test]
    fn docker_has_a_place_for_it_behind_the_owners_rules() {
        let docker =
            "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -s 10.9.9.9/32 -j DROP\n";
        let script = |listing: &str| seen(listing).changes(&chain(&["vsw-a"]), false).unwrap_or_default();
        assert!(script(docker).contains(&format!("\n-I DOCKER-USER 2 -j {NAME}\n")));
        let returns = format!("{docker}-A DOCKER-USER -j RETURN\n");
        assert!(script(&returns).contains(&format!("\n-I DOCKER-USER 2 -j {NAME}\n")));
        let there = format!("{docker}-N {NAME}\n-A DOCKER-USER -j {NAME}\n-A DOCKER-USER -j RETURN\n{}\n", rules());
        assert_eq!(script(&there), "");
    }

    #[test]
    fn docker_that_comes_later_moves_the_jump() {
        let moved = format!(
            "-P FORWARD DROP\n-N DOCKER-USER\n-N {NAME}\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j {NAME}\n{}\n",
            rules()
        );
        let script = seen(&moved).changes(&chain(&["vsw-a"]), false).expect("it is in the wrong chain");
        assert!(script.contains(&format!("-D FORWARD -j {NAME}\n-I DOCKER-USER 1 -j {NAME}\n")), "{script}");
    }

    #[test]
    fn there_is_one_jump_and_it_is_reached() {
        let twice = format!(
            "-P FORWARD DROP\n-N DOCKER-USER\n-N {NAME}\n-A DOCKER-USER -j {NAME}\n-A DOCKER-USER -s 10.0.0.1/32 -j DROP\n\
             -A DOCKER-USER -j {NAME}\n{}\n",
            rules()
        );
        let script = seen(&twice).changes(&chain(&["vsw-a"]), false).expect("there are two");
        assert_eq!(script.matches(&format!("-D DOCKER-USER -j {NAME}\n")).count(), 2);
        assert!(script.contains(&format!("-I DOCKER-USER 2 -j {NAME}\n")), "{script}");
        let behind = format!(
            "-P FORWARD DROP\n-N DOCKER-USER\n-N {NAME}\n-A DOCKER-USER -j RETURN\n-A DOCKER-USER -j {NAME}\n{}\n",
            rules()
        );
        let script = seen(&behind).changes(&chain(&["vsw-a"]), false).expect("it is not reached");
        assert!(script.contains(&format!("-D DOCKER-USER -j {NAME}\n-I DOCKER-USER 1 -j {NAME}\n")), "{script}");
    }

    #[test]
    fn it_is_removed_with_its_jumps() {
        let listing = format!("-P FORWARD DROP\n-N {NAME}\n-A FORWARD -j {NAME}\n{}\n", rules());
        assert_eq!(
            seen(&listing).changes(&chain(&[]), false).as_deref(),
            Some(format!("*filter\n-D FORWARD -j {NAME}\n-F {NAME}\n-X {NAME}\nCOMMIT\n").as_str())
        );
    }

    #[test]
    fn rules_that_are_printed_in_another_way_are_not_written_again() {
        let listing = format!("-P FORWARD DROP\n-N {NAME}\n-A FORWARD -j {NAME}\n-A {NAME} -i vsw-a -j accept\n");
        assert_eq!(seen(&listing).changes(&chain(&["vsw-a"]), true), None);
        assert!(seen(&listing).changes(&chain(&["vsw-a"]), false).is_some());
    }
}
