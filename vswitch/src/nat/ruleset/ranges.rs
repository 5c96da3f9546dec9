//! Ranges of published ports: consecutive host ports that lead to the same ports of one address. One
//! element of a map stands for all of them.

use std::net::IpAddr;

use super::PortForward;
use crate::model::Protocol;

/// The fewest ports of a range. Shorter ones have an element for each port: a lookup of one port is
/// faster than one among ranges.
const FEWEST: u16 = 16;

/// The key of a forward: protocol, address for ports at one address, host port.
pub(super) type Key = (Protocol, Option<IpAddr>, u16);

/// A range, with the forward of its first port.
#[derive(Debug)]
pub(super) struct PortRun<'a> {
    pub(super) protocol: Protocol,
    pub(super) host: Option<IpAddr>,
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) forward: &'a PortForward,
}

/// Divides forwards, which are ordered by key, into ranges and single ports.
pub(super) fn split<'a>(
    forwards: impl Iterator<Item = (Key, &'a PortForward)>,
) -> (Vec<PortRun<'a>>, Vec<(Key, &'a PortForward)>) {
    let mut runs: Vec<(PortRun<'a>, Vec<(Key, &'a PortForward)>)> = Vec::new();
    let mut single = Vec::new();
    for (key, forward) in forwards {
        let (protocol, host, port) = key;
        if forward.to_port != port {
            single.push((key, forward));
            continue;
        }
        match runs.last_mut().filter(|(run, _)| run.continues(key, forward)) {
            Some((run, ports)) => {
                run.last = port;
                ports.push((key, forward));
            }
            None => runs.push((PortRun { protocol, host, first: port, last: port, forward }, vec![(key, forward)])),
        }
    }
    let (long, short): (Vec<_>, Vec<_>) = runs.into_iter().partition(|(run, _)| run.last - run.first + 1 >= FEWEST);
    single.extend(short.into_iter().flat_map(|(_, ports)| ports));
    single.sort_by_key(|(key, _)| *key);
    (long.into_iter().map(|(run, _)| run).collect(), single)
}

impl PortRun<'_> {
    fn continues(&self, (protocol, host, port): Key, forward: &PortForward) -> bool {
        (self.protocol, self.host, self.forward.to) == (protocol, host, forward.to)
            && self.last.checked_add(1) == Some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(host_port: u16, to: &str, to_port: u16) -> (Key, PortForward) {
        let forward = PortForward {
            device: "vsw-a".to_owned(),
            protocol: Protocol::Tcp,
            host_ip: None,
            host_port,
            to: to.parse().expect("an address"),
            to_port,
            masquerade: true,
        };
        ((Protocol::Tcp, None, host_port), forward)
    }

    #[test]
    fn only_long_runs_to_the_same_ports_of_one_address_are_ranges() {
        let same = |ports: std::ops::RangeInclusive<u16>, to| ports.map(move |port| forward(port, to, port));
        let mut all: Vec<(Key, PortForward)> = same(100..=115, "10.1.0.2").collect();
        // The next port, but another address; then a gap; then too few; then other ports inside.
        all.extend(same(116..=200, "10.1.0.3"));
        all.extend(same(202..=216, "10.1.0.3"));
        all.extend((300..=400).map(|port| forward(port, "10.1.0.2", port + 1)));
        all.extend(same(65_500..=65_535, "10.1.0.2"));
        let (ranges, single) = split(all.iter().map(|(key, forward)| (*key, forward)));
        let ranges: Vec<_> = ranges.iter().map(|run| (run.first, run.last, run.forward.to.to_string())).collect();
        let [first, second] = ["10.1.0.2", "10.1.0.3"].map(str::to_owned);
        assert_eq!(ranges, [(100, 115, first.clone()), (116, 200, second), (65_500, 65_535, first)]);
        let single: Vec<u16> = single.iter().map(|((_, _, port), _)| *port).collect();
        assert_eq!(single, (202..=216).chain(300..=400).collect::<Vec<_>>());
    }
}
