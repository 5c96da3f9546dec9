//! Options of overlay networks.

use std::collections::BTreeMap;

use super::ports::PORTS;
use super::switch::SWITCHED;
use super::{BOOLEAN, InvalidOption, NamedOption, SwitchOptions, boolean, find, names, number};
use crate::model::Vni;

/// Options of an overlay network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayOptions {
    /// The network's switch on this host.
    pub switch: SwitchOptions,
    /// The network's VNI; `None` until one is chosen.
    pub vni: Option<Vni>,
    /// Frames go from host to host only inside WireGuard.
    pub encrypted: bool,
    /// The network belongs to the cluster: every host of the cluster has it.
    pub shared: bool,
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
        set: |options, value| {
            let vni = number(value, 1..=Vni::LAST.number()).and_then(|vni| Vni::try_from(vni).ok());
            vni.map(|vni| options.vni = Some(vni))
        },
    },
];

impl OverlayOptions {
    /// Returns the VNI as a number; 0 until one is chosen.
    pub fn vni_number(&self) -> u32 {
        self.vni.map_or(0, Vni::number)
    }

    /// Reads the options of a request.
    ///
    /// # Errors
    /// The first option that is unknown or has an invalid value.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, InvalidOption> {
        let mut options = Self::default();
        let mut switched = Vec::new();
        for (key, value) in given {
            if let Some(option) = find(&OVERLAY, key) {
                option.read(&mut options, value)?;
            } else if find(&SWITCHED, key).is_some() || find(&PORTS, key).is_some() {
                switched.push((key, value));
            } else {
                let (option, value) = (key.clone(), value.clone());
                let mut known = names(&OVERLAY, &SWITCHED);
                known.extend(names::<Self, _>(&[], &PORTS));
                known.sort_unstable();
                return Err(InvalidOption::Unknown { option, value, driver: "overlay", known });
            }
        }
        for (key, value) in switched {
            options.switch.read(key, value)?;
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<OverlayOptions, InvalidOption> {
        OverlayOptions::parse(&given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn overlay_options_and_switch_options_are_read() {
        let options = parse(&[("vni", "77"), ("mtu", "1400"), ("storm_pps", "5")]).expect("options");
        assert_eq!((options.vni.map(Vni::number), options.encrypted), (Some(77), false));
        assert_eq!((options.switch.mtu, options.switch.ports.storm_pps), (Some(1400), Some(5)));
        assert_eq!(parse(&[]).expect("options").vni, None);
        assert!(parse(&[("encrypted", "yes")]).expect("options").encrypted);
    }

    #[test]
    fn options_of_other_drivers_are_refused() {
        for vni in ["0", "16777216", "x", "-1"] {
            assert!(matches!(parse(&[("vni", vni)]), Err(InvalidOption::Value { option: "vni", .. })), "{vni}");
        }
        for option in ["uplink", "xdp", "parent", "vnis"] {
            let Err(InvalidOption::Unknown { known, .. }) = parse(&[(option, "native")]) else { panic!("{option}") };
            assert!(known.contains(&"vni") && known.contains(&"mtu") && !known.contains(&"uplink"), "{known:?}");
        }
    }
}
