//! Other names for networks of engines, whose names are not known when they are created.

use crate::model::{Network, NetworkName};
use crate::plan::store::Change;
use crate::switch::error::SwitchError;
use crate::switch::networks::Networks;

impl Networks {
    /// Gives a network of an engine another name. Its devices keep theirs.
    ///
    /// # Errors
    /// The network does not exist or was created by hand, or another one has the name.
    pub async fn rename_network(&self, reference: &str, name: NetworkName) -> Result<Network, SwitchError> {
        let _change = self.context.begin_change().await?;
        let (network, recorded) = {
            let mut state = self.context.state();
            let found = &state.network(reference)?.record;
            let (id, before) = (found.id, found.name.clone());
            if before == name {
                return Ok(found.clone());
            }
            if found.engine.is_none() || found.overlay().is_some_and(|overlay| overlay.shared) {
                return Err(SwitchError::NotRenamable(before));
            }
            state.check_name(&name)?;
            let gone = || SwitchError::NetworkNotFound(reference.to_owned());
            let record = &mut state.networks.get_mut(&id).ok_or_else(gone)?.record;
            if let Some(engine) = &mut record.engine {
                engine.first_name.get_or_insert(before);
            }
            record.name = name;
            (record.clone(), self.context.store.commit(vec![Change::PutNetwork(record.clone())]))
        };
        recorded.await?;
        Ok(network)
    }
}
