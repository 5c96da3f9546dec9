//! Options of ports: a network's for all of its ports, and an endpoint's for its own port.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{BOOLEAN, InvalidOption, NamedOption, SWITCH, find, names, number, switch};
use crate::model::{TrunkVlans, VlanId};

/// Options of a port; `None` for the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortOptions {
    /// Learning of the stations behind the port.
    pub learning: Option<Learning>,
    /// Drops frames whose sender addresses are not the port's own.
    pub spoof_guard: Option<bool>,
    /// Answers ARP requests and neighbor solicitations for known addresses.
    pub arp_suppress: Option<bool>,
    /// Drops packets that only routers send.
    pub ra_guard: Option<bool>,
    /// Drops messages that only DHCP servers send.
    pub dhcp_guard: Option<bool>,
    /// Drops BPDUs.
    pub bpdu_guard: Option<bool>,
    /// Maximum rate of broadcast, multicast and unknown unicast frames, each counted alone, in
    /// frames per second; 0 is no limit.
    pub storm_pps: Option<u32>,
    /// Maximum number of stations learned behind the port.
    pub fdb_limit: Option<u32>,
}

/// Ports at which stations are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learning {
    /// Uplinks, and endpoints without `spoof_guard`.
    #[default]
    Auto,
    /// Uplinks and endpoints.
    On,
    /// No ports.
    Off,
}

/// Options of an endpoint in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointOptions {
    /// Options of the port, which override the network's.
    pub ports: PortOptions,
    /// Sends frames back out of the port that they arrived on, if their destination is behind it.
    pub hairpin: bool,
    /// Drops frames between this endpoint and other isolated endpoints; `None` for the network's
    /// `icc`.
    pub isolated: Option<bool>,
    /// A multicast router is behind the endpoint.
    pub mcast_router: bool,
    /// The endpoint accepts router advertisements.
    pub accept_ra: bool,
    /// VLAN of untagged frames.
    pub vlan: Option<VlanId>,
    /// VLANs of tagged frames.
    pub trunk: TrunkVlans,
}

impl EndpointOptions {
    /// Reads the options of a request. VLANs are not among them.
    ///
    /// # Errors
    /// The first option that is unknown or has an invalid value.
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

    /// Returns whether the endpoint reaches the host, which is in no VLAN, and so the gateway,
    /// names and published ports.
    pub fn reaches_host(&self) -> bool {
        self.vlan.is_none()
    }

    /// Returns whether frames of the endpoint carry a tag in tunnels, which transport the frames of
    /// all VLANs.
    pub fn is_tagged(&self) -> bool {
        self.vlan.is_some() || self.trunk != TrunkVlans::None
    }
}

/// Maximum of `fdb_limit`; no FDB is larger.
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
    fn endpoints_have_port_options_and_their_own() {
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
    fn a_network_option_is_refused_with_a_list_of_endpoint_options() {
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
