//! The host's side of a network as it should be, compared with the kernel. Pure: the switch reads
//! the kernel's state and mends what differs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;

use ipnet::IpNet;
use vswitch_common::Mac;

use super::{DeviceStep, HostStep};
use crate::kernel::netlink::{Link, Route};

/// A device of the host as a plan wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceNeeds {
    /// Name of the device.
    pub device: String,
    /// MAC address, if the plan determines it.
    pub mac: Option<Mac>,
    /// MTU in bytes, if the plan determines it.
    pub mtu: Option<u32>,
    /// Alias, if the plan determines it.
    pub mark: Option<String>,
    /// The device is up.
    pub up: bool,
    /// Addresses, each with a route to its subnet.
    pub addresses: Vec<IpNet>,
    /// Sysctls and their values.
    pub settings: BTreeMap<Vec<String>, String>,
}

/// State of a device in the kernel.
#[derive(Clone, Debug)]
pub struct DeviceSeen<'a> {
    /// The link.
    pub link: &'a Link,
    /// Addresses of all links, with the interface index.
    pub addresses: &'a [(u32, IpNet)],
    /// Routes of the main table.
    pub routes: &'a [Route],
    /// Values of the sysctls; those that do not exist are left out.
    pub settings: BTreeMap<Vec<String>, String>,
}

/// A difference. They are ordered: an earlier one is mended first, because that may also mend, or
/// cause, later ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drift {
    /// The alias differs, by which the device is recognised.
    Mark(String),
    /// The device is in a bridge or bond.
    Enslaved,
    /// The MAC address differs.
    Mac(Mac),
    /// The MTU differs.
    Mtu(u32),
    /// A sysctl differs.
    Setting(Vec<String>, String),
    /// The device is down.
    Down,
    /// An address is missing.
    Address(IpNet),
    /// The route to the subnet of an address is missing.
    Route(IpNet),
}

impl DeviceNeeds {
    /// Returns the devices that a plan creates or changes, as they are afterwards.
    pub fn of(steps: &[HostStep]) -> Vec<Self> {
        let mut all: BTreeMap<&str, Self> = BTreeMap::new();
        for step in steps {
            match step {
                HostStep::CreateVeth { device, mac, mark, peer, mtu } => {
                    let needs = entry(&mut all, device);
                    (needs.mac, needs.mark, needs.mtu) = (*mac, Some(mark.clone()), Some(*mtu));
                    entry(&mut all, peer).mtu = Some(*mtu);
                }
                HostStep::NoIpv6 { device } => entry(&mut all, device).set("ipv6", "disable_ipv6", "1"),
                HostStep::Device(DeviceStep::Ipv6 { device, enable, accept_ra }) => {
                    let needs = entry(&mut all, device);
                    needs.set("ipv6", "addr_gen_mode", "0");
                    needs.set("ipv6", "accept_ra", if *accept_ra { "2" } else { "0" });
                    if let Some(enable) = enable {
                        needs.set("ipv6", "disable_ipv6", if *enable { "0" } else { "1" });
                    }
                }
                HostStep::Device(DeviceStep::AnnounceAddresses { device }) => {
                    let needs = entry(&mut all, device);
                    needs.set("ipv4", "arp_notify", "1");
                    needs.set("ipv6", "ndisc_notify", "1");
                }
                HostStep::Device(DeviceStep::AddAddress { device, address }) => {
                    entry(&mut all, device).addresses.push(*address);
                }
                HostStep::Device(DeviceStep::SetUp { device }) => entry(&mut all, device).up = true,
                _ => {}
            }
        }
        all.into_values().collect()
    }

    fn set(&mut self, family: &str, name: &str, value: &str) {
        let path = ["net", family, "conf", &self.device, name].map(str::to_owned);
        self.settings.insert(path.to_vec(), value.to_owned());
    }

