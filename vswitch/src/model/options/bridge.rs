//! Options of bridge networks.

use std::collections::BTreeMap;

use super::ports::PORTS;
use super::switch::SWITCHED;
use super::{InvalidOption, NamedOption, SwitchOptions, XdpChoice, find, names};
use crate::model::InterfaceName;

/// Options of a bridge network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeOptions {
    /// The network's switch.
    pub switch: SwitchOptions,
    /// Interface of the host that is bridged into the network.
    pub uplink: Option<UplinkOptions>,
}

/// Options of an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkOptions {
    /// Name of the interface.
    pub interface: InterfaceName,
    /// XDP on the interface.
    pub xdp: XdpChoice,
}

/// Options of an uplink while they are read.
#[derive(Default)]
struct Draft {
    uplink: Option<InterfaceName>,
    xdp: XdpChoice,
}

const BRIDGE: [NamedOption<Draft>; 2] = [
    NamedOption {
        name: "uplink",
        docker: None,
        takes: "the name of an interface",
        set: |options, value| value.parse().ok().map(|name| options.uplink = Some(name)),
    },
    NamedOption {
        name: "xdp",
        docker: None,
        takes: "auto, native or off",
        set: |options, value| value.parse().ok().map(|choice| options.xdp = choice),
    },
];

