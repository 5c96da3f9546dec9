//! Plans our chain in iptables: pure functions from the output of `iptables -S` to the input of
//! `iptables-restore`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

const DOCKER_USER: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";

/// The wanted contents of our chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    /// The devices whose traffic passes. If empty, the chain should not exist.
    pub(super) devices: BTreeSet<String>,
}

/// The present state of the table `filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether the policy drops forwarded packets that no rule accepts.
    pub(super) policy_drop: bool,
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
    /// Whether the present jump in Docker's chain is behind that return, and so is never reached.
    unreached: bool,
}

impl Chain {
    /// Reports whether the chain should exist.
    pub(super) fn is_there(&self) -> bool {
        !self.devices.is_empty()
    }

    /// Returns the rules of the chain in the syntax of `iptables -S`.
    fn rules(&self) -> Vec<String> {
        let name = &self.name;
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
        self.devices.iter().flat_map(of_device).collect()
    }
}

impl Seen {
    /// Parses the output of `iptables -S` for the table `filter`.
    pub(super) fn read(listing: &str, chain: &str) -> Self {
        let mut seen = Self { docker_place: 1, ..Self::default() };
        let (own_rule, jump) = (format!("-A {chain} "), format!("-j {chain}"));
        let mut returned = false;
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
                    }
                }
                (Some(("-P", policy)), _) => seen.policy_drop |= policy == "FORWARD DROP",
                (Some(("-N", name)), _) => {
                    seen.docker_user |= name == DOCKER_USER;
                    seen.chain |= name == chain;
                }
                _ => {}
            }
        }
        seen
    }

    /// Reports whether this table may drop forwarded packets.
    pub(super) const fn drops(&self) -> bool {
        self.policy_drop || self.docker_user
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
        let from = if self.docker_user { DOCKER_USER } else { FORWARD };
        let linked = self.jumps == [from] && !self.unreached;
        let rules = wanted.rules();
        if self.chain && linked && (as_written || self.rules == rules) {
            return None;
        }
        // This line creates the chain, or empties it.
        let mut script = format!("*filter\n:{name} - [0:0]\n");
        for rule in rules {
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

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "VSWITCH-1a2b";

    fn chain(devices: &[&str]) -> Chain {
        Chain { name: NAME.to_owned(), devices: devices.iter().map(|device| (*device).to_owned()).collect() }
    }

    fn seen(listing: &str) -> Seen {
        Seen::read(listing, NAME)
    }

    fn rules() -> String {
        chain(&["vsw-a"]).rules().join("\n")
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
