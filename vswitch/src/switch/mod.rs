//! The switch: a facade over owners, each with its own state and lock.
//!
//! The owners share one `Context`. Names, addresses and numbers are decided
//! under its one lock, which is never held while anything waits. The kernel is changed outside of
//! that lock, under the lock of one endpoint or network. An owner uses only owners that stand
//! before it in [`Switch`].

mod bind_hook;
mod context;
mod directory;
mod endpoints;
mod engines;
mod error;
mod etcd;
mod events;
mod info;
mod macvlan;
mod membership;
mod multicast;
mod nat;
mod networks;
mod observe;
mod others;
mod overlay;
mod pools;
mod restore;
mod routes;
mod state;
mod teardown;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{RwLock, mpsc};

use crate::datapath::{Datapath, Hooks, Mode};
use crate::kernel::netlink::{LinkEvent, Netlink};
use crate::kernel::netns::Netns;
use crate::model::{Instance, Subnet};
use crate::observe::Observer;
use crate::plan::store::Store;
use crate::wireguard::PublicKey;
use context::{Context, Published};
use endpoints::Endpoints;
use etcd::Etcd;
use macvlan::{Macvlan, Requested};
use multicast::Multicast;
use nat::Nat;
use networks::Networks;
use observe::Observe;
use overlay::{Encryption, Overlay};

pub use context::now;
pub use endpoints::{NewConnection, NewEndpoint, NewNames, Release, Selection};
pub use error::{ErrorKind, SwitchError};
pub use info::{
    ClusterStatus, EndpointDetails, EndpointInfo, InterfaceInfo, Measurements, NetworkDetails, NetworkInfo, PeerInfo,
    PortStats, Pruned, RemoteEndpoint, StationCounts, Status, gateway, nameservers,
};
pub use macvlan::{ParentError, restore_uplink};
pub use membership::Membership;
pub use multicast::MulticastGroup;
pub use networks::NewNetwork;
pub use observe::{
    FdbWatch, Frame, FrameFilter, FrameMessage, FrameVerdict, Frames, PortHealth, Station, StationChange,
    StationFilter, StationKey, Target, Trace, TraceContent, TraceError, TraceFrame, TraceQuery, TraceStep,
    TraceVerdict,
};
pub use overlay::OverlayError;
pub use restore::Restored;
pub use teardown::{RemoveError, remove_files, remove_leftovers};

/// The switch of one instance.
#[derive(Debug)]
pub struct Switch {
    context: Arc<Context>,
    multicast: Arc<Multicast>,
    nat: Arc<Nat>,
    overlay: Arc<Overlay>,
    macvlan: Arc<Macvlan>,
    networks: Arc<Networks>,
    etcd: Arc<Etcd>,
    endpoints: Arc<Endpoints>,
    observe: Arc<Observe>,
    /// Held for reading while a network is ensured and attached to, for writing while networks that
    /// are empty are removed.
    ensuring: RwLock<()>,
    /// Held while a network of an engine is created.
    creating: tokio::sync::Mutex<()>,
}

/// The parts of a switch.
#[derive(Debug)]
pub struct Parts {
    /// The instance.
    pub instance: Instance,
    /// The hooks that `up --datapath` requested.
    pub mode: Mode,
    /// The pools that subnets are chosen from.
    pub pools: Vec<Subnet>,
    /// Release of the kernel.
    pub kernel: String,
    /// An rtnetlink connection in the namespace that the switch serves.
    pub netlink: Netlink,
    /// The programs and maps in the kernel.
    pub datapath: Arc<Datapath>,
    /// The reader of frames and events of the datapath.
    pub observer: Arc<Observer>,
    /// The durable records.
    pub store: Store,
    /// The UDP port of the tunnels of overlay networks.
    pub vxlan_port: u16,
    /// The UDP port of WireGuard.
    pub wireguard_port: u16,
    /// The cluster of this host.
    pub membership: Option<Membership>,
    /// The source address of tunnels, at which this host is a peer of others; the routes choose one
    /// for `None`.
    pub advertise: Option<IpAddr>,
}

