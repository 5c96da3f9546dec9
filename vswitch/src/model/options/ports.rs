//! What ports may do: what a network says for all of its ports, and an endpoint for its own.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{BOOLEAN, InvalidOption, NamedOption, SWITCH, find, names, number, switch};
use crate::model::{TrunkVlans, VlanId};

/// What a port may do, where somebody has said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortOptions {
    /// Whether stations behind it are learned.
    pub learning: Option<Learning>,
    /// Whether what it sends must have its own addresses.
    pub spoof_guard: Option<bool>,
    /// Whether the switch answers its questions for addresses that are known.
    pub arp_suppress: Option<bool>,
    /// Whether it must not speak as a router.
    pub ra_guard: Option<bool>,
    /// Whether it must not answer as a DHCP server.
    pub dhcp_guard: Option<bool>,
    /// Whether it must not speak the spanning tree protocol.
    pub bpdu_guard: Option<bool>,
    /// How many broadcast, multicast and unknown unicast frames it may send in a second, each for itself; 0 is no limit.
    pub storm_pps: Option<u32>,
    /// How many stations may be learned behind it.
    pub fdb_limit: Option<u32>,
}

/// Where stations are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learning {
    /// Behind uplinks, and behind endpoints that may send with foreign addresses.
    #[default]
    Auto,
    /// Behind endpoints, too.
    On,
    /// Nowhere.
    Off,
}

/// What an endpoint was asked to be in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointOptions {
    /// What goes before the network's own options.
    pub ports: PortOptions,
    /// Whether its frames for stations behind itself come back.
    pub hairpin: bool,
    /// Whether other isolated endpoints are out of its reach; the network's `icc` says so if not given.
    pub isolated: Option<bool>,
    /// Whether a multicast router is behind it.
    pub mcast_router: bool,
    /// Whether it takes router advertisements.
    pub accept_ra: bool,
    /// The VLAN of its untagged frames.
    pub vlan: Option<VlanId>,
    /// The VLANs of its tagged frames.
    pub trunk: TrunkVlans,
}

impl EndpointOptions {
    /// Reads the options as given; VLANs are no part of them.
    ///
    /// # Errors
    /// The first that is unknown or has a value that it does not take.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, InvalidOption> {
        let mut options = Self::default();
        for (key, value) in given {
            if let Some(option) = find(&ENDPOINT, key) {
                option.read(&mut options, value)?;
            } else if let Some(option) = find(&PORTS, key) {
                option.read(&mut options.ports, value)?;
            } else {
                let (option, value, known) = (key.clone(), value.clone(), names(&ENDPOINT, &PORTS));
                return Err(InvalidOption::UnknownOfEndpoint { option, value, known });
            }
        }
        Ok(options)
    }

    /// Whether the host, which is in no VLAN, is in its reach: gateway, names and published ports are.
    pub fn reaches_host(&self) -> bool {
        self.vlan.is_none()
    }

    /// Whether its frames, or some of them, have a tag in tunnels, where frames of all VLANs go.
    pub fn is_tagged(&self) -> bool {
        self.vlan.is_some() || self.trunk != TrunkVlans::None
    }
}

/// More than the largest FDB has.
const MOST_STATIONS: u32 = 1 << 22;

pub(super) const PORTS: [NamedOption<PortOptions>; 8] = [
    NamedOption {
        name: "arp_suppress",
        docker: None,
        takes: SWITCH,
        set: |options, value| switch(value).map(|on| options.arp_suppress = Some(on)),
    },
    NamedOption {
        name: "bpdu_guard",
        docker: None,
        takes: SWITCH,
        set: |options, value| switch(value).map(|on| options.bpdu_guard = Some(on)),
    },
    NamedOption {
        name: "dhcp_guard",
        docker: None,
        takes: SWITCH,
        set: |options, value| switch(value).map(|on| options.dhcp_guard = Some(on)),
    },
    NamedOption {
        name: "fdb_limit",
        docker: None,
        takes: "stations, from 0 to 4194304",
        set: |options, value| number(value, 0..=MOST_STATIONS).map(|stations| options.fdb_limit = Some(stations)),
    },
    NamedOption {
        name: "learning",
        docker: None,
        takes: "auto, on or off",
        set: |options, value| value.parse().ok().map(|learning| options.learning = Some(learning)),
    },
    NamedOption {
        name: "ra_guard",
        docker: None,
        takes: SWITCH,
        set: |options, value| switch(value).map(|on| options.ra_guard = Some(on)),
    },
    NamedOption {
        name: "spoof_guard",
        docker: None,
        takes: SWITCH,
        set: |options, value| switch(value).map(|on| options.spoof_guard = Some(on)),
    },
    NamedOption {
        name: "storm_pps",
        docker: None,
        takes: "frames per second, up to 1000000000; 0 is no limit",
        set: |options, value| number(value, 0..=1_000_000_000).map(|frames| options.storm_pps = Some(frames)),
    },
];

const ENDPOINT: [NamedOption<EndpointOptions>; 4] = [
    NamedOption {
        name: "accept_ra",
        docker: None,
        takes: SWITCH,
        set: |options, value| switch(value).map(|on| options.accept_ra = on),
    },
    NamedOption {
        name: "hairpin",
        docker: None,
        takes: BOOLEAN,
        set: |options, value| switch(value).map(|on| options.hairpin = on),
    },
    NamedOption {
        name: "isolated",
        docker: None,
        takes: BOOLEAN,
        set: |options, value| switch(value).map(|on| options.isolated = Some(on)),
    },
    NamedOption {
        name: "mcast_router",
        docker: None,
        takes: SWITCH,
        set: |options, value| switch(value).map(|on| options.mcast_router = on),
    },
];

impl FromStr for Learning {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<EndpointOptions, InvalidOption> {
        let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        EndpointOptions::parse(&given)
    }

    #[test]
    fn endpoints_have_the_options_of_ports_and_their_own() {
        let options = parse(&[
            ("spoof_guard", "off"),
            ("learning", "auto"),
            ("hairpin", "true"),
            ("isolated", "no"),
            ("mcast_router", "on"),
            ("accept_ra", "1"),
        ]);
        let ports = PortOptions { spoof_guard: Some(false), learning: Some(Learning::Auto), ..PortOptions::default() };
        let expected = EndpointOptions {
            ports,
            hairpin: true,
            isolated: Some(false),
            mcast_router: true,
            accept_ra: true,
            ..EndpointOptions::default()
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn what_is_the_networks_alone_is_refused_with_what_endpoints_have() {
        let error = parse(&[("group_fwd_mask", "1")]).expect_err("a network's");
        assert_eq!(
            error.to_string(),
            "unknown option `group_fwd_mask=1` of an endpoint (it has accept_ra, arp_suppress, bpdu_guard, dhcp_guard, \
             fdb_limit, hairpin, isolated, learning, mcast_router, ra_guard, spoof_guard, storm_pps)"
        );
        let error = parse(&[("hairpin", "sometimes")]).expect_err("no boolean");
        assert_eq!(error.to_string(), "invalid value `sometimes` of option hairpin (true or false)");
    }
}
