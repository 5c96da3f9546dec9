//! Options of macvlan and ipvlan networks.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ports::PORTS;
use super::{BOOLEAN, InvalidOption, NamedOption, PortOptions, XdpChoice, boolean, find, names, number};
use crate::model::{Driver, InterfaceName, VlanId};

/// Options of a macvlan or ipvlan network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentOptions {
    /// Interface of the host that the network is on.
    pub parent: InterfaceName,
    /// VLAN of the network on its parent. The switch adds and removes the tag. `None` if the
    /// parent's own frames carry no tag or the parent is a VLAN interface.
    pub vlan: Option<VlanId>,
    /// Reachability among endpoints on the parent.
    pub passage: Passage,
    /// Addresses that distinguish the endpoints.
    pub layer: Layer,
    /// The host and the endpoints reach each other.
    pub host_access: bool,
    /// MTU in bytes; `None` for the parent's.
    pub mtu: Option<u32>,
    /// XDP on the parent.
    pub xdp: XdpChoice,
    /// Rules of the endpoints' ports, where an endpoint has no option of its own.
    pub ports: PortOptions,
}

/// Reachability among endpoints on one parent (`macvlan_mode`, `ipvlan_flag`; ip-link(8)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Passage {
    /// Endpoints reach each other through the switch.
    #[default]
    Bridge,
    /// Endpoints do not reach each other.
    Private,
    /// Endpoints reach each other through the wire, if a switch there sends their frames back.
    Vepa,
    /// The network has a single endpoint, which has the parent to itself.
    Passthru,
}

/// Addresses that distinguish the endpoints (`ipvlan_mode`; ip-link(8)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Each endpoint has a MAC address of its own: macvlan.
    #[default]
    Mac,
    /// IP addresses; endpoints are on the wire's own segment.
    L2,
    /// IP addresses; the host routes packets of endpoints.
    L3,
    /// IP addresses; packets of endpoints pass through the host's network stack and its firewall.
    L3s,
}

/// Options of a macvlan or ipvlan network while they are read.
struct Draft {
    parent: Option<InterfaceName>,
    passage: Passage,
    layer: Layer,
    host_access: bool,
    mtu: Option<u32>,
    xdp: XdpChoice,
    ports: PortOptions,
}

const COMMON: [NamedOption<Draft>; 4] = [
    NamedOption {
        name: "host_access",
        docker: None,
        takes: BOOLEAN,
        set: |options, value| boolean(value).map(|on| options.host_access = on),
    },
    NamedOption {
        name: "mtu",
        docker: Some("com.docker.network.driver.mtu"),
        takes: "bytes, from 68 to 65535",
        set: |options, value| number(value, 68..=65535).map(|bytes| options.mtu = Some(bytes)),
    },
    NamedOption {
        name: "parent",
        docker: None,
        takes: "the name of an interface, or of one and a VLAN, as in eth0.30",
        set: |options, value| value.parse().ok().map(|name| options.parent = Some(name)),
    },
    NamedOption {
        name: "xdp",
        docker: None,
        takes: "auto, native or off",
        set: |options, value| value.parse().ok().map(|choice| options.xdp = choice),
    },
];

const MACVLAN: [NamedOption<Draft>; 1] = [NamedOption {
    name: "macvlan_mode",
    docker: None,
    takes: "bridge, private, vepa or passthru",
    set: |options, value| value.parse().ok().map(|passage| options.passage = passage),
}];

const IPVLAN: [NamedOption<Draft>; 2] = [
    NamedOption {
        name: "ipvlan_flag",
        docker: None,
        takes: "bridge, private or vepa",
        set: |options, value| {
            let passage = value.parse().ok().filter(|passage| *passage != Passage::Passthru);
            passage.map(|passage| options.passage = passage)
        },
    },
    NamedOption {
        name: "ipvlan_mode",
        docker: None,
        takes: "l2, l3 or l3s",
        set: |options, value| value.parse().ok().map(|layer| options.layer = layer),
    },
];

impl ParentOptions {
    /// Reads the options of a request. `parent` may name a VLAN of an interface, as in `eth0.30`:
    /// the caller knows the interfaces and splits it.
    ///
    /// # Errors
    /// The first option that is unknown or has an invalid value; [`InvalidOption::NoParent`].
    pub fn parse(driver: Driver, given: &BTreeMap<String, String>) -> Result<Self, InvalidOption> {
        let (own, layer) = match driver {
            Driver::Ipvlan => (&IPVLAN[..], Layer::L2),
            _ => (&MACVLAN[..], Layer::Mac),
        };
        let mut draft = Draft {
            parent: None,
            passage: Passage::default(),
            layer,
            host_access: false,
            mtu: None,
            xdp: XdpChoice::default(),
            ports: PortOptions::default(),
        };
        for (key, value) in given {
            if let Some(option) = find(own, key).or_else(|| find(&COMMON, key)) {
                if option.name == "parent" {
                    // The error of a name says more than the error of an option.
                    value.parse::<InterfaceName>()?;
                }
                option.read(&mut draft, value)?;
            } else if let Some(option) = find(&PORTS, key) {
                option.read(&mut draft.ports, value)?;
            } else {
                let (option, value) = (key.clone(), value.clone());
                let mut known = names(own, &COMMON);
                known.extend(names::<Draft, _>(&[], &PORTS));
                known.sort_unstable();
                return Err(InvalidOption::Unknown { option, value, driver: driver.name(), known });
            }
        }
        let Draft { parent, passage, layer, host_access, mtu, xdp, ports } = draft;
        let parent = parent.ok_or(InvalidOption::NoParent(driver.name()))?;
        Ok(Self { parent, vlan: None, passage, layer, host_access, mtu, xdp, ports })
    }