impl Switch {
    /// Returns a switch without networks and endpoints; [`Switch::restore`] restores the recorded
    /// ones.
    ///
    /// # Errors
    /// The daemon's own namespace cannot be opened.
    pub fn new(parts: Parts) -> Result<Self, SwitchError> {
        let encryption = Encryption::new(parts.wireguard_port, &parts.instance);
        let context = Arc::new(Context {
            instance: parts.instance,
            mode: parts.mode,
            pools: parts.pools,
            kernel: parts.kernel,
            started: Instant::now(),
            own_netns: Netns::current()?.id(),
            netlink: parts.netlink,
            datapath: parts.datapath,
            store: parts.store,
            vxlan_port: parts.vxlan_port,
            membership: parts.membership,
            advertise: parts.advertise,
            state: Published::default(),
            notes: Mutex::default(),
            gate: RwLock::new(true),
        });
        let observer = parts.observer;
        let multicast = Arc::new(Multicast::new(context.clone(), observer.clone()));
        let nat = Arc::new(Nat::new(context.clone()));
        let overlay = Overlay::new(context.clone(), multicast.clone(), observer.clone(), encryption);
        let overlay = Arc::new(overlay);
        let macvlan = Arc::new(Macvlan::new(context.clone(), multicast.clone()));
        let networks = Networks::new(context.clone(), multicast.clone(), nat.clone(), overlay.clone(), macvlan.clone());
        let networks = Arc::new(networks);
        let etcd = Arc::new(Etcd::new(context.clone(), overlay.clone(), networks.clone()));
        let endpoints = Endpoints::new(context.clone(), multicast.clone(), nat.clone(), macvlan.clone(), etcd.clone());
        let endpoints = Arc::new(endpoints);
        let observe = Arc::new(Observe::new(context.clone(), observer, nat.clone(), overlay.clone()));
        let (ensuring, creating) = Default::default();
        Ok(Self { context, multicast, nat, overlay, macvlan, networks, etcd, endpoints, observe, ensuring, creating })
    }

    /// Starts the tasks that follow the kernel, the programs and the cluster, for as long as the
    /// runtime lives.
    pub fn start(self: &Arc<Self>, links: mpsc::UnboundedReceiver<LinkEvent>, paths: mpsc::Receiver<()>) {
        tokio::spawn(self.clone().follow_links(links));
        tokio::spawn(self.clone().age_stations());
        tokio::spawn(self.observe.clone().report_held());
        tokio::spawn(self.multicast.clone().follow_multicast());
        tokio::spawn(self.macvlan.clone().follow_interfaces());
        tokio::spawn(self.etcd.clone().follow_cluster());
        tokio::spawn(self.overlay.clone().follow_paths(paths));
        tokio::spawn(self.overlay.clone().follow_path_mtus());
        tokio::spawn(self.overlay.clone().tell_too_big());
        tokio::spawn(self.nat.follow_firewall());
        tokio::spawn(self.nat.clone().follow_ports());
        tokio::spawn(self.networks.clone().keep());
        tokio::spawn(self.clone().follow_engines());
    }

    /// Returns at once, unless the state of the switch stays locked.
    pub async fn works(&self) {
        self.context.works().await;
    }

    /// Compares everything that the switch made with the kernel, and mends it. Returns what was
    /// mended on the host's side of networks and endpoints.
    ///
    /// # Errors
    /// The state of the kernel cannot be read.
    pub async fn repair(self: &Arc<Self>) -> Result<Vec<String>, SwitchError> {
        let mended = self.networks.mend_everything().await?;
        self.resync().await?;
        self.nat.update_nat("a repair").await;
        Ok(mended)
    }

    /// Waits for the changes under way and refuses all further ones. Ends the DNS servers.
    pub async fn close(&self) {
        self.context.close().await;
        self.networks.stop_names();
    }

    /// Ends all streams of frames.
    pub fn close_observer(&self) {
        self.observe.close_observer();
    }

    /// Attaches a namespace. When this returns, frames flow and the endpoint's name resolves.
    ///
    /// # Errors
    /// The request does not fit what exists, or the machine refused a step; then nothing has
    /// changed.
    pub async fn attach(&self, request: NewEndpoint) -> Result<EndpointInfo, SwitchError> {
        self.endpoints.attach(request).await
    }

    /// Connects an endpoint to a further network, while traffic flows in its other networks.
    ///
    /// # Errors
    /// Fails as [`Switch::attach`] does.
    pub async fn connect(&self, network: String, request: NewConnection) -> Result<EndpointInfo, SwitchError> {
        self.endpoints.connect(network, request).await
    }

