//! The options of macvlan and ipvlan networks.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ports::PORTS;
use super::{BOOLEAN, BridgeOptions, InvalidOption, NamedOption, boolean, find, names, number};
use crate::model::{Driver, InterfaceName, VlanId};

/// Where the endpoints of a macvlan or ipvlan network are on the wire, and whom they reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireOptions {
    /// The interface that the network is on.
    pub parent: InterfaceName,
    /// The VLAN that it is in there, whose tag the switch puts on and takes off; none where an interface of its own does.
    pub vlan: Option<VlanId>,
    /// How endpoints reach each other.
    pub passage: Passage,
    /// How they are told apart.
    pub layer: Layer,
    /// Whether the host itself and they reach each other.
    pub host_access: bool,
}

/// How endpoints on one parent reach each other (`macvlan_mode`, `ipvlan_flag`; ip-link(8)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Passage {
    /// Inside.
    #[default]
    Bridge,
    /// Not at all.
    Private,
    /// By way of the wire, if a switch there sends frames back.
    Vepa,
    /// There is one, and it has the parent to itself.
    Passthru,
}

/// How endpoints are told apart (`ipvlan_mode`; ip-link(8)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Each has a MAC address: macvlan.
    #[default]
    Mac,
    /// By their IP addresses; they are on the wire's own segment.
    L2,
    /// By their IP addresses, and the host routes what they send.
    L3,
    /// The same by way of the host's stack and its firewall.
    L3s,
}

/// Options while they are read.
struct Draft {
    bridge: BridgeOptions,
    parent: Option<InterfaceName>,
    passage: Passage,
    layer: Layer,
    host_access: bool,
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
        set: |options, value| number(value, 68..=65535).map(|bytes| options.bridge.mtu = Some(bytes)),
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
        set: |options, value| value.parse().ok().map(|choice| options.bridge.xdp = choice),
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

impl WireOptions {
    /// Reads the options as given. Whether the parent's name has a VLAN in it is for who knows the interfaces.
    ///
    /// # Errors
    /// The first that is unknown or has a value that it does not take; there is no parent.
    pub fn parse(driver: Driver, given: &BTreeMap<String, String>) -> Result<(BridgeOptions, Self), InvalidOption> {
        let (own, layer) = match driver {
            Driver::Ipvlan => (&IPVLAN[..], Layer::L2),
            _ => (&MACVLAN[..], Layer::Mac),
        };
        let mut draft = Draft {
            bridge: BridgeOptions::default(),
            parent: None,
            passage: Passage::default(),
            layer,
            host_access: false,
        };
        for (key, value) in given {
            if let Some(option) = find(own, key).or_else(|| find(&COMMON, key)) {
                if option.name == "parent" {
                    // The name's own error says more than the option's.
                    value.parse::<InterfaceName>()?;
                }
                option.read(&mut draft, value)?;
            } else if let Some(option) = find(&PORTS, key) {
                option.read(&mut draft.bridge.ports, value)?;
            } else {
                let (option, value) = (key.clone(), value.clone());
                let mut known = names(own, &COMMON);
                known.extend(names::<Draft, _>(&[], &PORTS));
                known.sort_unstable();
                return Err(InvalidOption::Unknown { option, value, driver: driver.name(), known });
            }
        }
        let Draft { bridge, parent, passage, layer, host_access } = draft;
        let parent = parent.ok_or(InvalidOption::NoParent(driver.name()))?;
        Ok((bridge, Self { parent, vlan: None, passage, layer, host_access }))
    }

    /// Whether endpoints have their parent's MAC address.
    pub fn shares_mac(&self) -> bool {
        self.layer != Layer::Mac || self.passage == Passage::Passthru
    }

    /// Whether the host routes what endpoints send.
    pub const fn is_routed(&self) -> bool {
        matches!(self.layer, Layer::L3 | Layer::L3s)
    }

    /// Whether the host has a route to each endpoint.
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

    fn parse(driver: Driver, given: &[(&str, &str)]) -> Result<(BridgeOptions, WireOptions), InvalidOption> {
        let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        WireOptions::parse(driver, &given)
    }

    #[test]
    fn each_driver_has_its_own_options() {
        let (bridge, wire) =
            parse(Driver::Macvlan, &[("parent", "eth1"), ("macvlan_mode", "vepa"), ("mtu", "1400")]).expect("options");
        assert_eq!((wire.parent.as_str(), wire.passage, wire.layer), ("eth1", Passage::Vepa, Layer::Mac));
        assert_eq!((bridge.mtu, wire.host_access, wire.shares_mac()), (Some(1400), false, false));
        let (_, wire) = parse(Driver::Ipvlan, &[("parent", "eth1"), ("ipvlan_mode", "l3s")]).expect("options");
        assert!(wire.is_routed() && wire.has_host_routes() && wire.shares_mac());
        let (_, wire) = parse(Driver::Ipvlan, &[("parent", "eth1"), ("ipvlan_flag", "private")]).expect("options");
        assert_eq!((wire.passage, wire.layer), (Passage::Private, Layer::L2));
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
}