    /// Returns the differences of a device, in the order in which they are mended.
    pub fn drift(&self, seen: &DeviceSeen<'_>) -> Vec<Drift> {
        let link = seen.link;
        let mut drift = Vec::new();
        drift.extend(self.mark.clone().filter(|mark| link.alias.as_ref() != Some(mark)).map(Drift::Mark));
        drift.extend(link.master.map(|_| Drift::Enslaved));
        drift.extend(self.mac.filter(|mac| link.mac != Some(*mac)).map(Drift::Mac));
        drift.extend(self.mtu.filter(|mtu| link.mtu != *mtu).map(Drift::Mtu));
        for (path, value) in &self.settings {
            if seen.settings.get(path).is_some_and(|found| found != value) {
                drift.push(Drift::Setting(path.clone(), value.clone()));
            }
        }
        if self.up && !link.up {
            drift.push(Drift::Down);
        }
        let mut wanted = self.addresses.clone();
        wanted.extend(self.link_local().filter(|address| !self.addresses.contains(address)));
        let has = |address: &IpNet| seen.addresses.contains(&(link.index, *address));
        drift.extend(wanted.iter().filter(|address| !has(address)).copied().map(Drift::Address));
        // A single address has no subnet.
        let routed =
            self.addresses.iter().filter(|address| has(address) && address.prefix_len() < address.max_prefix_len());
        let leads = |address: &&IpNet| {
            let mut routes = seen.routes.iter();
            routes.any(|route| route.index == Some(link.index) && route.destination == address.trunc())
        };
        drift.extend(routed.filter(|address| !leads(address)).copied().map(Drift::Route));
        drift
    }

    /// Returns the link-local address of a device that has IPv6 addresses. A router asks for its
    /// neighbors with it. The kernel makes it only when the device goes up.
    fn link_local(&self) -> Option<IpNet> {
        let mac = self.mac.filter(|_| self.addresses.iter().any(|address| address.addr().is_ipv6()))?;
        Some(IpNet::new_assert(link_local(mac).into(), 64))
    }
}

fn entry<'a, 'b>(all: &'b mut BTreeMap<&'a str, DeviceNeeds>, device: &'a str) -> &'b mut DeviceNeeds {
    all.entry(device).or_insert_with(|| DeviceNeeds { device: device.to_owned(), ..DeviceNeeds::default() })
}

/// Returns the link-local address of a MAC address (RFC 4291, appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let identifier = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(u64::from_be_bytes(identifier)))
}

impl Drift {
    /// Returns a number that is the same for differences that can be mended together.
    pub const fn stage(&self) -> u8 {
        match self {
            Self::Mark(_) | Self::Enslaved | Self::Mac(_) | Self::Mtu(_) => 0,
            Self::Setting(..) => 1,
            Self::Down => 2,
            Self::Address(_) => 3,
            Self::Route(_) => 4,
        }
    }

    /// Returns the fact that holds once the difference is mended.
    pub const fn fact<'a>(&'a self, device: &'a str) -> Fact<'a> {
        Fact { drift: self, device }
    }
}

/// The fact that holds once a difference is mended, as text.
#[derive(Clone, Copy, Debug)]
pub struct Fact<'a> {
    drift: &'a Drift,
    device: &'a str,
}

