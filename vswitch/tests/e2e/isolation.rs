//! Frames stay in their network.

use crate::harness::{Frame, Host, Mac, Netns, RawPort, ping};

#[test]
fn no_frame_crosses_from_one_network_to_another() {
    for datapath in ["auto", "xdp"] {
        let host = Host::up(&["--datapath", datapath]);
        host.ok(&["network", "create", "--subnet", "10.93.0.0/24", "other"]);
        let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
        let at_a = host.attach(&a, &[]);
        host.attach(&b, &[]);
        let at_c = host.attach(&c, &["--network", "other"]);
        let [port_a, port_b, port_c] = [&a, &b, &c].map(|netns| RawPort::open(netns, "eth0"));

        let stranger: Mac = "02:00:00:00:99:99".parse().unwrap();
        let group: Mac = "01:00:5e:00:00:fb".parse().unwrap();
        let crossing: Vec<Frame> = [Mac::BROADCAST, group, stranger, at_c.mac]
            .into_iter()
            .map(|destination| Frame::new(destination, at_a.mac, &format!("to {destination}")))
            .collect();
        for frame in &crossing {
            port_a.send(frame);
        }
        // All four are flooded in their own network, for nobody there has these addresses.
        for frame in &crossing {
            port_b.expect(frame);
        }
        // A frame of its own network comes through to c, and nothing of the others came before it.
        let own = Frame::new(at_c.mac, host.netns.mac(&host_device(&host, "other")), "from the host");
        RawPort::open(&host.netns, &host_device(&host, "other")).send(&own);
        let seen = port_c.expect(&own);
        assert!(!seen.iter().any(|frame| crossing.contains(frame)), "{datapath}: {seen:02x?}");
    }
}

#[test]
fn one_address_may_be_in_two_networks() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.94.0.0/24", "other"]);
    let twin = "02:00:00:00:55:55";
    let [a, b, c, d] = ["a", "b", "c", "d"].map(Netns::new);
    let first = host.attach(&a, &["--mac", twin]);
    host.attach(&b, &[]);
    let second = host.attach(&c, &["--mac", twin, "--network", "other"]);
    host.attach(&d, &["--network", "other"]);
    ping(&b, first.ipv4);
    ping(&d, second.ipv4);
    let rows: Vec<_> = host
        .fdb(&["--static"])
        .into_iter()
        .filter(|station| station.mac == first.mac)
        .map(|station| (station.network, station.port))
        .collect();
    assert_eq!(rows, [("bridge".to_owned(), a.name().to_owned()), ("other".to_owned(), c.name().to_owned())]);
}

/// The device that holds a network's gateway address.
fn host_device(host: &Host, network: &str) -> String {
    let mark = format!("vswitch:{}:{network}:host", host.instance());
    let links = host.netns.ip_json("link show");
    let link = links
        .iter()
        .find(|link| link["ifalias"] == mark && host.netns.addresses(link["ifname"].as_str().unwrap()).len() == 1);
    link.unwrap_or_else(|| panic!("no device with an address is marked {mark}: {links:#?}"))["ifname"]
        .as_str()
        .unwrap()
        .to_owned()
}