impl BridgeOptions {
    /// Reads the options of a request.
    ///
    /// # Errors
    /// The first option that is unknown or has an invalid value.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, InvalidOption> {
        let mut draft = Draft::default();
        let mut switch = SwitchOptions::default();
        for (key, value) in given {
            if let Some(option) = find(&BRIDGE, key) {
                if option.name == "uplink" {
                    // The error of a name says more than the error of an option.
                    value.parse::<InterfaceName>()?;
                }
                option.read(&mut draft, value)?;
            } else if !switch.read(key, value)? {
                let (option, value) = (key.clone(), value.clone());
                let mut known = names(&BRIDGE, &SWITCHED);
                known.extend(names::<Draft, _>(&[], &PORTS));
                known.sort_unstable();
                return Err(InvalidOption::Unknown { option, value, driver: "bridge", known });
            }
        }
        if draft.uplink.is_none() && given.contains_key("xdp") {
            return Err(InvalidOption::XdpWithoutUplink);
        }
        let uplink = draft.uplink.map(|interface| UplinkOptions { interface, xdp: draft.xdp });
        Ok(Self { switch, uplink })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{GatewayMode, Learning, PortOptions};
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<BridgeOptions, InvalidOption> {
        let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        BridgeOptions::parse(&given)
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parse(&[]), Ok(BridgeOptions::default()));
        let options = parse(&[("mtu", "9000"), ("uplink", "eth1"), ("xdp", "native"), ("ageing", "30")]);
        let uplink = UplinkOptions { interface: "eth1".parse().expect("a name"), xdp: XdpChoice::Native };
        let switch = SwitchOptions { mtu: Some(9000), ageing: 30, ..SwitchOptions::default() };
        let expected = BridgeOptions { switch, uplink: Some(uplink) };
        assert_eq!(options, Ok(expected));
        for (no, yes) in [("false", "true"), ("0", "1"), ("no", "yes")] {
            let options = parse(&[("icc", no), ("masquerade", no)]).expect("booleans").switch;
            assert!(!options.icc && !options.masquerade, "{no}");
            let docker = [
                ("com.docker.network.bridge.enable_icc", yes),
                ("com.docker.network.bridge.enable_ip_masquerade", no),
                ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
            ];
            let options = parse(&docker).expect("Docker's spellings").switch;
            assert!(options.icc && !options.masquerade && options.host_binding.is_some(), "{yes}");
        }
        assert!(matches!(parse(&[("icc", "maybe")]), Err(InvalidOption::Value { takes: "true or false", .. })));
        for (given, expected) in [
            (&[("gateway_mode", "routed")][..], [Some(GatewayMode::Routed); 2]),
            (
                &[("com.docker.network.bridge.gateway_mode_ipv6", "nat-unprotected"), ("gateway_mode", "nat")],
                [Some(GatewayMode::Nat), Some(GatewayMode::NatUnprotected)],
            ),
            (&[("gateway_mode_ipv4", "isolated")], [Some(GatewayMode::Isolated), None]),
        ] {
            let options = parse(given).expect("modes").switch;
            assert_eq!([options.gateway_mode_ipv4, options.gateway_mode_ipv6], expected);
        }
        let docker = parse(&[("com.docker.network.driver.mtu", "1400")]);
        assert_eq!(docker.map(|options| options.switch.mtu), Ok(Some(1400)));
    }

    #[test]
    fn an_unknown_option_names_the_known_ones() {
        let error = parse(&[("colour", "blue")]).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown option `colour=blue` of driver bridge (it has ageing, arp_suppress, bpdu_guard, dhcp_guard, \
             fdb_limit, gateway_mode, gateway_mode_ipv4, gateway_mode_ipv6, group_fwd_mask, host_binding, icc, learning, masquerade, mcast_querier, mcast_snooping, mtu, \
             ra_guard, spoof_guard, storm_pps, uplink, xdp)"
        );
    }

    #[test]
    fn port_options_are_read() {
        let given = [
            ("learning", "on"),
            ("spoof_guard", "off"),
            ("bpdu_guard", "no"),
            ("ra_guard", "1"),
            ("storm_pps", "0"),
            ("fdb_limit", "7"),
            ("mcast_snooping", "off"),
            ("mcast_querier", "false"),
            ("group_fwd_mask", "0x4001"),
        ];
        let options = parse(&given).expect("valid").switch;
        assert_eq!((options.group_fwd_mask, options.mcast_snooping, options.mcast_querier), (0x4001, false, false));
        let expected = PortOptions {
            learning: Some(Learning::On),
            spoof_guard: Some(false),
            bpdu_guard: Some(false),
            ra_guard: Some(true),
            storm_pps: Some(0),
            fdb_limit: Some(7),
            ..PortOptions::default()
        };
        assert_eq!(options.ports, expected);
        assert_eq!(parse(&[("group_fwd_mask", "65533")]).map(|options| options.switch.group_fwd_mask), Ok(0xfffd));
    }

    #[test]
    fn values_are_checked() {
        for (option, value, takes) in [
            ("learning", "yes", "auto, on or off"),
            ("spoof_guard", "maybe", "on or off"),
            ("storm_pps", "-1", "frames per second, up to 1000000000; 0 is no limit"),
            ("fdb_limit", "many", "stations, from 0 to 4194304"),
            ("mcast_snooping", "", "on or off"),
            ("group_fwd_mask", "0x10000", "a mask from 0 to 0xffff without bit 1"),
            ("group_fwd_mask", "0x", "a mask from 0 to 0xffff without bit 1"),
            ("group_fwd_mask", "0x+1", "a mask from 0 to 0xffff without bit 1"),
        ] {
            let error = parse(&[(option, value)]).expect_err("refused");
            assert_eq!(error.to_string(), format!("invalid value `{value}` of option {option} ({takes})"));
        }
        let pause = parse(&[("group_fwd_mask", "2")]).expect_err("refused");
        assert!(
            pause.to_string().starts_with("invalid value `2` of option group_fwd_mask (bit 1 is 01:80:c2:00:00:01")
        );
        for (key, value) in [("mtu", "67"), ("mtu", "65536"), ("mtu", "+1500"), ("mtu", ""), ("ageing", "0")] {
            assert!(matches!(parse(&[(key, value)]), Err(InvalidOption::Value { .. })), "{key}={value}");
        }
        assert!(matches!(parse(&[("uplink", "e"), ("xdp", "on")]), Err(InvalidOption::Value { option: "xdp", .. })));
        assert!(matches!(parse(&[("uplink", "a/b")]), Err(InvalidOption::Uplink(_))));
        assert_eq!(parse(&[("xdp", "auto")]), Err(InvalidOption::XdpWithoutUplink));
    }
}