impl fmt::Display for Fact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drift, device } = self;
        match drift {
            Drift::Mark(mark) => write!(f, "{device} has the alias {mark}"),
            Drift::Enslaved => write!(f, "{device} is in no bridge"),
            Drift::Mac(mac) => write!(f, "{device} has the MAC address {mac}"),
            Drift::Mtu(mtu) => write!(f, "{device} has the MTU {mtu}"),
            Drift::Setting(path, value) => write!(f, "{} is {value}", path.join(".")),
            Drift::Down => write!(f, "{device} is up"),
            Drift::Address(address) => write!(f, "{device} has the address {address}"),
            Drift::Route(address) => write!(f, "{device} has the route to {}", address.trunc()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::model::{Instance, SubnetConfig};

    fn needs() -> Vec<DeviceNeeds> {
        let instance = Instance::new("default".parse().expect("a name"));
        let mut network = testing::network();
        let ipv6 = SubnetConfig::new("fd00:9::/64".parse().expect("a subnet"), None, None).expect("a configuration");
        network.subnets.push(ipv6);
        let mut needs = DeviceNeeds::of(&super::super::host_port(&instance, &network, 1400, 1400));
        // The plan names the link-local address, too; these tests are about a plan that does not.
        needs.iter_mut().for_each(|needs| needs.addresses.retain(|address| !address.to_string().starts_with("fe80")));
        needs
    }

    fn link(needs: &DeviceNeeds) -> Link {
        Link {
            index: 7,
            name: needs.device.clone(),
            mac: needs.mac,
            mtu: 1400,
            kind: Some("veth".to_owned()),
            up: true,
            running: true,
            alias: needs.mark.clone(),
            peer_index: Some(8),
            peer_netnsid: None,
            promiscuous: false,
            xdp_program: None,
            loopback: false,
            master: None,
            vxlan_port: None,
        }
    }

    fn route(address: &IpNet) -> Route {
        Route { destination: address.trunc(), index: Some(7), gateway: None, metric: 0 }
    }

    fn facts(needs: &DeviceNeeds, seen: &DeviceSeen<'_>) -> Vec<String> {
        needs.drift(seen).iter().map(|drift| drift.fact(&needs.device).to_string()).collect()
    }

    #[test]
    fn both_ends_of_the_pair_have_needs() {
        let [port, host] = &needs()[..] else { panic!("{:?}", needs()) };
        assert_eq!((host.device.as_str(), host.mtu, host.up, host.addresses.len()), ("vsw-front", Some(1400), true, 2));
        assert_eq!((port.mac, port.mtu, port.up, port.addresses.len()), (None, Some(1400), true, 0));
        let off: Vec<_> = port.settings.iter().map(|(path, value)| (path[4].as_str(), value.as_str())).collect();
        assert_eq!(off, [("disable_ipv6", "1")]);
    }

    #[test]
    fn a_device_as_planned_does_not_differ() {
        let host = &needs()[1];
        let link = link(host);
        let mut addresses: Vec<_> = host.addresses.iter().map(|address| (7, *address)).collect();
        addresses.push((7, host.link_local().expect("a link-local address")));
        let routes: Vec<_> = host.addresses.iter().map(route).collect();
        let seen = DeviceSeen { link: &link, addresses: &addresses, routes: &routes, settings: host.settings.clone() };
        assert_eq!(host.drift(&seen), []);
        // A kernel without IPv6 has no sysctls of it.
        assert_eq!(host.drift(&DeviceSeen { settings: BTreeMap::new(), ..seen }), []);
    }

    #[test]
    fn each_difference_is_found_in_the_order_in_which_it_is_mended() {
        let host = &needs()[1];
        let mut link = link(host);
        let mark = link.alias.replace("mine".to_owned()).expect("a mark");
        (link.mac, link.mtu, link.up, link.master) = (Some(Mac([2, 0, 0, 0, 0, 9])), 1280, false, Some(3));
        let mut settings = host.settings.clone();
        settings.values_mut().for_each(|value| *value = if value == "1" { "0" } else { "1" }.to_owned());
        let mac = host.mac.expect("a MAC address");
        let addresses = [(7, host.addresses[0]), (8, host.addresses[1])];
        let seen = DeviceSeen { link: &link, addresses: &addresses, routes: &[], settings };
        let found = facts(host, &seen);
        let conf = |family: &str, name: &str| format!("net.{family}.conf.vsw-front.{name} is");
        let expected = [
            format!("vsw-front has the alias {mark}"),
            "vsw-front is in no bridge".to_owned(),
            format!("vsw-front has the MAC address {mac}"),
            "vsw-front has the MTU 1400".to_owned(),
            conf("ipv4", "arp_notify") + " 1",
            conf("ipv6", "accept_ra") + " 0",
            conf("ipv6", "addr_gen_mode") + " 0",
            conf("ipv6", "disable_ipv6") + " 0",
            conf("ipv6", "ndisc_notify") + " 1",
            "vsw-front is up".to_owned(),
            "vsw-front has the address fd00:9::1/64".to_owned(),
            format!("vsw-front has the address {}/64", link_local(mac)),
            "vsw-front has the route to 10.9.8.0/24".to_owned(),
        ];
        assert_eq!(found, expected);
        let stages: Vec<u8> = host.drift(&seen).iter().map(Drift::stage).collect();
        assert!(stages.is_sorted(), "{stages:?}");
    }

    #[test]
    fn the_link_local_address_is_that_of_the_kernel() {
        assert_eq!(link_local(Mac([0x02, 0x00, 0x5e, 0x10, 0x20, 0x30])).to_string(), "fe80::5eff:fe10:2030");
    }
}
