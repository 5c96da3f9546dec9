//! Looks at the kernel for [`keep`](super::keep): whether what was made still exists.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::items::Check;
use crate::kernel::netlink::{Link, Route};
use crate::kernel::sysctl;
use crate::plan::HostStep;
use crate::plan::drift::DeviceNeeds;

/// Returns the values of the sysctls that a device needs. Those that do not exist are left out.
pub(super) fn settings(needs: &DeviceNeeds) -> BTreeMap<Vec<String>, String> {
    let value = |path: &Vec<String>| {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        sysctl::read(&parts).ok()
    };
    needs.settings.keys().filter_map(|path| Some((path.clone(), value(path)?))).collect()
}

/// Returns whether the result of a step is missing although it can exist.
pub(super) fn is_missing(check: &Check, links: &[Link], routes: &[Route]) -> bool {
    let Check::Step { step, index } = check else { return false };
    let Some(link) = links.iter().find(|link| link.index == *index) else { return false };
    match step {
        HostStep::HostRoute { address, .. } => {
            let destination = IpNet::from(*address);
            let leads = |route: &Route| route.index == Some(*index) && route.destination == destination;
            // The kernel refuses routes by a link that is down.
            link.up && !routes.iter().any(leads)
        }
        HostStep::Promiscuous { on, .. } => link.promiscuous != *on,
        _ => false,
    }
}
