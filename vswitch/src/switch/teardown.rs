//! `down`: everything of an instance goes, whether its daemon is alive to do it or not.

use std::fs;
use std::io;
use std::path::Path;

use super::overlay::remove_guard;
use super::{Switch, SwitchError};
use crate::etc::Etc;
use crate::kernel::bpffs::{self, BpffsError};
use crate::kernel::netlink::{Netlink, NetlinkError};
use crate::model::{Instance, Network, Owner};
use crate::outside::{self, Wanted};

/// A file of the instance could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The bpffs.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// A directory.
    #[error("cannot remove {path}: {source}", path = path.display())]
    Directory {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Switch {
    /// Gives every uplink back and removes every device. The programs go with the bpffs, which is the caller's.
    ///
    /// # Errors
    /// What the kernel refused; the rest is removed all the same.
    pub async fn tear_down(&self) -> Result<(), SwitchError> {
        self.close().await;
        let networks: Vec<Network> = self.state().networks.values().map(|entry| entry.record.clone()).collect();
        let mut failed = None;
        for network in networks.into_iter().filter(|network| network.uplink_before.is_some()) {
            let released = match self.release_uplink(&network).await {
                // As it is found next time is how it will be given back.
                Ok(()) => self.record_network(&Network { uplink_before: None, ..network }).await,
                Err(error) => Err(error),
            };
            if let Err(error) = released {
                failed.get_or_insert(error);
            }
        }
        if let Err(error) = self.release_underlay().await {
            failed.get_or_insert(error);
        }
        self.leave_cluster().await;
        self.stop_names();
        if let Err(error) = Etc::default().remove_all(self.instance.name(), |_| false) {
            tracing::warn!("{error}");
        }
        // Nothing is wanted any more, so that nobody restores it; then what an earlier daemon may have left.
        let emptied = self.outside.apply(Wanted::default()).await;
        if let Err(error) = emptied.and(outside::remove(&self.instance).await) {
            failed.get_or_insert(error.into());
        }
        if let Err(error) = remove_leftovers(&self.netlink, &self.instance).await {
            failed.get_or_insert(error.into());
        }
        if let Err(error) = self.end_encryption().await {
            failed.get_or_insert(error);
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Removes every device that bears the instance's mark: that of the tunnels first, and WireGuard's last, so that nothing is
/// sent that WireGuard does not take. Then the route that saw to that, too.
///
/// # Errors
/// What the kernel refused.
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

/// Removes the instance's bpffs and its run directory, and what it has recorded if that is wanted.
///
/// # Errors
/// The first that cannot be removed.
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
