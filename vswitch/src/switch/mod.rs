//! The use cases of the switch, each readable from top to bottom: attach, detach, networks, the FDB, what is shown.
//!
//! What is decided (names, addresses, numbers) is decided under one lock, which is never held over anything that waits.
//! What is done in the kernel is done outside of it, under a lock of the one endpoint or network that it is about.

mod attach;
mod cluster;
mod detach;
mod directory;
mod error;
mod events;
mod fdb;
mod health;
mod measure;
mod multicast;
mod network;
mod outside;
mod overlay;
mod parent;
mod restore;
mod state;
mod teardown;
mod trace;
mod uplink;
mod views;
mod watch;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Mutex as AsyncMutex, Notify, RwLock, RwLockReadGuard};

pub use cluster::Membership;
pub use error::{ErrorKind, SwitchError};
pub use fdb::FdbWatch;
pub use overlay::OverlayError;
pub use parent::WireError;
pub use restore::{Release, Restored};
pub use teardown::{RemoveError, remove_files, remove_leftovers};
pub use trace::TraceError;
pub use uplink::restore_uplink;
pub use watch::Frames;

use crate::apply::Scene;
use crate::datapath::{Datapath, Mode, Tracer};
use crate::dns::{DnsServer, ResolverFiles};
use crate::kernel::netlink::Netlink;
use crate::kernel::netns::{Netns, NetnsId};
use crate::model::{Instance, Subnet};
use crate::multicast::Groups;
use crate::outside::{Outside, Reservations};
use crate::store::Store;
use crate::watching::Watching;
use directory::Directory;
use overlay::Encryption;
use state::State;

/// The MTU where nothing says otherwise.
const DEFAULT_MTU: u32 = 1500;

/// The switch of one instance.
#[derive(Debug)]
pub struct Switch {
    instance: Instance,
    mode: Mode,
    pools: Vec<Subnet>,
    kernel: String,
    started: Instant,
    /// The namespace that the switch serves, which cannot be attached to it.
    own_netns: NetnsId,
    netlink: Netlink,
    datapath: Arc<Datapath>,
    watching: Arc<Watching>,
    /// The recording copy of the programs, for whoever traces.
    tracer: Mutex<Option<Tracer>>,
    store: Store,
    state: Arc<Mutex<State>>,
    /// The DNS servers of the networks.
    dns: DnsServer,
    /// The way outside: masquerade and published ports.
    outside: Arc<Outside>,
    /// Held by whoever brings it in line.
    outside_turn: AsyncMutex<()>,
    /// Held by whoever brings in line what an endpoint's networks have together.
    settling: AsyncMutex<()>,
    /// The host ports that are published.
    reservations: Reservations,
    /// The UDP port of the tunnels.
    vxlan_port: u16,
    /// WireGuard, for those of encrypted networks.
    encryption: Encryption,
    /// The cluster that this host is in.
    membership: Option<Membership>,
    /// Held by whoever brings the tunnels in line.
    tunnelling: AsyncMutex<()>,
    /// Who listens to which multicast groups.
    multicast: Mutex<Groups>,
    /// Told of networks that come and go.
    multicast_changed: Notify,
    /// What somebody may wonder about, by what it is about.
    notes: Mutex<BTreeMap<String, String>>,
    /// Held for reading by whatever changes something; for writing, forever, by what ends it all.
    gate: RwLock<bool>,
}

/// What a switch is built of.
#[derive(Debug)]
pub struct Parts {
    /// The instance.
    pub instance: Instance,
    /// Which hooks `up` asked for.
    pub mode: Mode,
    /// Where subnets are taken from.
    pub pools: Vec<Subnet>,
    /// Release of the kernel.
    pub kernel: String,
    /// A connection in the namespace that it serves.
    pub netlink: Netlink,
    /// The switch in the kernel.
    pub datapath: Arc<Datapath>,
    /// What it tells.
    pub watching: Arc<Watching>,
    /// The record.
    pub store: Store,
    /// The UDP port of the tunnels of overlay networks.
    pub vxlan_port: u16,
    /// The UDP port of WireGuard, by which the tunnels of encrypted networks go.
    pub wireguard_port: u16,
    /// The cluster that this host is in.
    pub membership: Option<Membership>,
}

impl Switch {
    /// A switch with nothing in it yet: [`Switch::restore`] brings back what was recorded.
    ///
    /// # Errors
    /// Where the daemon's own namespace cannot be opened.
    pub fn new(parts: Parts) -> Result<Self, SwitchError> {
        let Parts { instance, mode, pools, kernel, netlink, datapath, watching, store, .. } = parts;
        let (vxlan_port, wireguard_port, membership) = (parts.vxlan_port, parts.wireguard_port, parts.membership);
        let state = Arc::new(Mutex::new(State::default()));
        Ok(Self {
            dns: DnsServer::new(Arc::new(Directory(state.clone())), ResolverFiles::default()),
            outside: Arc::new(Outside::new(&instance)),
            outside_turn: AsyncMutex::default(),
            settling: AsyncMutex::default(),
            reservations: Reservations::default(),
            vxlan_port,
            encryption: Encryption::new(wireguard_port, &instance),
            membership,
            tunnelling: AsyncMutex::default(),
            multicast: Mutex::default(),
            multicast_changed: Notify::new(),
            notes: Mutex::default(),
            instance,
            mode,
            pools,
            kernel,
            started: Instant::now(),
            own_netns: Netns::current()?.id(),
            netlink,
            datapath,
            watching,
            tracer: Mutex::default(),
            store,
            state,
            gate: RwLock::new(true),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole before anything in it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something that somebody may wonder about, or that it is so no longer.
    fn note(&self, about: &str, note: Option<String>) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        match note {
            Some(note) => notes.insert(about.to_owned(), note),
            None => notes.remove(about),
        };
    }

    fn has_note(&self, about: &str) -> bool {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).contains_key(about)
    }

    fn scene(&self) -> Scene<'_> {
        Scene { host: &self.netlink, container: None, datapath: &self.datapath }
    }

    /// Leave to change something, as long as it is held.
    async fn leave(&self) -> Result<RwLockReadGuard<'_, bool>, SwitchError> {
        let open = self.gate.read().await;
        if *open { Ok(open) } else { Err(SwitchError::ShuttingDown) }
    }

    /// Stops all changes: waits for those under way, and refuses what comes.
    pub async fn close(&self) {
        *self.gate.write().await = false;
    }

    /// Opens a namespace that is to be attached; never the switch's own.
    async fn open_netns(&self, path: &Path) -> Result<Netns, SwitchError> {
        if !path.is_absolute() {
            return Err(SwitchError::RelativePath(path.to_owned()));
        }
        let path_there = path.to_owned();
        // Whatever is mounted on the way may take its time.
        let netns = tokio::task::spawn_blocking(move || Netns::open(&path_there)).await;
        let netns = netns.map_err(crate::apply::ApplyError::from)??;
        if netns.id() == self.own_netns {
            return Err(SwitchError::OwnNamespace(path.to_owned()));
        }
        Ok(netns)
    }
}
