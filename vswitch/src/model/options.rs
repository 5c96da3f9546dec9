//! The options of bridge networks (`-o KEY=VALUE`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InterfaceName, InvalidInterfaceName};

/// Seconds after which a learned station that is not heard any more is forgotten.
pub const DEFAULT_AGEING: u32 = 300;

/// What a bridge network was asked to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BridgeOptions {
    /// The MTU, if it is not to be detected.
    pub mtu: Option<u32>,
    /// An interface bridged into the network.
    pub uplink: Option<InterfaceName>,
    /// XDP on the uplink.
    pub xdp: XdpChoice,
    /// Seconds until a learned station is forgotten.
    pub ageing: u32,
    /// Whether endpoints of the network reach each other.
    pub icc: bool,
    /// Whether what leaves gets the host's address.
    pub masquerade: bool,
    /// The host address of ports that are published without one.
    pub host_binding: Option<IpAddr>,
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self {
            mtu: None,
            uplink: None,
            xdp: XdpChoice::Auto,
            ageing: DEFAULT_AGEING,
            icc: true,
            masquerade: true,
            host_binding: None,
        }
    }
}

/// XDP on an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpChoice {
    /// Where it helps.
    #[default]
    Auto,
    /// Native XDP, or an error.
    Native,
    /// tc alone.
    Off,
}

/// An option that a network cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOption {
    /// Not one that the driver has.
    #[error("unknown option `{option}={value}` of driver {driver} ({})", known_options(.known))]
    Unknown {
        /// The option.
        option: String,
        /// Its value.
        value: String,
        /// The driver.
        driver: &'static str,
        /// What it does have.
        known: &'static [&'static str],
    },
    /// A value that it does not take.
    #[error("invalid value `{value}` of option {option} ({takes})")]
    Value {
        /// The option.
        option: &'static str,
        /// The value.
        value: String,
        /// What it takes.
        takes: &'static str,
    },
    /// The interface cannot have this name.
    #[error(transparent)]
    Uplink(#[from] InvalidInterfaceName),
    /// XDP without an uplink to have it on.
    #[error("option xdp is about an uplink, and the network has none (give it one with `-o uplink=INTERFACE`)")]
    XdpWithoutUplink,
}

fn known_options(known: &[&str]) -> String {
    if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) }
}

/// An option of the bridge driver: its name, Docker's name for it, what its values are, and what a value sets.
struct BridgeOption {
    name: &'static str,
    docker: Option<&'static str>,
    takes: &'static str,
    set: fn(&mut BridgeOptions, &str) -> Option<()>,
}

const BOOLEAN: &str = "true or false";

const BRIDGE: [BridgeOption; 7] = [
    BridgeOption {
        name: "ageing",
        docker: None,
        takes: "seconds, from 1 to 1000000",
        set: |options, value| number(value, 1..=1_000_000).map(|seconds| options.ageing = seconds),
    },
    BridgeOption {
        name: "host_binding",
        docker: Some("com.docker.network.bridge.host_binding_ipv4"),
        takes: "an address of the host",
        set: |options, value| value.parse().ok().map(|address| options.host_binding = Some(address)),
    },
    BridgeOption {
        name: "icc",
        docker: Some("com.docker.network.bridge.enable_icc"),
        takes: BOOLEAN,
        set: |options, value| boolean(value).map(|icc| options.icc = icc),
    },
    BridgeOption {
        name: "masquerade",
        docker: Some("com.docker.network.bridge.enable_ip_masquerade"),
        takes: BOOLEAN,
        set: |options, value| boolean(value).map(|masquerade| options.masquerade = masquerade),
    },
    BridgeOption {
        name: "mtu",
        docker: Some("com.docker.network.driver.mtu"),
        takes: "bytes, from 68 to 65535",
        set: |options, value| number(value, 68..=65535).map(|bytes| options.mtu = Some(bytes)),
    },
    BridgeOption {
        name: "uplink",
        docker: None,
        takes: "the name of an interface",
        set: |options, value| value.parse().ok().map(|name| options.uplink = Some(name)),
    },
    BridgeOption {
        name: "xdp",
        docker: None,
        takes: "auto, native or off",
        set: |options, value| value.parse().ok().map(|choice| options.xdp = choice),
    },
];

