//! Carries a plan out step by step, and undoes it in reverse if a step fails. All changes of a plan
//! are made and undone here.
//!
//! A step whose result exists already changes nothing and is not undone, so applying a plan again
//! completes what a crash left unfinished.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use vswitch_common::Mac;
use vswitch_common::tables::PortNumber;

use super::{DeviceStep, EndpointPlan, HostStep, InsideStep, Offload, PortStep, Stage};
use crate::datapath::{Datapath, DatapathError, PortSpec};
use crate::kernel::ethtool::{self, EthtoolError, Feature};
use crate::kernel::netlink::{Netlink, NetlinkError, Route, VethSpec};
use crate::kernel::netns::{Netns, NetnsError};
use crate::kernel::sysctl::{self, SysctlError};
use crate::model::{NetworkId, StationMac};

/// Metric of a route that is used only without another route to the same subnet. DHCP clients give
/// their routes metrics up to some thousands.
const LAST_METRIC: u32 = 65_536;

/// A step failed. The steps before it have been undone.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The container has an interface of this name already.
    #[error("interface {name} is already there in {netns} (choose another name with --ifname)")]
    InterfaceTaken {
        /// The name.
        name: String,
        /// The path of the namespace.
        netns: String,
    },
    /// The daemon's namespace has a device of this name already.
    #[error("device {0} is already there, and is not ours (remove or rename it: `ip link show {0}`)")]
    DeviceTaken(String),
    /// A device disappeared between two steps.
    #[error("device {0} disappeared while it was set up (try again)")]
    DeviceGone(String),
    /// A device has no carrier.
    #[error("device {0} has no carrier: it or its peer was set down (try again)")]
    NoCarrier(String),
    /// rtnetlink refused a request.
    #[error("{0} ({hint})", hint = netlink_hint(.0))]
    Netlink(#[from] NetlinkError),
    /// The datapath refused a change.
    #[error("{0} ({hint})", hint = datapath_hint(.0))]
    Datapath(#[from] DatapathError),
    /// An offload could not be set.
    #[error("{0} (`ethtool -k` shows what the driver can do)")]
    Ethtool(#[from] EthtoolError),
    /// A setting could not be written.
    #[error("{0} (is /proc/sys writable for the daemon?)")]
    Sysctl(#[from] SysctlError),
    /// The namespace could not be entered.
    #[error("{0} (did it disappear? try again)")]
    Netns(#[from] NetnsError),
    /// A thread of the daemon failed.
    #[error("a thread of the daemon failed: {0} (see the daemon's log)")]
    Thread(#[from] tokio::task::JoinError),
}

impl ApplyError {
    /// Returns the error code, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InterfaceTaken { .. } => "interface_exists",
            Self::DeviceTaken(_) => "device_exists",
            Self::DeviceGone(_) => "device_gone",
            Self::NoCarrier(_) => "no_carrier",
            Self::Netlink(_) => "netlink",
            Self::Datapath(_) => "datapath",
            Self::Ethtool(_) => "ethtool",
            Self::Sysctl(_) => "sysctl",
            Self::Netns(_) => "netns_unusable",
            Self::Thread(_) => "internal",
        }
    }
}

/// Returns what to do after an error of rtnetlink.
pub const fn netlink_hint(error: &NetlinkError) -> &'static str {
    match error {
        NetlinkError::Exists { .. } => "`ip link` shows what is there",
        NetlinkError::NotFound { .. } => "it disappeared meanwhile; try again",
        NetlinkError::Permission { .. } => "the daemon needs to be root",
        _ => "`dmesg` may say why",
    }
}

/// Returns what to do after an error of the datapath.
pub fn datapath_hint(error: &DatapathError) -> &'static str {
    match error {
        DatapathError::Attach { program, .. } if program.ends_with("_xdp") => {
            "its driver has no XDP, or another program holds its hook; use -o xdp=off"
        }
        DatapathError::NoFreePort { .. } => "detach something",
        _ => "`vswitch doctor` says what this kernel can do",
    }
}

/// The namespace of a container, open while a plan is carried out in it.
#[derive(Clone, Debug)]
pub struct Container {
    netns: Arc<Netns>,
    netlink: Netlink,
    path: String,
}

impl Container {
    /// Opens a netlink connection in the namespace.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn open(netns: Netns, path: &Path) -> Result<Self, ApplyError> {
        let netlink = Netlink::open_in(&netns)?;
        Ok(Self { netns: Arc::new(netns), netlink, path: path.display().to_string() })
    }
}

