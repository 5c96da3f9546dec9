//! The host's settings for IP forwarding.

use serde::{Deserialize, Serialize};

use crate::kernel::sysctl::{self, SysctlError};
use crate::model::Instance;

use super::Wanted;

/// A setting that networks need, for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ForwardingStatus {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
    /// The value before this daemon changed it.
    pub before: Option<String>,
}

const IPV4: [&str; 3] = ["net", "ipv4", "ip_forward"];
const IPV6: [&str; 5] = ["net", "ipv6", "conf", "all", "forwarding"];

/// Applies the wanted settings, and returns the changed ones.
pub(super) fn enable(instance: &Instance, wanted: &Wanted) -> Result<Vec<ForwardingStatus>, SysctlError> {
    let mut changes = Vec::new();
    if wanted.forwards_family(true) {
        set(&IPV4, "1", &mut changes)?;
    }
    if wanted.forwards_family(false) && sysctl::read(&IPV6)? == "0" {
        keep_advertised_routes(instance, wanted, &mut changes)?;
        set(&IPV6, "1", &mut changes)?;
    }
    for device in wanted.loopback_devices() {
        let route_localnet = ["net", "ipv4", "conf", device, "route_localnet"];
        match sysctl::write(&route_localnet, "1") {
            // The device does not exist yet, or is being removed. The rules of its network are
            // applied again once the device exists.
            Err(error) if error.is_missing() => tracing::debug!("{error}"),
            result => drop(result?),
        }
    }
    Ok(changes)
}

/// Returns the settings that are on while the wanted rules apply.
pub(super) fn needed(wanted: &Wanted) -> Vec<Vec<String>> {
    let owned = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    let mut needed = Vec::new();
    if wanted.forwards_family(true) {
        needed.push(owned(&IPV4));
        // The switch of one device; writing the switch of all devices sets it, too.
        needed.extend(wanted.devices().iter().map(|device| owned(&["net", "ipv4", "conf", device, "forwarding"])));
    }
    if wanted.forwards_family(false) {
        needed.push(owned(&IPV6));
    }
    let devices = wanted.loopback_devices();
    needed.extend(devices.iter().map(|device| owned(&["net", "ipv4", "conf", device, "route_localnet"])));
    needed
}

/// Returns whether a setting exists and is off.
pub(super) fn is_off(setting: &[String]) -> bool {
    let parts: Vec<&str> = setting.iter().map(String::as_str).collect();
    sysctl::read(&parts).is_ok_and(|value| value == "0")
}

/// Switches a setting on again.
pub(super) fn switch_on(instance: &Instance, wanted: &Wanted, setting: &[String]) -> Result<(), SysctlError> {
    let parts: Vec<&str> = setting.iter().map(String::as_str).collect();
    if parts == IPV6 {
        keep_advertised_routes(instance, wanted, &mut Vec::new())?;
    }
    match sysctl::write(&parts, "1") {
        Err(error) if error.is_missing() => Ok(()),
        result => result.map(drop),
    }
}

/// Returns the current values of the settings that the wanted rules need.
pub(super) fn status(wanted: &Wanted, changes: &[ForwardingStatus]) -> Vec<ForwardingStatus> {
    let mut names = Vec::new();
    names.extend(wanted.forwards_family(true).then_some(&IPV4[..]));
    names.extend(wanted.forwards_family(false).then_some(&IPV6[..]));
    let mut status: Vec<_> = names
        .into_iter()
        .filter_map(|parts| {
            let (name, value) = (parts.join("."), sysctl::read(parts).ok()?);
            let before = changes.iter().find(|change| change.name == name).and_then(|change| change.before.clone());
            Some(ForwardingStatus { name, value, before })
        })
        .collect();
    let listed: Vec<_> = status.iter().map(|setting| setting.name.clone()).collect();
    status.extend(changes.iter().filter(|change| !listed.contains(&change.name)).cloned());
    status
}

/// Keeps the default routes that router advertisements provide. A host that forwards IPv6 ignores
/// router advertisements unless `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst), and
/// would lose such a route. Our own devices and interfaces that forward already are left alone.
fn keep_advertised_routes(
    instance: &Instance,
    wanted: &Wanted,
    changes: &mut Vec<ForwardingStatus>,
) -> Result<(), SysctlError> {
    for device in sysctl::entries(&["net", "ipv6", "conf"])? {
        let ours = instance.is_port_device(&device) || wanted.networks.iter().any(|network| network.device == device);
        if ours || matches!(device.as_str(), "all" | "default" | "lo") {
            continue;
        }
        let setting = |name| ["net", "ipv6", "conf", &device, name];
        let is = |name, value: &str| sysctl::read(&setting(name)).is_ok_and(|found| found == value);
        if is("accept_ra", "1") && is("forwarding", "0") {
            match set(&setting("accept_ra"), "2", changes) {
                Err(error) if error.is_missing() => {}
                result => result?,
            }
        }
    }
    Ok(())
}

fn set(parts: &[&str], value: &str, changes: &mut Vec<ForwardingStatus>) -> Result<(), SysctlError> {
    let before = sysctl::write(parts, value)?;
    if before != value {
        let name = parts.join(".");
        tracing::info!("{name} is set to {value}, it was {before}; it stays so after `down`");
        changes.push(ForwardingStatus { name, value: value.to_owned(), before: Some(before) });
    }
    Ok(())
}