    /// Returns whether endpoints have their parent's MAC address.
    pub fn shares_mac(&self) -> bool {
        self.layer != Layer::Mac || self.passage == Passage::Passthru
    }

    /// Returns whether the host routes packets of endpoints.
    pub const fn is_routed(&self) -> bool {
        matches!(self.layer, Layer::L3 | Layer::L3s)
    }

    /// Returns whether the host has a route to each endpoint.
    pub const fn has_host_routes(&self) -> bool {
        matches!(self.layer, Layer::L3s) || matches!(self.layer, Layer::L3) && self.host_access
    }
}

impl FromStr for Passage {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "bridge" => Ok(Self::Bridge),
            "private" => Ok(Self::Private),
            "vepa" => Ok(Self::Vepa),
            "passthru" => Ok(Self::Passthru),
            _ => Err(()),
        }
    }
}

impl FromStr for Layer {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "l2" => Ok(Self::L2),
            "l3" => Ok(Self::L3),
            "l3s" => Ok(Self::L3s),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BridgeOptions;

    fn parse(driver: Driver, given: &[(&str, &str)]) -> Result<ParentOptions, InvalidOption> {
        let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ParentOptions::parse(driver, &given)
    }

    #[test]
    fn each_driver_has_its_own_options() {
        let options =
            parse(Driver::Macvlan, &[("parent", "eth1"), ("macvlan_mode", "vepa"), ("mtu", "1400")]).expect("options");
        assert_eq!((options.parent.as_str(), options.passage, options.layer), ("eth1", Passage::Vepa, Layer::Mac));
        assert_eq!((options.mtu, options.host_access, options.shares_mac()), (Some(1400), false, false));
        let options = parse(Driver::Ipvlan, &[("parent", "eth1"), ("ipvlan_mode", "l3s")]).expect("options");
        assert!(options.is_routed() && options.has_host_routes() && options.shares_mac());
        let options = parse(Driver::Ipvlan, &[("parent", "eth1"), ("ipvlan_flag", "private")]).expect("options");
        assert_eq!((options.passage, options.layer), (Passage::Private, Layer::L2));
        for (driver, option, value) in [
            (Driver::Macvlan, "ipvlan_mode", "l2"),
            (Driver::Ipvlan, "macvlan_mode", "bridge"),
            (Driver::Ipvlan, "uplink", "eth2"),
        ] {
            let error = parse(driver, &[("parent", "eth1"), (option, value)]);
            assert!(matches!(error, Err(InvalidOption::Unknown { .. })), "{option}");
        }
        let passthru = parse(Driver::Ipvlan, &[("parent", "eth1"), ("ipvlan_flag", "passthru")]);
        assert!(matches!(passthru, Err(InvalidOption::Value { .. })));
        assert_eq!(parse(Driver::Macvlan, &[]), Err(InvalidOption::NoParent("macvlan")));
    }

    #[test]
    fn refused_options_are_named_with_the_valid_ones() {
        for (driver, option, value, names) in [
            (Driver::Macvlan, "macvlan_mode", "source", &["bridge"][..]),
            (Driver::Macvlan, "macvlan_mode", "", &[]),
            (Driver::Macvlan, "ipvlan_mode", "l2", &["macvlan_mode"]),
            (Driver::Macvlan, "ipvlan_flag", "private", &[]),
            (Driver::Macvlan, "host_access", "maybe", &[]),
            (Driver::Macvlan, "xdp", "generic", &[]),
            (Driver::Macvlan, "mtu", "9000000", &[]),
            (Driver::Macvlan, "uplink", "phys0", &[]),
            (Driver::Ipvlan, "macvlan_mode", "bridge", &[]),
            (Driver::Ipvlan, "ipvlan_mode", "l4", &["l3s"]),
            (Driver::Ipvlan, "ipvlan_flag", "passthru", &["bridge"]),
            (Driver::Ipvlan, "nosuch", "1", &["ipvlan_mode"]),
        ] {
            let error = parse(driver, &[("parent", "phys0"), (option, value)]).expect_err("refused").to_string();
            for name in [option, value].iter().chain(names) {
                assert!(error.contains(name), "{option}={value}: `{error}` does not name {name}");
            }
        }
        for (option, value) in [("parent", "phys0"), ("macvlan_mode", "bridge"), ("ipvlan_mode", "l2")] {
            let given = BTreeMap::from([(option.to_owned(), value.to_owned())]);
            let error = BridgeOptions::parse(&given).expect_err("refused").to_string();
            assert!(error.contains(option), "{error}");
        }
        for parent in ["", "sixteen-letters0", "a/b", "phys0.3 0"] {
            let error = parse(Driver::Macvlan, &[("parent", parent)]).expect_err("refused");
            assert!(error.to_string().contains(parent), "{error}");
        }
    }
}