/// The daemon's namespace and the datapath, which plans are carried out on.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Connection in the daemon's namespace.
    pub host: &'a Netlink,
    /// The datapath in the kernel.
    pub datapath: &'a Arc<Datapath>,
}

/// Result of a plan.
#[derive(Debug, Default)]
pub struct Made {
    undo: Vec<Undo>,
    /// Indexes of devices in the daemon's namespace.
    host: HashMap<String, u32>,
    /// Indexes of devices in the container.
    inside: HashMap<String, u32>,
    /// The port, with the index of its device.
    pub port: Option<(u32, PortNumber)>,
}

/// The namespace of a device. An undo in a container holds the container open.
#[derive(Clone, Debug)]
enum Place {
    Host(Netlink),
    Inside(Container),
}

/// Reversal of one step.
#[derive(Debug)]
enum Undo {
    DeleteLink(u32),
    Offloads { place: Place, device: String, settings: Vec<(Offload, bool)> },
    RemovePort(PortNumber),
    Promiscuous { index: u32, on: bool },
    SetDown { place: Place, device: String, index: u32 },
    HostRoute { index: u32, address: IpAddr },
}

/// Carries out steps in the daemon's namespace, all or none.
///
/// # Errors
/// The error of the step that failed.
pub async fn apply(steps: &[HostStep], scene: Scene<'_>) -> Result<Made, ApplyError> {
    let mut made = Made::default();
    let done = made.make_host(steps.iter(), scene).await;
    made.or_undone(done, scene).await
}

/// Carries out steps in a container, all or none.
///
/// # Errors
/// The error of the step that failed.
pub async fn apply_inside(steps: &[InsideStep], scene: Scene<'_>, container: &Container) -> Result<Made, ApplyError> {
    let mut made = Made::default();
    let done = made.make_inside(steps.iter(), scene, container).await;
    made.or_undone(done, scene).await
}

/// Carries out both halves of an endpoint's plan, all or nothing. The halves alternate by
/// stage.
///
/// # Errors
/// The error of the step that failed.
pub async fn apply_endpoint(plan: &EndpointPlan, scene: Scene<'_>, container: &Container) -> Result<Made, ApplyError> {
    let mut made = Made::default();
    let done = async {
        for stage in Stage::ALL {
            made.make_host(plan.host.iter().filter(|step| step.stage() == stage), scene).await?;
            made.make_inside(plan.inside.iter().filter(|step| step.stage() == stage), scene, container).await?;
        }
        Ok(())
    };
    let done = done.await;
    made.or_undone(done, scene).await
}

impl Made {
    /// Undoes every step, the last one first. An undo that fails is logged, because no caller can
    /// correct it.
    pub async fn undo(self, scene: Scene<'_>) {
        for undo in self.undo.into_iter().rev() {
            let what = undo.to_string();
            if let Err(error) = revert(undo, scene).await {
                tracing::warn!("could not take back {what}: {error}");
            }
        }
    }

    async fn or_undone(self, done: Result<(), ApplyError>, scene: Scene<'_>) -> Result<Self, ApplyError> {
        match done {
            Ok(()) => Ok(self),
            Err(error) => {
                self.undo(scene).await;
                Err(error)
            }
        }
    }

    async fn make_host(&mut self, steps: impl Iterator<Item = &HostStep>, scene: Scene<'_>) -> Result<(), ApplyError> {
        for step in steps {
            self.host_step(step, scene).await?;
        }
        Ok(())
    }

    async fn make_inside(
        &mut self,
        steps: impl Iterator<Item = &InsideStep>,
        scene: Scene<'_>,
        container: &Container,
    ) -> Result<(), ApplyError> {
        for step in steps {
            self.inside_step(step, scene, container).await?;
        }
        Ok(())
    }

