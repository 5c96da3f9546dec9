//! The counts that Prometheus collects, at one moment.

use crate::datapath::Datapath;
use crate::switch::error::SwitchError;
use crate::switch::info::{Measurements, StationCounts};
use crate::switch::observe::Observe;

impl Observe {
    /// Returns everything that is counted.
    ///
    /// # Errors
    /// The counters or the FDB cannot be read.
    pub fn measure(&self) -> Result<Measurements, SwitchError> {
        let mut measured = Measurements {
            instance: self.context.instance.name().to_string(),
            kernel: self.context.kernel.clone(),
            mode: self.context.mode,
            uptime: self.context.started.elapsed(),
            ports: self.stats(None)?,
            fdb_size: self.context.datapath.learnable(),
            cluster: self.cluster_status(),
            ..Measurements::default()
        };
        for info in self.networks() {
            let name = info.network.name.to_string();
            measured.endpoints.insert(name.clone(), info.endpoints);
            measured.stations.insert(name, StationCounts::default());
        }
        let names = self.context.network_names();
        for (key, entry) in self.context.datapath.fdb()? {
            let stations = names.get(&key.network).and_then(|name| measured.stations.get_mut(name));
            // The network is removed at this moment.
            let Some(stations) = stations else { continue };
            if entry.is_static() {
                stations.fixed += 1;
            } else {
                let kind = if entry.is_static_or_sticky() { &mut stations.sticky } else { &mut stations.learned };
                *kind += 1;
                stations.held += usize::from(Datapath::is_held(&entry));
            }
        }
        Ok(measured)
    }
}