const BRIDGE_NAMES: [&str; BRIDGE.len()] = {
    let mut names = [""; BRIDGE.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = BRIDGE[at].name;
        at += 1;
    }
    names
};

impl BridgeOptions {
    /// Reads the options as given.
    ///
    /// # Errors
    /// The first that is unknown or has a value that it does not take.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, InvalidOption> {
        let mut options = Self::default();
        for (key, value) in given {
            let option = BRIDGE.iter().find(|option| option.name == key || option.docker == Some(key));
            let Some(option) = option else {
                let (option, value) = (key.clone(), value.clone());
                return Err(InvalidOption::Unknown { option, value, driver: "bridge", known: &BRIDGE_NAMES });
            };
            if option.name == "uplink" {
                // The name's own error says more than the option's.
                value.parse::<InterfaceName>()?;
            }
            (option.set)(&mut options, value).ok_or_else(|| InvalidOption::Value {
                option: option.name,
                value: value.clone(),
                takes: option.takes,
            })?;
        }
        if options.uplink.is_none() && given.contains_key("xdp") {
            return Err(InvalidOption::XdpWithoutUplink);
        }
        Ok(options)
    }
}

impl FromStr for XdpChoice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

fn number(text: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    // `parse` takes a plus sign, which no option has.
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|number| digits && range.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<BridgeOptions, InvalidOption> {
        let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        BridgeOptions::parse(&given)
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parse(&[]), Ok(BridgeOptions::default()));
        let options = parse(&[("mtu", "9000"), ("uplink", "eth1"), ("xdp", "native"), ("ageing", "30")]);
        let uplink = Some("eth1".parse().expect("a name"));
        let expected =
            BridgeOptions { mtu: Some(9000), uplink, xdp: XdpChoice::Native, ageing: 30, ..Default::default() };
        assert_eq!(options, Ok(expected));
        for (no, yes) in [("false", "true"), ("0", "1"), ("no", "yes")] {
            let options = parse(&[("icc", no), ("masquerade", no)]).expect("booleans");
            assert!(!options.icc && !options.masquerade, "{no}");
            let docker = [
                ("com.docker.network.bridge.enable_icc", yes),
                ("com.docker.network.bridge.enable_ip_masquerade", no),
                ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
            ];
            let options = parse(&docker).expect("Docker's spellings");
            assert!(options.icc && !options.masquerade && options.host_binding.is_some(), "{yes}");
        }
        assert!(matches!(parse(&[("icc", "maybe")]), Err(InvalidOption::Value { takes: BOOLEAN, .. })));
        let docker = parse(&[("com.docker.network.driver.mtu", "1400")]);
        assert_eq!(docker.map(|options| options.mtu), Ok(Some(1400)));
    }

    #[test]
    fn an_unknown_option_names_the_known_ones() {
        let error = parse(&[("colour", "blue")]).expect_err("there is none");
        assert_eq!(
            error.to_string(),
            "unknown option `colour=blue` of driver bridge (it has ageing, host_binding, icc, masquerade, mtu, uplink, xdp)"
        );
    }

    #[test]
    fn values_are_checked() {
        for (key, value) in [("mtu", "67"), ("mtu", "65536"), ("mtu", "+1500"), ("mtu", ""), ("ageing", "0")] {
            assert!(matches!(parse(&[(key, value)]), Err(InvalidOption::Value { .. })), "{key}={value}");
        }
        assert!(matches!(parse(&[("uplink", "e"), ("xdp", "on")]), Err(InvalidOption::Value { option: "xdp", .. })));
        assert!(matches!(parse(&[("uplink", "a/b")]), Err(InvalidOption::Uplink(_))));
        assert_eq!(parse(&[("xdp", "auto")]), Err(InvalidOption::XdpWithoutUplink));
    }
}
