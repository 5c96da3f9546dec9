//! Options of networks and endpoints (`-o KEY=VALUE`).

mod bridge;
mod overlay;
mod parent;
mod ports;
mod switch;

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::InvalidInterfaceName;
pub use bridge::{BridgeOptions, UplinkOptions};
pub use overlay::OverlayOptions;
pub use parent::{Layer, ParentOptions, Passage};
pub use ports::{EndpointOptions, Learning, PortOptions};
pub use switch::{DEFAULT_AGEING, GatewayMode, SwitchOptions};

/// Choice of XDP on an uplink or parent, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpChoice {
    /// tc only.
    Off,
    /// Native XDP where it is faster.
    #[default]
    Auto,
    /// Native XDP, or an error.
    Native,
}

/// An invalid option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOption {
    /// The driver has no such option.
    #[error("unknown option `{option}={value}` of driver {driver} ({})", known_options(.known))]
    Unknown {
        /// The option.
        option: String,
        /// The value of the option.
        value: String,
        /// The driver.
        driver: &'static str,
        /// Options of the driver.
        known: Vec<&'static str>,
    },
    /// Endpoints have no such option.
    #[error("unknown option `{option}={value}` of an endpoint ({})", known_options(.known))]
    UnknownOfEndpoint {
        /// The option.
        option: String,
        /// The value of the option.
        value: String,
        /// Options of endpoints.
        known: Vec<&'static str>,
    },
    /// The option does not take this value.
    #[error("invalid value `{value}` of option {option} ({takes})")]
    Value {
        /// The option.
        option: &'static str,
        /// The value.
        value: String,
        /// Description of the valid values.
        takes: &'static str,
    },
    /// The mask contains the group that no bridge forwards.
    #[error(
        "invalid value `{0}` of option group_fwd_mask (bit 1 is 01:80:c2:00:00:01, MAC pause, which no bridge forwards: leave it out)"
    )]
    PauseForwarded(String),
    /// The value is no name of an interface.
    #[error(transparent)]
    Uplink(#[from] InvalidInterfaceName),
    /// A macvlan or ipvlan network without a parent.
    #[error("a {0} network is on an interface of the host (say which: `-o parent=INTERFACE`)")]
    NoParent(&'static str),
    /// The gateway mode `isolated` of a network that is not internal.
    #[error("option gateway_mode=isolated is for internal networks (add --internal, or choose another mode)")]
    IsolatedNotInternal,
    /// The option `xdp` without an uplink.
    #[error("option xdp is about an uplink, and the network has none (give it one with `-o uplink=INTERFACE`)")]
    XdpWithoutUplink,
}

fn known_options(known: &[&str]) -> String {
    if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) }
}

/// An option: its name, Docker's name for it, a description of its values, and a function that
/// stores a value.
struct NamedOption<T> {
    name: &'static str,
    docker: Option<&'static str>,
    takes: &'static str,
    set: fn(&mut T, &str) -> Option<()>,
}

const BOOLEAN: &str = "true or false";
const SWITCH: &str = "on or off";

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

/// Parses `on`, `off`, or a boolean.
fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => boolean(text),
    }
}

/// Parses a mask of 16 bits: decimal, or hexadecimal with the prefix `0x`.
fn mask(text: &str) -> Option<u16> {
    let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) else {
        return number(text, 0..=0xffff).and_then(|mask| u16::try_from(mask).ok());
    };
    let digits = Some(digits).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

fn number(text: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    // `parse` accepts a plus sign, which no option does.
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|number| digits && range.contains(number))
}