    /// Detaches an endpoint, or all endpoints at a namespace, and returns their names. A missing
    /// endpoint is no error.
    ///
    /// # Errors
    /// The request is invalid, or the kernel refused a change; then the endpoint is still attached.
    pub async fn detach(&self, selection: Selection) -> Result<Vec<String>, SwitchError> {
        self.endpoints.detach(selection).await
    }

    /// Disconnects an endpoint from one network, while traffic flows in the others, and returns its
    /// name.
    ///
    /// # Errors
    /// The endpoint is not in the network, or the kernel refused a change.
    pub async fn disconnect(&self, network: &str, endpoint: &str) -> Result<Vec<String>, SwitchError> {
        self.endpoints.disconnect(network, endpoint).await
    }

    /// Returns all attached endpoints by name, each once per network.
    pub fn endpoints(&self) -> Vec<EndpointInfo> {
        self.observe.endpoints()
    }

    /// Returns an endpoint in all its networks.
    ///
    /// # Errors
    /// The endpoint does not exist, or its counters cannot be read.
    pub fn inspect(&self, reference: &str) -> Result<EndpointDetails, SwitchError> {
        self.observe.inspect(reference)
    }

    /// Creates a network with its host port and its uplink: on this host, or in the whole cluster.
    ///
    /// # Errors
    /// The network does not fit the networks that exist, or the kernel refused a change; then
    /// nothing has changed.
    pub async fn create_network(&self, new: NewNetwork) -> Result<NetworkInfo, SwitchError> {
        // Of two requests for one network of an engine, the second finds that of the first.
        let _creating = match &new.network.engine {
            Some(engine) => {
                let creating = self.creating.lock().await;
                if let Some(there) = self.network_of(&engine.owner, &engine.external_id) {
                    return Ok(there);
                }
                Some(creating)
            }
            None => None,
        };
        let _change = self.context.begin_change().await?;
        let NewNetwork { mut network, ipv4, ipv6, gateways } = new;
        if let (Some(_), Some(engine), Some(_)) = (&self.context.membership, &network.engine, network.overlay()) {
            return Err(SwitchError::OfCluster { name: network.name, owner: engine.owner.clone() });
        }
        let requested = Requested { ipv4, ipv6, gateways };
        let network = match (&self.context.membership, network.overlay_mut()) {
            (Some(member), Some(overlay)) => {
                overlay.shared = true;
                self.etcd.create_shared(member, network, requested).await?
            }
            _ => self.networks.admit(network, requested).await?,
        };
        Ok(self.observe.network_info(&network))
    }

    /// Removes a network and restores its uplink. Returns the name of the network.
    ///
    /// # Errors
    /// The network does not exist or is in use, or the kernel refused a change; then the network
    /// still exists.
    pub async fn remove_network(&self, reference: &str) -> Result<String, SwitchError> {
        let name = self.networks.remove_network(reference).await?;
        self.etcd.retry_placing().await;
        Ok(name)
    }

    /// Removes all networks without endpoints but the predefined ones.
    pub async fn prune_networks(&self) -> Pruned {
        let pruned = self.networks.prune_networks().await;
        self.etcd.retry_placing().await;
        pruned
    }

    /// Returns all networks by name.
    pub fn networks(&self) -> Vec<NetworkInfo> {
        self.observe.networks()
    }

    /// Returns a network with its devices and endpoints.
    ///
    /// # Errors
    /// The network does not exist.
    pub fn inspect_network(&self, reference: &str) -> Result<NetworkDetails, SwitchError> {
        self.observe.inspect_network(reference)
    }

    /// Adds a peer, or gives a peer another public key: all overlay networks get a tunnel to it.
    ///
    /// # Errors
    /// The address or the key is this host's or another peer's, or the kernel refused a change;
    /// then nothing has changed.
    pub async fn add_peer(&self, address: IpAddr, key: Option<PublicKey>) -> Result<PeerInfo, SwitchError> {
        self.overlay.add_peer(address, key).await
    }

    /// Removes a peer with its tunnels.
    ///
    /// # Errors
    /// The peer does not exist or belongs to the cluster, or the kernel refused a change.
    pub async fn remove_peer(&self, address: IpAddr) -> Result<(), SwitchError> {
        self.overlay.remove_peer(address).await
    }

