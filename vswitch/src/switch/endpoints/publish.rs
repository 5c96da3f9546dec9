//! The host ports of a new endpoint.

use crate::model::{Endpoint, Network, PublishSpec, Published};
use crate::plan::store::Change;
use crate::switch::endpoints::{Endpoints, NewEndpoint};
use crate::switch::error::SwitchError;
use crate::switch::state::State;

impl Endpoints {
    /// Reserves the host ports that the user requested. Binds sockets, and may read all of /proc to
    /// name a holder.
    ///
    /// # Errors
    /// The network cannot publish ports, or a port is in use; then none is reserved.
    pub fn reserve_ports(&self, given: &NewEndpoint) -> Result<Vec<Published>, SwitchError> {
        self.free_orphans();
        if given.publish.is_empty() {
            return Ok(Vec::new());
        }
        let (specs, taken) = {
            let state = self.context.state();
            let network = &state.network(&given.network)?.record;
            let why = match network.capabilities().published {
                Err(why) => Some(why),
                Ok(()) if network.internal => Some("which is internal"),
                Ok(()) if !given.port.reaches_host() => Some("whose VLANs the host is not in"),
                Ok(()) => None,
            };
            if let Some(why) = why {
                return Err(cannot(why, &given.publish, network));
            }
            let binding = network.switch().and_then(|switch| switch.host_binding);
            let specs: Vec<_> = given.publish.iter().map(|spec| spec.with_default_host_ip(binding)).collect();
            let ipv6 = network.subnets.iter().any(|config| config.subnet.is_ipv6());
            if !ipv6 && specs.iter().any(|spec| spec.host_ip().is_some_and(|address| address.is_ipv6())) {
                return Err(cannot("which has no IPv6, at an IPv6 address", &given.publish, network));
            }
            let ipv4 = network.has_family(false);
            if !ipv4 && specs.iter().any(|spec| spec.host_ip().is_some_and(|address| address.is_ipv4())) {
                return Err(cannot("which has no IPv4, at an IPv4 address", &given.publish, network));
            }
            (specs, published(&state))
        };
        Ok(self.nat.reservations.reserve(&specs, &taken)?)
    }
}

impl Endpoints {
    /// Releases ports that wait for networks that are gone.
    fn free_orphans(&self) {
        let mut free = Vec::new();
        {
            let mut state = self.context.state();
            let State { networks, endpoints, .. } = &mut *state;
            for entry in endpoints.values_mut() {
                let orphans = entry.record.waiting.extract_if(.., |waiting| !networks.contains_key(&waiting.network));
                let orphans: Vec<_> = orphans.flat_map(|waiting| waiting.ports).collect();
                if !orphans.is_empty() {
                    self.context.store.note(vec![Change::PutEndpoint(entry.record.clone())]);
                    free.extend(orphans);
                }
            }
        }
        self.nat.reservations.release(&free);
    }
}

fn cannot(why: &'static str, ports: &[PublishSpec], network: &Network) -> SwitchError {
    let ports: Vec<_> = ports.iter().map(PublishSpec::to_string).collect();
    SwitchError::CannotPublish { ports: ports.join(", "), network: network.name.clone(), why }
}

/// Returns every published or waiting port with the name of its endpoint.
fn published(state: &State) -> Vec<(Published, String)> {
    let ports = |record: &Endpoint| {
        let name = record.name.to_string();
        record.held_ports().map(|port| (*port, name.clone())).collect::<Vec<_>>()
    };
    state.endpoints.values().flat_map(|entry| ports(&entry.record)).collect()
}
