//! The networks `host` and `none`, whose endpoints have no interface of their own.

use std::collections::BTreeMap;

use super::{Capabilities, DeviceStep, EndpointFacts, EndpointPlan, InsideStep, Kind};
use crate::model::{Driver, Endpoint, Instance, InvalidOption, Network, NetworkKind};

/// The network `host`: endpoints use the host's own network stack.
pub(super) struct HostStack;

/// The network `none`: endpoints have only loopback.
pub(super) struct Loopback;

impl Kind for HostStack {
    fn from_options(driver: Driver, options: &BTreeMap<String, String>) -> Result<NetworkKind, InvalidOption> {
        refuse_options(driver, options).map(|()| NetworkKind::Host)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            interfaces: Err("the host's own interfaces"),
            switched: false,
            published: Err("whose endpoints have the host's ports themselves"),
            names: false,
            probed: false,
            host_namespace: true,
        }
    }

    fn endpoint(&self, _: &Instance, _: &Network, _: &Endpoint, _: EndpointFacts) -> EndpointPlan {
        loopback()
    }
}

impl Kind for Loopback {
    fn from_options(driver: Driver, options: &BTreeMap<String, String>) -> Result<NetworkKind, InvalidOption> {
        refuse_options(driver, options).map(|()| NetworkKind::None)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            interfaces: Err("loopback alone"),
            switched: false,
            published: Err("which has loopback alone"),
            names: false,
            probed: false,
            host_namespace: false,
        }
    }

    fn endpoint(&self, _: &Instance, _: &Network, _: &Endpoint, _: EndpointFacts) -> EndpointPlan {
        loopback()
    }
}

/// Refuses every option.
fn refuse_options(driver: Driver, options: &BTreeMap<String, String>) -> Result<(), InvalidOption> {
    let Some((option, value)) = options.first_key_value() else { return Ok(()) };
    let (option, value) = (option.clone(), value.clone());
    Err(InvalidOption::Unknown { option, value, driver: driver.name(), known: Vec::new() })
}

/// Plans an endpoint without an interface: its loopback device is up.
pub(super) fn loopback() -> EndpointPlan {
    let up = DeviceStep::SetUp { device: "lo".to_owned() };
    EndpointPlan { host: Vec::new(), inside: vec![InsideStep::Device(up)] }
}
