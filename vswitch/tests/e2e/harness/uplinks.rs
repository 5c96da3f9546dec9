//! A host with two wires to outside machines. Its default route goes through the first wire.

use std::net::IpAddr;

use super::{Host, Netns};

/// The host, whose instance is not started, and the machines on its wires. All have IPv4 and IPv6
/// addresses.
pub struct Uplinks {
    pub outside: Netns,
    pub outside2: Netns,
    pub host: Host,
}

impl Uplinks {
    /// The host's addresses on the first wire, IPv4 and IPv6.
    pub const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
    /// The addresses of the machine on the first wire.
    pub const OUTSIDE: [&str; 2] = ["192.0.2.9", "2001:db8:1::9"];
    /// The host's addresses on the second wire.
    pub const HOST2: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];
    /// The addresses of the machine on the second wire.
    pub const OUTSIDE2: [&str; 2] = ["198.51.100.9", "2001:db8:2::9"];

    pub fn new() -> Self {
        Self::of(Host::down())
    }

    /// Adds the wires to a host.
    pub fn of(host: Host) -> Self {
        let [outside, outside2] = ["outside", "outside2"].map(Netns::new);
        for (device, far, near_addresses, far_addresses) in
            [("up0", &outside, Self::HOST, Self::OUTSIDE), ("up1", &outside2, Self::HOST2, Self::OUTSIDE2)]
        {
            host.netns.wire(device, far, "eth0");
            for (netns, device, [ipv4, ipv6]) in [(&*host.netns, device, near_addresses), (far, "eth0", far_addresses)]
            {
                netns.ip(&format!("address add {ipv4}/24 dev {device}"));
                netns.ip(&format!("-6 address add {ipv6}/64 dev {device} nodad"));
            }
        }
        host.netns.ip(&format!("route add default via {}", Self::OUTSIDE[0]));
        host.netns.ip(&format!("-6 route add default via {}", Self::OUTSIDE[1]));
        Self { outside, outside2, host }
    }

    /// Starts the instance, and creates the networks `front` (10.121.0.0/24, fd00:121::/64) and
    /// `back` (10.122.0.0/24, fd00:122::/64).
    pub fn up() -> Self {
        let uplinks = Self::new();
        uplinks.host.start(&[]);
        uplinks.create_networks();
        uplinks
    }

    /// Creates the networks of [`Uplinks::up`].
    pub fn create_networks(&self) {
        for (number, name) in [(121, "front"), (122, "back")] {
            let [ipv4, ipv6] = [format!("10.{number}.0.0/24"), format!("fd00:{number}::/64")];
            self.host.ok(&["network", "create", "--subnet", &ipv4, "--subnet", &ipv6, name]);
        }
    }
}

/// Parses a pair of addresses.
pub fn addresses(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().expect("an address"))
}
