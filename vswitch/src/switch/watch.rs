//! What the programs tell: stations that are held, and frames for those who watch.

use std::sync::Arc;

use vswitch_common::watch::Event;

use super::Switch;

impl Switch {
    /// Reports stations that moved too often, for as long as the daemon lives.
    pub async fn report_held(self: Arc<Self>) {
        let mut held = self.watching.subscribe(Event::HELD);
        while let Some(told) = held.recv().await {
            let decision = told.event.decision;
            let (ports, networks) = (self.ports_by_number(), self.network_names());
            let name =
                |number| ports.get(&number).map_or_else(|| format!("port {}", number.0), |port| port.name.clone());
            let network = networks.get(&decision.station.network).map_or("?", String::as_str);
            // It may have been forgotten since.
            let stays = self.datapath.fdb_entry(&decision.station).ok().flatten().map(|entry| name(entry.port));
            tracing::warn!(
                "station {} of network {network} moves too often: it is held at {}, and what it sends from {} is dropped \
                 (is there a loop, or a second one with this address?)",
                decision.station.mac,
                stays.as_deref().unwrap_or("its port"),
                name(decision.ingress),
            );
        }
    }

    /// Ends what everybody watches.
    pub fn end_watching(&self) {
        self.watching.close();
    }
}