    async fn host_step(&mut self, step: &HostStep, scene: Scene<'_>) -> Result<(), ApplyError> {
        match step {
            HostStep::Device(step) => self.device_step(step, &Place::Host(scene.host.clone())).await,
            HostStep::CreateVeth { device, mac, mark, peer, mtu } => {
                let (mac, mtu) = (*mac, *mtu);
                let spec = VethSpec {
                    name: device,
                    mac,
                    mtu,
                    alias: Some(mark),
                    peer_name: peer,
                    peer_mac: None,
                    peer_netns: None,
                };
                self.create_veth(&spec, scene, || ApplyError::DeviceTaken(peer.clone())).await
            }
            HostStep::CreateVxlan { device, port, mark } => self.create_vxlan(device, *port, mark, scene).await,
            HostStep::GuardTunnels { device } => self.guard_tunnels(device.clone(), scene).await,
            HostStep::NoIpv6 { device } => {
                Ok(unless_missing(sysctl::write(&["net", "ipv6", "conf", device, "disable_ipv6"], "1"))?)
            }
            HostStep::NoDad { device } => {
                Ok(unless_missing(sysctl::write(&["net", "ipv6", "conf", device, "accept_dad"], "0"))?)
            }
            HostStep::ShareSubnets { device, addresses } => self.share_subnets(device, addresses, scene).await,
            HostStep::AddPort(port) => self.add_port(port, scene).await,
            HostStep::Promiscuous { device, on } => {
                let index = self.host_index(device, scene).await?;
                scene.host.set_promiscuous(index, *on).await?;
                self.undo.push(Undo::Promiscuous { index, on: !*on });
                Ok(())
            }
            HostStep::HostRoute { device, address, mac } => self.host_route(device, *address, *mac, scene).await,
        }
    }

    async fn inside_step(
        &mut self,
        step: &InsideStep,
        scene: Scene<'_>,
        container: &Container,
    ) -> Result<(), ApplyError> {
        let netlink = &container.netlink;
        let place = Place::Inside(container.clone());
        match step {
            InsideStep::Device(step) => self.device_step(step, &place).await,
            InsideStep::CreateVeth { port, mark, interface, mac, mtu } => {
                let spec = VethSpec {
                    name: port,
                    mac: None,
                    mtu: *mtu,
                    alias: Some(mark),
                    peer_name: interface,
                    peer_mac: Some(*mac),
                    peer_netns: Some(&*container.netns),
                };
                let taken = || ApplyError::InterfaceTaken { name: interface.clone(), netns: container.path.clone() };
                self.create_veth(&spec, scene, taken).await
            }
            InsideStep::LinkLocal { device, address } => {
                let name = device.clone();
                let write = move || sysctl::write(&["net", "ipv6", "conf", &name, "addr_gen_mode"], "1");
                unless_missing(place.run(write).await?)?;
                let index = self.index(device, &place).await?;
                Ok(netlink.add_address(index, IpNet::new_assert((*address).into(), 64)).await?)
            }
            InsideStep::Mac { device, mac } => {
                let index = self.index(device, &place).await?;
                Ok(netlink.set_mac(index, *mac).await?)
            }
            InsideStep::NoArp { device } => {
                let index = self.index(device, &place).await?;
                Ok(netlink.set_noarp(index, true).await?)
            }
            InsideStep::DefaultRoute { device, via } => {
                let routes = netlink.routes().await?;
                let default = |route: &Route| {
                    route.destination.prefix_len() == 0 && route.destination.addr().is_ipv4() == via.is_ipv4()
                };
                if routes.iter().any(default) {
                    return Ok(());
                }
                let index = self.index(device, &place).await?;
                Ok(netlink.add_default_route(*via, index).await?)
            }
            InsideStep::DefaultByDevice { device, ipv6 } => {
                let index = self.index(device, &place).await?;
                Ok(netlink.add_default_device_route(index, *ipv6).await?)
            }
        }
    }

