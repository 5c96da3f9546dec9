//! The context that all owners share: the kernel, the store, the options of the daemon, and the one
//! lock that decides on names, addresses and numbers.

mod cluster;
mod mtu;
mod ports;
mod snapshot;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{RwLock, RwLockReadGuard};

use super::SwitchError;
use super::membership::Membership;
use super::state::State;
use crate::datapath::{Datapath, DatapathError, Hooks, Mode};
use crate::kernel::netlink::Netlink;
use crate::kernel::netns::{Netns, NetnsId};
use crate::model::{Endpoint, Instance, Network, Owner, Subnet};
use crate::plan::EndpointFacts;
use crate::plan::apply::{ApplyError, Scene};
use crate::plan::store::{Change, Store};
pub use cluster::note_about;
pub use mtu::note_about_mtu;
pub use ports::{NamedPort, named_ports};
pub use snapshot::{Published, StateGuard};

/// The MTU of Ethernet, for networks whose MTU nothing else determines.
pub const DEFAULT_MTU: u32 = 1500;
/// The pause between two attempts to lock the state.
const LOCKED: Duration = Duration::from_millis(10);

/// The context that all owners share.
#[derive(Debug)]
pub struct Context {
    pub instance: Instance,
    /// The hooks that `up --datapath` requested.
    pub mode: Mode,
    /// The pools that subnets are chosen from.
    pub pools: Vec<Subnet>,
    /// The release of the kernel.
    pub kernel: String,
    pub started: Instant,
    /// The namespace that the switch serves, which cannot be attached to it.
    pub own_netns: NetnsId,
    pub netlink: Netlink,
    pub datapath: Arc<Datapath>,
    pub store: Store,
    /// The UDP port of the tunnels.
    pub vxlan_port: u16,
    /// The cluster of this host.
    pub membership: Option<Membership>,
    /// The source address of tunnels, at which this host is a peer of others.
    pub advertise: Option<IpAddr>,
    pub(super) state: Published,
    /// Notes that `status` shows, by subject.
    pub(super) notes: Mutex<BTreeMap<String, String>>,
    /// Open while the value is true. Every change holds it for reading; shutdown takes it for
    /// writing and closes it.
    pub(super) gate: RwLock<bool>,
}

impl Context {
    /// Locks the state, to decide or to change. What only reads takes [`Context::snapshot`].
    pub fn state(&self) -> StateGuard<'_> {
        self.state.lock()
    }

    /// Returns the state as of the last change. Waits for no change under way.
    pub fn snapshot(&self) -> Arc<State> {
        self.state.snapshot()
    }

    /// Waits until the state can be locked. Blocks no thread, so the caller finds a state that
    /// stays locked by the lack of an answer.
    pub async fn works(&self) {
        while self.state.is_locked() {
            tokio::time::sleep(LOCKED).await;
        }
    }

    /// Sets or removes the note on a subject.
    pub fn note(&self, about: &str, note: Option<String>) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        match note {
            Some(note) => notes.insert(about.to_owned(), note),
            None => notes.remove(about),
        };
    }

    /// Returns whether a note on a subject exists.
    pub fn has_note(&self, about: &str) -> bool {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).contains_key(about)
    }

    /// Returns all notes, by subject.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Returns the scene that plans are applied in.
    pub fn scene(&self) -> Scene<'_> {
        Scene { host: &self.netlink, datapath: &self.datapath }
    }

    /// Permits a change for as long as the caller holds the guard. Shutdown waits for the guard.
    ///
    /// # Errors
    /// [`SwitchError::ShuttingDown`].
    pub async fn begin_change(&self) -> Result<RwLockReadGuard<'_, bool>, SwitchError> {
        let open = self.gate.read().await;
        if *open { Ok(open) } else { Err(SwitchError::ShuttingDown) }
    }

    /// Waits for the changes under way and refuses all further ones.
    pub async fn close(&self) {
        *self.gate.write().await = false;
    }

    /// Opens the namespace of a container.
    ///
    /// # Errors
    /// The path is relative or leads to no network namespace, or to that of the switch.
    pub async fn open_netns(&self, path: &Path) -> Result<Netns, SwitchError> {
        if !path.is_absolute() {
            return Err(SwitchError::RelativePath(path.to_owned()));
        }
        let opened = path.to_owned();
        // A mount point on the path may block.
        let netns = tokio::task::spawn_blocking(move || Netns::open(&opened)).await;
        let netns = netns.map_err(ApplyError::from)??;
        if netns.id() == self.own_netns {
            return Err(SwitchError::OwnNamespace(path.to_owned()));
        }
        Ok(netns)
    }

    /// Changes tables in the kernel outside of the runtime's worker threads.
    pub async fn in_datapath<T: Send + 'static>(
        &self,
        action: impl FnOnce(&Datapath) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, SwitchError> {
        let datapath = self.datapath.clone();
        let done = tokio::task::spawn_blocking(move || action(&datapath)).await;
        Ok(done.map_err(ApplyError::from)??)
    }

    /// Deletes a device if it exists and has the mark of this owner.
    pub async fn delete_device(&self, ifindex: u32, owner: &Owner) -> Result<(), SwitchError> {
        if self.is_ours(ifindex, owner).await? {
            self.netlink.delete_link(ifindex).await?;
        }
        Ok(())
    }

    pub async fn is_ours(&self, ifindex: u32, owner: &Owner) -> Result<bool, SwitchError> {
        let link = self.netlink.link(ifindex).await?;
        let alias = link.and_then(|link| link.alias);
        Ok(alias.is_some_and(|alias| self.instance.owner(&alias).as_ref() == Some(owner)))
    }

    /// Replaces the record of a network, and waits until it is on disk.
    pub async fn record_network(&self, network: &Network) -> Result<(), SwitchError> {
        let recorded = {
            let mut state = self.state();
            if let Some(entry) = state.networks.get_mut(&network.id) {
                entry.record = network.clone();
            }
            self.store.commit(vec![Change::PutNetwork(network.clone())])
        };
        Ok(recorded.await?)
    }

    /// Returns what the plan of an endpoint depends on besides the records.
    pub fn facts_of(&self, network: &Network, endpoint: &Endpoint) -> EndpointFacts {
        let state = self.state();
        let uplink = state.networks.get(&network.id).and_then(|entry| entry.uplink.as_ref());
        let first = state.sharing(endpoint).first().map(|entry| entry.record.id);
        EndpointFacts {
            mode: self.mode,
            xdp_uplink: uplink.is_some_and(|uplink| uplink.xdp),
            default_route: first.is_none_or(|first| first == endpoint.id),
        }
    }

    /// Returns the hooks of each kind of port.
    pub fn hooks(&self) -> Hooks {
        self.datapath.hooks()
    }
}

/// Returns the current time, to the second: records and answers need no more.
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}
