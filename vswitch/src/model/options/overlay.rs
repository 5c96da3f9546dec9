//! The options of overlay networks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ports::PORTS;
use super::{BOOLEAN, BRIDGE, BridgeOptions, InvalidOption, NamedOption, boolean, find, names, number};

/// What an overlay network was asked to be, besides what bridge networks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayOptions {
    /// The VNI, 1 to 16777215; 0 until one is chosen.
    pub vni: u32,
    /// Whether its frames go from host to host by WireGuard alone.
    pub encrypted: bool,
    /// Whether it is the cluster's: all its hosts have it.
    #[serde(default)]
    pub shared: bool,
}

impl OverlayOptions {
    /// The first VNI that is given to a network that names none.
    pub const FIRST_VNI: u32 = 4096;
    /// The last there is (RFC 7348, 5).
    pub const LAST_VNI: u32 = (1 << 24) - 1;
}

const OVERLAY: [NamedOption<OverlayOptions>; 2] = [
    NamedOption {
        name: "encrypted",
        docker: None,
        takes: BOOLEAN,
        set: |options, value| boolean(value).map(|on| options.encrypted = on),
    },
    NamedOption {
        name: "vni",
        docker: Some("com.docker.network.driver.overlay.vxlanid_list"),
        takes: "a number from 1 to 16777215",
        set: |options, value| number(value, 1..=OverlayOptions::LAST_VNI).map(|vni| options.vni = vni),
    },
];

/// Options of bridge networks that overlay networks have not: they are on no interface of the host.
const ON_AN_INTERFACE: [&str; 2] = ["uplink", "xdp"];

impl OverlayOptions {
    /// Reads the options as given.
    ///
    /// # Errors
    /// The first that is unknown or has a value that it does not take.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<(BridgeOptions, Self), InvalidOption> {
        let mut options = Self { vni: 0, encrypted: false, shared: false };
        let mut bridge = BTreeMap::new();
        for (key, value) in given {
            let shared = find(&BRIDGE, key).is_some_and(|option| !ON_AN_INTERFACE.contains(&option.name));
            if let Some(option) = find(&OVERLAY, key) {
                option.read(&mut options, value)?;
            } else if shared || find(&PORTS, key).is_some() {
                bridge.insert(key.clone(), value.clone());
            } else {
                let mut known = names(&OVERLAY, &PORTS);
                known.extend(names::<BridgeOptions, BridgeOptions>(&BRIDGE, &[]));
                known.retain(|name| !ON_AN_INTERFACE.contains(name));
                known.sort_unstable();
                let (option, value) = (key.clone(), value.clone());
                return Err(InvalidOption::Unknown { option, value, driver: "overlay", known });
            }
        }
        Ok((BridgeOptions::parse(&bridge)?, options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<(BridgeOptions, OverlayOptions), InvalidOption> {
        OverlayOptions::parse(&given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn its_own_options_and_those_of_bridges_are_read() {
        let (bridge, overlay) = parse(&[("vni", "77"), ("mtu", "1400"), ("storm_pps", "5")]).expect("options");
        assert_eq!((overlay.vni, overlay.encrypted), (77, false));
        assert_eq!((bridge.mtu, bridge.ports.storm_pps), (Some(1400), Some(5)));
        assert_eq!(parse(&[]).expect("none is fine").1.vni, 0);
        assert!(parse(&[("encrypted", "yes")]).expect("options").1.encrypted);
    }

    #[test]
    fn what_it_has_not_is_refused_by_name() {
        for vni in ["0", "16777216", "x", "-1"] {
            assert!(matches!(parse(&[("vni", vni)]), Err(InvalidOption::Value { option: "vni", .. })), "{vni}");
        }
        for option in ["uplink", "xdp", "parent", "vnis"] {
            let Err(InvalidOption::Unknown { known, .. }) = parse(&[(option, "native")]) else { panic!("{option}") };
            assert!(known.contains(&"vni") && known.contains(&"mtu") && !known.contains(&"uplink"), "{known:?}");
        }
    }
}