    async fn device_step(&mut self, step: &DeviceStep, place: &Place) -> Result<(), ApplyError> {
        match step {
            DeviceStep::Ipv6 { device, enable, accept_ra } => ipv6(device.clone(), *enable, *accept_ra, place).await,
            DeviceStep::Offloads { device, settings } => {
                let before = set_offloads(device.clone(), settings.clone(), place).await?;
                if !before.is_empty() {
                    let (place, device) = (place.clone(), device.clone());
                    self.undo.push(Undo::Offloads { place, device, settings: before });
                }
                Ok(())
            }
            DeviceStep::AnnounceAddresses { device } => announce(device.clone(), place).await,
            DeviceStep::AddAddress { device, address } => {
                let index = self.index(device, place).await?;
                Ok(place.netlink().add_address(index, *address).await?)
            }
            DeviceStep::SetUp { device } => self.set_up(device, place).await,
            DeviceStep::CheckCarrier { device } => {
                let index = self.index(device, place).await?;
                check_carrier(device, index, place).await
            }
        }
    }

    /// Creates a veth pair. `taken` is the error if the name of the other end is taken.
    async fn create_veth(
        &mut self,
        spec: &VethSpec<'_>,
        scene: Scene<'_>,
        taken: impl FnOnce() -> ApplyError,
    ) -> Result<(), ApplyError> {
        let spec = &VethSpec {
            mac: Some(spec.mac.unwrap_or_else(|| device_mac(spec.name))),
            peer_mac: Some(spec.peer_mac.unwrap_or_else(|| device_mac(spec.peer_name))),
            ..*spec
        };
        let made = match scene.host.create_veth(spec).await {
            // Either end can exist: from before a crash, or as another program's device.
            Err(NetlinkError::Exists { .. }) => match scene.host.link_by_name(spec.name).await? {
                Some(link) if link.alias.as_deref() == spec.alias => {
                    self.host.insert(spec.name.to_owned(), link.index);
                    return Ok(());
                }
                // A crash between creation and marking leaves a pair without an alias, with the MAC
                // address that it was given.
                Some(link)
                    if link.alias.is_none()
                        && link.kind.as_deref() == Some("veth")
                        && (spec.mac.is_none() || spec.mac == link.mac) =>
                {
                    scene.host.delete_link(link.index).await?;
                    scene.host.create_veth(spec).await
                }
                Some(_) => return Err(ApplyError::DeviceTaken(spec.name.to_owned())),
                None => return Err(taken()),
            },
            made => made,
        };
        let index = made?;
        self.undo.push(Undo::DeleteLink(index));
        self.host.insert(spec.name.to_owned(), index);
        Ok(())
    }

    async fn create_vxlan(&mut self, device: &str, port: u16, mark: &str, scene: Scene<'_>) -> Result<(), ApplyError> {
        let made = match scene.host.create_vxlan(device, device_mac(device), port, mark).await {
            Err(exists @ NetlinkError::Exists { .. }) => match scene.host.link_by_name(device).await? {
                // Another VXLAN device receives the packets of this UDP port.
                None => return Err(exists.into()),
                Some(link) if link.alias.as_deref() == Some(mark) => {
                    self.host.insert(device.to_owned(), link.index);
                    return Ok(());
                }
                // A crash between creation and marking leaves a device without an alias. No other
                // program uses such names.
                Some(link) if link.alias.is_none() && link.kind.as_deref() == Some("vxlan") => {
                    scene.host.delete_link(link.index).await?;
                    scene.host.create_vxlan(device, device_mac(device), port, mark).await
                }
                Some(_) => return Err(ApplyError::DeviceTaken(device.to_owned())),
            },
            made => made,
        };
        let index = made?;
        self.undo.push(Undo::DeleteLink(index));
        self.host.insert(device.to_owned(), index);
        Ok(())
    }

    async fn guard_tunnels(&mut self, device: String, scene: Scene<'_>) -> Result<(), ApplyError> {
        let ifindex = self.host_index(&device, scene).await?;
        let datapath = scene.datapath.clone();
        Ok(tokio::task::spawn_blocking(move || datapath.guard_tunnels(Some((ifindex, &device)))).await??)
    }

    async fn add_port(&mut self, port: &PortStep, scene: Scene<'_>) -> Result<(), ApplyError> {
        let ifindex = self.host_index(&port.device, scene).await?;
        let egress_ifindex = self.host_index(&port.egress, scene).await?;
        let spec = PortSpec {
            ifindex,
            egress_ifindex,
            device: port.device.clone(),
            network: port.network,
            kind: port.kind,
            mac: port.mac,
            xdp: port.xdp,
            xdp_egress: port.xdp_egress,
            addresses: port.addresses.clone(),
            mtu: port.mtu,
            rules: port.rules.clone(),
        };
        let datapath = scene.datapath.clone();
        let add = move || {
            let known = datapath.is_port(ifindex);
            datapath.add_port(&spec).map(|number| (number, known))
        };
        let (number, known) = tokio::task::spawn_blocking(add).await??;
        // A device that was a port already is in use, and keeps its programs in any case.
        if !known {
            self.undo.push(Undo::RemovePort(number));
        }
        self.port = Some((ifindex, number));
        Ok(())
    }

