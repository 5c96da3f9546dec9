//! What Prometheus collects: the switch at one moment.

use super::{Switch, SwitchError};
use crate::api::{Measured, Stations};
use crate::datapath::Datapath;

impl Switch {
    /// Everything that is counted.
    ///
    /// # Errors
    /// The counters or the FDB cannot be read.
    pub fn measure(&self) -> Result<Measured, SwitchError> {
        let mut measured = Measured {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.name().to_string(),
            kernel: self.kernel.clone(),
            datapath: self.mode_name().to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ports: self.stats(None)?,
            fdb_size: self.datapath.learnable(),
            cluster: self.cluster_view(),
            ..Measured::default()
        };
        for network in self.networks() {
            measured.networks += 1;
            measured.endpoints.insert(network.name.clone(), network.endpoints);
            measured.stations.insert(network.name, Stations::default());
        }
        let names = self.network_names();
        for (key, entry) in self.datapath.fdb()? {
            let stations = names.get(&key.network).and_then(|name| measured.stations.get_mut(name));
            // Of a network that goes at this moment.
            let Some(stations) = stations else { continue };
            if entry.is_static() {
                stations.fixed += 1;
            } else {
                let kind = if entry.is_fixed() { &mut stations.sticky } else { &mut stations.learned };
                *kind += 1;
                stations.held += usize::from(Datapath::is_held(&entry));
            }
        }
        Ok(measured)
    }
}
