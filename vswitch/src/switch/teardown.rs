//! `down`: removes everything of an instance, with its daemon or without.

use std::fs;
use std::io;
use std::path::Path;

use crate::etc_files::Etc;
use crate::kernel::bpffs::{self, BpffsError};
use crate::kernel::netlink::{Netlink, NetlinkError};
use crate::model::{Instance, Network, Owner};
use crate::switch::Switch;
use crate::switch::error::SwitchError;
use crate::switch::overlay::remove_guard;

/// The reason why a file of the instance could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The bpffs.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// A directory.
    #[error("cannot remove {path}: {source}", path = path.display())]
    Directory {
        /// The path.
        path: std::path::PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Switch {
    /// Restores every uplink and removes every device. The caller removes the programs with the
    /// bpffs.
    ///
    /// # Errors
    /// The first change that the kernel refused. All others are carried out.
    pub async fn tear_down(&self) -> Result<(), SwitchError> {
        self.context.close().await;
        let networks: Vec<Network> = self.context.state().networks.values().map(|entry| entry.record.clone()).collect();
        let mut failed = None;
        for network in networks.into_iter().filter(|network| network.uplink_before.is_some()) {
            let released = match self.macvlan.release_uplink(&network).await {
                // The settings are recorded anew when the interface is used next.
                Ok(()) => self.context.record_network(&Network { uplink_before: None, ..network }).await,
                Err(error) => Err(error),
            };
            if let Err(error) = released {
                failed.get_or_insert(error);
            }
        }
        if let Err(error) = self.overlay.release_underlay().await {
            failed.get_or_insert(error);
        }
        self.context.leave_cluster().await;
        self.networks.stop_names();
        if let Err(error) = Etc::default().remove_all(self.context.instance.name(), |_| false) {
            tracing::warn!("{error}");
        }
        if let Err(error) = self.nat.remove().await {
            failed.get_or_insert(error.into());
        }
        if let Err(error) = remove_leftovers(&self.context.netlink, &self.context.instance).await {
            failed.get_or_insert(error.into());
        }
        if let Err(error) = self.overlay.end_encryption().await {
            failed.get_or_insert(error);
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Removes every device with the mark of the instance: the tunnels' device first and WireGuard's
/// last, so that no tunnel packet is sent that bypasses WireGuard. Then removes the route that
/// guards this.
///
/// # Errors
/// The kernel refused a change.
pub async fn remove_leftovers(netlink: &Netlink, instance: &Instance) -> Result<(), NetlinkError> {
    let links = netlink.links().await?.into_iter();
    let mut ours: Vec<(Owner, u32)> =
        links.filter_map(|link| Some((instance.owner(link.alias.as_deref()?)?, link.index))).collect();
    ours.sort_by_key(|(owner, _)| match owner {
        Owner::Tunnel => 0,
        Owner::Host | Owner::Endpoint(_) => 1,
        Owner::Wireguard => 2,
    });
    for (_, index) in ours {
        netlink.delete_link(index).await?;
    }
    remove_guard(netlink, instance).await
}

/// Removes the bpffs and the run directory of an instance, and with `purge` the state directory.
///
/// # Errors
/// The first file that cannot be removed.
pub fn remove_files(instance: &Instance, purge: bool) -> Result<(), RemoveError> {
    if instance.bpf_directory().exists() {
        bpffs::remove(&instance.bpf_directory())?;
    }
    remove_directory(&instance.run_directory())?;
    if purge {
        remove_directory(&instance.state_directory())?;
    }
    Ok(())
}

fn remove_directory(path: &Path) -> Result<(), RemoveError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RemoveError::Directory { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