    async fn share_subnets(&mut self, device: &str, addresses: &[IpNet], scene: Scene<'_>) -> Result<(), ApplyError> {
        let index = self.host_index(device, scene).await?;
        for address in addresses {
            scene.host.set_address_metric(index, *address, LAST_METRIC).await?;
        }
        sysctl::write(&["net", "ipv4", "conf", device, "arp_filter"], "1")?;
        // For the addresses of the interface, which are added as proxies.
        unless_missing(sysctl::write(&["net", "ipv6", "conf", device, "proxy_ndp"], "1"))?;
        Ok(unless_missing(sysctl::write(&["net", "ipv6", "neigh", device, "proxy_delay"], "0"))?)
    }

    async fn host_route(
        &mut self,
        device: &str,
        address: IpAddr,
        mac: Mac,
        scene: Scene<'_>,
    ) -> Result<(), ApplyError> {
        let index = self.host_index(device, scene).await?;
        scene.host.add_neighbor(index, address, mac).await?;
        self.undo.push(Undo::HostRoute { index, address });
        Ok(scene.host.add_device_route(index, IpNet::from(address)).await?)
    }

    async fn set_up(&mut self, device: &str, place: &Place) -> Result<(), ApplyError> {
        let link = place.netlink().link_by_name(device).await?.ok_or_else(|| gone(device))?;
        self.indexes(place).insert(device.to_owned(), link.index);
        if !link.up {
            place.netlink().set_up(link.index).await?;
            self.undo.push(Undo::SetDown { place: place.clone(), device: device.to_owned(), index: link.index });
        }
        Ok(())
    }

    async fn host_index(&mut self, device: &str, scene: Scene<'_>) -> Result<u32, ApplyError> {
        self.index(device, &Place::Host(scene.host.clone())).await
    }

    async fn index(&mut self, device: &str, place: &Place) -> Result<u32, ApplyError> {
        if let Some(index) = self.indexes(place).get(device) {
            return Ok(*index);
        }
        let link = place.netlink().link_by_name(device).await?.ok_or_else(|| gone(device))?;
        self.indexes(place).insert(device.to_owned(), link.index);
        Ok(link.index)
    }

    const fn indexes(&mut self, place: &Place) -> &mut HashMap<String, u32> {
        match place {
            Place::Host(_) => &mut self.host,
            Place::Inside(_) => &mut self.inside,
        }
    }
}

impl Place {
    const fn netlink(&self) -> &Netlink {
        match self {
            Self::Host(netlink) => netlink,
            Self::Inside(container) => &container.netlink,
        }
    }

    /// Runs a short action on a thread in the namespace.
    async fn run<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> Result<T, ApplyError> {
        let netns = match self {
            Self::Host(_) => None,
            Self::Inside(container) => Some(container.netns.clone()),
        };
        let run = move || match netns {
            Some(netns) => netns.enter(action),
            None => Ok(action()),
        };
        Ok(tokio::task::spawn_blocking(run).await??)
    }
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteLink(index) => write!(f, "the creation of device {index}"),
            Self::Offloads { device, settings, .. } => write!(f, "offloads {settings:?} of {device}"),
            Self::RemovePort(number) => write!(f, "port {}", number.0),
            Self::Promiscuous { index, on } => {
                write!(f, "that device {index} is {}promiscuous", if *on { "not " } else { "" })
            }
            Self::SetDown { device, .. } => write!(f, "that {device} is up"),
            Self::HostRoute { address, .. } => write!(f, "the host's route to {address}"),
        }
    }
}

