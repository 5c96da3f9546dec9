//! The options of networks and of their endpoints (`-o KEY=VALUE`).

mod overlay;
mod ports;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InterfaceName, InvalidInterfaceName};
pub use overlay::OverlayOptions;
use ports::PORTS;
pub use ports::{EndpointOptions, Learning, PortOptions};
pub use wire::{Layer, Passage, WireOptions};

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
    /// Which link-local groups are forwarded: bit n is 01:80:c2:00:00:0n.
    pub group_fwd_mask: u16,
    /// Whether multicast goes to those alone who listen.
    pub mcast_snooping: bool,
    /// Whether the switch asks who listens, where nobody else does.
    pub mcast_querier: bool,
    /// What its ports may do, as far as their endpoints do not say otherwise.
    pub ports: PortOptions,
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
            group_fwd_mask: 0,
            mcast_snooping: true,
            mcast_querier: true,
            ports: PortOptions::default(),
        }
    }
}

/// XDP on an uplink or parent, in the order of how much it is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpChoice {
    /// tc alone.
    Off,
    /// Where it helps.
    #[default]
    Auto,
    /// Native XDP, or an error.
    Native,
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
        known: Vec<&'static str>,
    },
    /// Not one that endpoints have.
    #[error("unknown option `{option}={value}` of an endpoint ({})", known_options(.known))]
    UnknownOfEndpoint {
        /// The option.
        option: String,
        /// Its value.
        value: String,
        /// What they do have.
        known: Vec<&'static str>,
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
    /// A mask with the group that no bridge forwards.
    #[error(
        "invalid value `{0}` of option group_fwd_mask (bit 1 is 01:80:c2:00:00:01, MAC pause, which no bridge forwards: leave it out)"
    )]
    PauseForwarded(String),
    /// The interface cannot have this name.
    #[error(transparent)]
    Uplink(#[from] InvalidInterfaceName),
    /// No interface is given that a macvlan or ipvlan network is to be on.
    #[error("a {0} network is on an interface of the host (say which: `-o parent=INTERFACE`)")]
    NoParent(&'static str),
    /// XDP without an uplink to have it on.
    #[error("option xdp is about an uplink, and the network has none (give it one with `-o uplink=INTERFACE`)")]
    XdpWithoutUplink,
}

fn known_options(known: &[&str]) -> String {
    if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) }
}

/// An option: its name, Docker's name for it, what its values are, and what a value sets.
struct NamedOption<T> {
    name: &'static str,
    docker: Option<&'static str>,
    takes: &'static str,
    set: fn(&mut T, &str) -> Option<()>,
}

const BOOLEAN: &str = "true or false";
const SWITCH: &str = "on or off";

const BRIDGE: [NamedOption<BridgeOptions>; 10] = [
    NamedOption {
        name: "ageing",
        docker: None,
        takes: "seconds, from 1 to 1000000",
        set: |options, value| number(value, 1..=1_000_000).map(|seconds| options.ageing = seconds),
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

/// The bit of 01:80:c2:00:00:01, which never leaves its link (IEEE 802.3 annex 31B).
const PAUSE: u16 = 1 << 1;

impl BridgeOptions {
    /// Reads the options as given.
    ///
    /// # Errors
    /// The first that is unknown or has a value that it does not take.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, InvalidOption> {
        let mut options = Self::default();
        for (key, value) in given {
            if let Some(option) = find(&BRIDGE, key) {
                if option.name == "uplink" {
                    // The name's own error says more than the option's.
                    value.parse::<InterfaceName>()?;
                }
                option.read(&mut options, value)?;
            } else if let Some(option) = find(&PORTS, key) {
                option.read(&mut options.ports, value)?;
            } else {
                let (option, value, known) = (key.clone(), value.clone(), names(&BRIDGE, &PORTS));
                return Err(InvalidOption::Unknown { option, value, driver: "bridge", known });
            }
            if options.group_fwd_mask & PAUSE != 0 {
                return Err(InvalidOption::PauseForwarded(value.clone()));
            }
        }
        if options.uplink.is_none() && given.contains_key("xdp") {
            return Err(InvalidOption::XdpWithoutUplink);
        }
        Ok(options)
    }
}

impl<T> NamedOption<T> {
    fn read(&self, options: &mut T, value: &str) -> Result<(), InvalidOption> {
        let refused = || InvalidOption::Value { option: self.name, value: value.to_owned(), takes: self.takes };
        (self.set)(options, value).ok_or_else(refused)
    }
}

fn find<'a, T>(table: &'a [NamedOption<T>], key: &str) -> Option<&'a NamedOption<T>> {
    table.iter().find(|option| option.name == key || option.docker == Some(key))
}

fn names<T, U>(own: &[NamedOption<T>], shared: &[NamedOption<U>]) -> Vec<&'static str> {
    let names = own.iter().map(|option| option.name).chain(shared.iter().map(|option| option.name));
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
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

/// A boolean of what is switched on and off; the words of all booleans do as well.
fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => boolean(text),
    }
}

/// A mask of 16 bits, in decimal or with 0x before it.
fn mask(text: &str) -> Option<u16> {
    let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) else {
        return number(text, 0..=0xffff).and_then(|mask| u16::try_from(mask).ok());
    };
    let digits = Some(digits).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
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
            "unknown option `colour=blue` of driver bridge (it has ageing, arp_suppress, bpdu_guard, dhcp_guard, \
             fdb_limit, group_fwd_mask, host_binding, icc, learning, masquerade, mcast_querier, mcast_snooping, mtu, \
             ra_guard, spoof_guard, storm_pps, uplink, xdp)"
        );
    }

    #[test]
    fn what_ports_may_do_is_read() {
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
        let options = parse(&given).expect("valid");
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
        assert_eq!(parse(&[("group_fwd_mask", "65533")]).map(|options| options.group_fwd_mask), Ok(0xfffd));
    }

    #[test]
    fn options_recorded_before_there_were_guards_are_read() {
        let recorded = r#"{"mtu":1400,"uplink":null,"xdp":"auto","ageing":30,"icc":false,"masquerade":true}"#;
        let options: BridgeOptions = serde_json::from_str(recorded).expect("an old record");
        assert_eq!((options.mtu, options.ports, options.mcast_snooping), (Some(1400), PortOptions::default(), true));
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
