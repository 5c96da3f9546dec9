//! The mark of connections to published ports: no other program's, and no key to other networks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::harness::{Attached, Netns, Page, Site, Uplinks, addresses, eventually, get, try_get};

fn addresses_of(endpoint: &Attached) -> [IpAddr; 2] {
    [endpoint.ipv4.into(), endpoint.ipv6.unwrap().into()]
}

#[test]
fn marks_of_other_programs_neither_change_nor_open_anything() {
    let uplinks = Uplinks::new();
    let Uplinks { outside, host, .. } = &uplinks;
    // As netavark and portmap, kube-proxy, Calico, Tailscale and Docker.
    host.netns.ok("nft", "add table inet others");
    host.netns.ok("nft", "add chain inet others post { type nat hook postrouting priority 90 ; }");
    for mark in ["0x2000", "0x4000", "0x8000", "0x10000", "0x40000", "0x80000"] {
        host.netns.ok("nft", &format!("add rule inet others post meta mark and {mark} == {mark} masquerade"));
    }
    for mark in ["0x800", "0x20000000"] {
        host.start(if mark == "0x800" { &[] } else { &["--published-mark", "0x20000000"] });
        for (number, name) in [(121, "front"), (122, "back")] {
            let [ipv4, ipv6] = [format!("10.{number}.0.0/24"), format!("fd00:{number}::/64")];
            host.ok(&["network", "create", "--subnet", &ipv4, "--subnet", &ipv6, name]);
        }
        let [web, other] = ["web", "other"].map(Netns::new);
        let at_web = host.attach(&web, &["--network", "front", "-p", "8080:80"]);
        let at_other = host.attach(&other, &["--network", "back"]);
        let _sites = [Site::open(&web, 80, "web"), Site::open(&web, 81, "closed")];
        // What comes from the other network has our bits already.
        host.netns.ok("nft", "add chain inet others pre { type filter hook prerouting priority 10 ; }");
        host.netns.ok("nft", &format!("add rule inet others pre ip saddr {} meta mark set 0x20000fff", at_other.ipv4));
        host.netns.ok(
            "nft",
            &format!("add rule inet others pre ip6 saddr {} meta mark set 0x20000fff", at_other.ipv6.unwrap()),
        );
        for family in 0..2 {
            let near = addresses(Uplinks::HOST)[family];
            let client = addresses(Uplinks::OUTSIDE)[family];
            assert_eq!(get(outside, near, 8080), Page { site: "web".to_owned(), client }, "the address is kept");
        }
        for (family, own) in addresses_of(&at_other).into_iter().enumerate() {
            let near = addresses(Uplinks::HOST)[family];
            assert_eq!(get(&other, near, 8080), Page { site: "web".to_owned(), client: own });
            let dropped = || host.ports(&[]).values().map(|counters| counters.dropped("other_network")).sum::<u64>();
            let before = dropped();
            let closed =
                try_get(&other, SocketAddr::new(addresses_of(&at_web)[family], 81), Duration::from_millis(300));
            assert!(closed.is_err(), "{mark}: {closed:?}");
            eventually("the packet is dropped", || (dropped() > before).then_some(()));
        }
        host.netns.ok("nft", "delete chain inet others pre");
        host.stop(&["--purge"]);
    }
}