async fn revert(undo: Undo, scene: Scene<'_>) -> Result<(), ApplyError> {
    match undo {
        Undo::DeleteLink(index) => scene.host.delete_link(index).await?,
        Undo::Offloads { place, device, settings } => drop(set_offloads(device, settings, &place).await?),
        Undo::RemovePort(number) => {
            let datapath = scene.datapath.clone();
            tokio::task::spawn_blocking(move || datapath.remove_port(number)).await??;
        }
        Undo::Promiscuous { index, on } => scene.host.set_promiscuous(index, on).await?,
        Undo::HostRoute { index, address } => {
            scene.host.remove_device_route(index, IpNet::from(address)).await?;
            scene.host.remove_neighbor(index, address).await?;
        }
        Undo::SetDown { place, index, .. } => place.netlink().set_down(index).await?,
    }
    Ok(())
}

/// Returns the MAC address of a device that has no station's. udev changes the addresses that the
/// kernel chose (addr_assign_type 1; systemd.link(5), MACAddressPolicy), but no others.
fn device_mac(device: &str) -> Mac {
    StationMac::generated(&NetworkId::from_bytes([0; 32]), device, 0).get()
}

/// Sets offloads. Returns the earlier settings of those that were different, in reverse order.
async fn set_offloads(
    device: String,
    settings: Vec<(Offload, bool)>,
    place: &Place,
) -> Result<Vec<(Offload, bool)>, ApplyError> {
    let set = move || {
        let mut before = Vec::new();
        for (offload, on) in settings {
            let was = ethtool::set(&device, feature(offload), on)?;
            if was != on {
                before.push((offload, was));
            }
        }
        before.reverse();
        Ok::<_, EthtoolError>(before)
    };
    Ok(place.run(set).await??)
}

/// Returns the kernel's feature of an offload.
pub const fn feature(offload: Offload) -> Feature {
    match offload {
        Offload::Gro => Feature::Gro,
        Offload::TxChecksum => Feature::TxChecksum,
        Offload::Tso => Feature::Tso,
        Offload::TxVlan => Feature::TxVlan,
        Offload::RxVlan => Feature::RxVlan,
    }
}

/// Makes the kernel send gratuitous ARP and unsolicited neighbor advertisements when the device
/// comes up.
async fn announce(device: String, place: &Place) -> Result<(), ApplyError> {
    let announce = move || {
        sysctl::write(&["net", "ipv4", "conf", &device, "arp_notify"], "1")?;
        unless_missing(sysctl::write(&["net", "ipv6", "conf", &device, "ndisc_notify"], "1"))
    };
    Ok(place.run(announce).await??)
}

async fn ipv6(device: String, enable: Option<bool>, accept_ra: bool, place: &Place) -> Result<(), ApplyError> {
    let set = move || {
        let write = |name, value| sysctl::write(&["net", "ipv6", "conf", &device, name], value);
        // The switch derives the link-local address from the MAC address, and drops packets from
        // another one as forged.
        unless_missing(write("addr_gen_mode", "0"))?;
        // 2: also in a container that forwards, which the kernel would otherwise treat as a router
        // itself.
        unless_missing(write("accept_ra", if accept_ra { "2" } else { "0" }))?;
        match enable {
            // A failure must be reported here: without IPv6, adding the address would fail with
            // less to say.
            Some(true) => write("disable_ipv6", "0").map(drop),
            Some(false) => unless_missing(write("disable_ipv6", "1")),
            None => Ok(()),
        }
    };
    Ok(place.run(set).await??)
}

/// Ignores the error that a setting does not exist: a kernel without IPv6 needs none of its
/// settings.
fn unless_missing(written: Result<String, SysctlError>) -> Result<(), SysctlError> {
    match written {
        Err(error) if !error.is_missing() => Err(error),
        _ => Ok(()),
    }
}

/// Checks that a device passes frames. Carrier is set as soon as both ends are up, but the queue
/// drops frames until the kernel has acted on it. Since 6.8 the kernel does so before it answers
/// this request (facd15dfd691); earlier kernels handle it as urgent work.
async fn check_carrier(device: &str, index: u32, place: &Place) -> Result<(), ApplyError> {
    let link = place.netlink().link(index).await?.ok_or_else(|| gone(device))?;
    if link.running { Ok(()) } else { Err(ApplyError::NoCarrier(device.to_owned())) }
}

fn gone(device: &str) -> ApplyError {
    ApplyError::DeviceGone(device.to_owned())
}
