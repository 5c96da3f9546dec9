//! Options of networks that are switches on this host: bridge and overlay networks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ports::PORTS;
use super::{BOOLEAN, InvalidOption, NamedOption, PortOptions, SWITCH, boolean, find, mask, number, switch};

/// Seconds after which a learned station is removed from the FDB, if it has sent no frame.
pub const DEFAULT_AGEING: u32 = 300;

/// What the host routes between a network and the outside, for one address family. The names are
/// Docker's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Published ports and replies get in. What leaves is masqueraded.
    #[default]
    Nat,
    /// Everything gets in. What leaves is masqueraded.
    NatUnprotected,
    /// Everything gets in. What leaves keeps its address.
    Routed,
    /// Nothing gets in or out, and the host's own services but DNS are out of reach. For internal
    /// networks.
    Isolated,
}

impl std::str::FromStr for GatewayMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "nat" => Ok(Self::Nat),
            "nat-unprotected" => Ok(Self::NatUnprotected),
            "routed" => Ok(Self::Routed),
            "isolated" => Ok(Self::Isolated),
            _ => Err(()),
        }
    }
}

/// Options of a network that is a switch on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchOptions {
    /// MTU in bytes; `None` to detect it.
    pub mtu: Option<u32>,
    /// Seconds after which a learned station is removed from the FDB.
    pub ageing: u32,
    /// Endpoints of the network reach each other.
    pub icc: bool,
    /// Packets that leave the network get the host's address as their source.
    pub masquerade: bool,
    /// What the host routes into the network, for IPv4.
    pub gateway_mode_ipv4: Option<GatewayMode>,
    /// What the host routes into the network, for IPv6.
    pub gateway_mode_ipv6: Option<GatewayMode>,
    /// Host address of ports that are published without an address.
    pub host_binding: Option<IpAddr>,
    /// Link-local groups that are forwarded: bit n is 01:80:c2:00:00:0n.
    pub group_fwd_mask: u16,
    /// Multicast frames go only to ports with listeners of their group.
    pub mcast_snooping: bool,
    /// The switch sends membership queries if no multicast router does.
    pub mcast_querier: bool,
    /// Rules of the network's ports, where an endpoint has no option of its own.
    pub ports: PortOptions,
}

impl Default for SwitchOptions {
    fn default() -> Self {
        Self {
            mtu: None,
            ageing: DEFAULT_AGEING,
            icc: true,
            masquerade: true,
            gateway_mode_ipv4: None,
            gateway_mode_ipv6: None,
            host_binding: None,
            group_fwd_mask: 0,
            mcast_snooping: true,
            mcast_querier: true,
            ports: PortOptions::default(),
        }
    }
}

const GATEWAY_MODES: &str = "nat, nat-unprotected, routed or isolated";

pub(super) const SWITCHED: [NamedOption<SwitchOptions>; 11] = [
    NamedOption {
        name: "ageing",
        docker: None,
        takes: "seconds, from 1 to 1000000",
        set: |options, value| number(value, 1..=1_000_000).map(|seconds| options.ageing = seconds),
    },
    NamedOption {
        name: "gateway_mode",
        docker: None,
        takes: GATEWAY_MODES,
        set: |options, value| {
            let mode = value.parse().ok()?;
            // An option of one family goes before it.
            options.gateway_mode_ipv4.get_or_insert(mode);
            options.gateway_mode_ipv6.get_or_insert(mode);
            Some(())
        },
    },
    NamedOption {
        name: "gateway_mode_ipv4",
        docker: Some("com.docker.network.bridge.gateway_mode_ipv4"),
        takes: GATEWAY_MODES,
        set: |options, value| value.parse().ok().map(|mode| options.gateway_mode_ipv4 = Some(mode)),
    },
    NamedOption {
        name: "gateway_mode_ipv6",
        docker: Some("com.docker.network.bridge.gateway_mode_ipv6"),
        takes: GATEWAY_MODES,
        set: |options, value| value.parse().ok().map(|mode| options.gateway_mode_ipv6 = Some(mode)),
    },
    NamedOption {
        name: "group_fwd_mask",
        docker: None,
        takes: "a mask from 0 to 0xffff without bit 1",
        set: |options, value| mask(value).map(|mask| options.group_fwd_mask = mask),
    },
    NamedOption {
        name: "host_binding",
        docker: Some("com.docker.network.bridge.host_binding_ipv4"),
        takes: "an address of the host",
        set: |options, value| value.parse().ok().map(|address| options.host_binding = Some(address)),
    },
    NamedOption {
        name: "icc",
        docker: Some("com.docker.network.bridge.enable_icc"),
        takes: BOOLEAN,
        set: |options, value| boolean(value).map(|icc| options.icc = icc),
    },
    NamedOption {
        name: "masquerade",
        docker: Some("com.docker.network.bridge.enable_ip_masquerade"),
        takes: BOOLEAN,
        set: |options, value| boolean(value).map(|masquerade| options.masquerade = masquerade),
    },
    NamedOption {
        name: "mcast_querier",
        docker: None,
        takes: SWITCH,
        set: |options, value| switch(value).map(|on| options.mcast_querier = on),
    },
    NamedOption {
        name: "mcast_snooping",
        docker: None,
        takes: SWITCH,
        set: |options, value| switch(value).map(|on| options.mcast_snooping = on),
    },
    NamedOption {
        name: "mtu",
        docker: Some("com.docker.network.driver.mtu"),
        takes: "bytes, from 68 to 65535",
        set: |options, value| number(value, 68..=65535).map(|bytes| options.mtu = Some(bytes)),
    },
];

/// The bit of 01:80:c2:00:00:01, which never leaves its link (IEEE 802.3 annex 31B).
const PAUSE: u16 = 1 << 1;

impl SwitchOptions {
    /// Reads one option. Returns whether it is an option of switches or of ports.
    ///
    /// # Errors
    /// [`InvalidOption::Value`] or [`InvalidOption::PauseForwarded`].
    pub(super) fn read(&mut self, key: &str, value: &str) -> Result<bool, InvalidOption> {
        if let Some(option) = find(&SWITCHED, key) {
            option.read(self, value)?;
        } else if let Some(option) = find(&PORTS, key) {
            option.read(&mut self.ports, value)?;
        } else {
            return Ok(false);
        }
        if self.group_fwd_mask & PAUSE != 0 {
            return Err(InvalidOption::PauseForwarded(value.to_owned()));
        }
        Ok(true)
    }
}