    /// Returns the peers by address.
    ///
    /// # Errors
    /// The kernel's tables cannot be read.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, SwitchError> {
        self.overlay.peers().await
    }

    /// Returns the WireGuard public key of this host, and generates a key if none exists.
    ///
    /// # Errors
    /// The key file cannot be read or written.
    pub async fn public_key(&self) -> Result<PublicKey, SwitchError> {
        self.overlay.public_key().await
    }

    /// Returns the state of the whole switch.
    ///
    /// # Errors
    /// The FDB cannot be read.
    pub fn status(&self) -> Result<Status, SwitchError> {
        self.observe.status()
    }

    /// Returns the hooks of each kind of port.
    pub fn hooks(&self) -> Hooks {
        self.context.hooks()
    }

    /// Returns the health of every port, by network and port.
    ///
    /// # Errors
    /// The host's devices cannot be inspected. An endpoint that cannot be inspected is returned
    /// with the reason.
    pub async fn health(&self) -> Result<Vec<PortHealth>, SwitchError> {
        self.observe.health().await
    }

    /// Returns the counters of all ports, of those of an endpoint, or of those of a network; by
    /// name.
    ///
    /// # Errors
    /// The endpoint or network does not exist, or the counters cannot be read.
    pub fn stats(&self, of: Option<&str>) -> Result<Vec<PortStats>, SwitchError> {
        self.observe.stats(of)
    }

    /// Returns the sums of these counters by network.
    ///
    /// # Errors
    /// Fails as [`Switch::stats`] does.
    pub fn network_stats(&self, of: Option<&str>) -> Result<Vec<PortStats>, SwitchError> {
        self.observe.network_stats(of)
    }

    /// Returns everything that is counted.
    ///
    /// # Errors
    /// The counters or the FDB cannot be read.
    pub fn measure(&self) -> Result<Measurements, SwitchError> {
        self.observe.measure()
    }

    /// Returns what the switch would do with a frame, step by step. Nothing changes.
    ///
    /// # Errors
    /// The port does not exist, the frame cannot be built, or the programs cannot run.
    pub fn trace(&self, query: &TraceQuery) -> Result<Trace, SwitchError> {
        self.observe.trace(query)
    }

    /// Observes frames until the returned stream is dropped.
    ///
    /// # Errors
    /// The port or network does not exist, or the kernel refused it.
    pub fn observe(&self, filter: &FrameFilter) -> Result<Frames, SwitchError> {
        self.observe.observe(filter)
    }

    /// Returns the stations of the FDB by network, address and VLAN.
    ///
    /// # Errors
    /// The network or port does not exist, or the FDB cannot be read.
    pub fn stations(&self, filter: &StationFilter) -> Result<Vec<Station>, SwitchError> {
        self.observe.stations(filter)
    }

    /// Writes a static FDB entry, or a sticky one, which ages.
    ///
    /// # Errors
    /// The network or port does not exist, or the address is an endpoint's own.
    pub async fn add_station(&self, key: &StationKey, port: &str, sticky: bool) -> Result<(), SwitchError> {
        self.observe.add_station(key, port, sticky).await
    }

    /// Removes an FDB entry and returns whether it existed. The station may be learned again.
    ///
    /// # Errors
    /// The network does not exist, or the station is an endpoint's own.
    pub async fn remove_station(&self, key: &StationKey) -> Result<bool, SwitchError> {
        self.observe.remove_station(key).await
    }

    /// Removes learned FDB entries and returns their number.
    ///
    /// # Errors
    /// The network or port does not exist.
    pub async fn flush_stations(&self, filter: &StationFilter) -> Result<usize, SwitchError> {
        self.observe.flush_stations(filter).await
    }

    /// Begins to watch the FDB for changes.
    ///
    /// # Errors
    /// The network or port does not exist, or the FDB cannot be read.
    pub fn watch_stations(&self, filter: &StationFilter) -> Result<FdbWatch, SwitchError> {
        FdbWatch::begin(self.observe.clone(), filter)
    }

    /// Returns the multicast groups by network, VLAN and address.
    ///
    /// # Errors
    /// The network does not exist.
    pub fn multicast_groups(&self, network: Option<&str>) -> Result<Vec<MulticastGroup>, SwitchError> {
        self.multicast.multicast_groups(network)
    }
}
