//! Carries a plan out, step by step, and takes it back in reverse where a step fails: the one place that does either.
//!
//! A step that is found done already is left as it is and is not taken back, so applying a plan twice finishes what a
//! crash left half-way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use vswitch_common::tables::PortNumber;

use crate::datapath::{Datapath, DatapathError, PortSpec};
use crate::kernel::ethtool::{self, EthtoolError, Feature};
use crate::kernel::netlink::{Netlink, NetlinkError, Route, VethSpec};
use crate::kernel::netns::{Netns, NetnsError};
use crate::kernel::sysctl::{self, SysctlError};
use crate::plan::{Device, Offload, Place, PortStep, Step};

/// A step that failed. Those before it have been taken back.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The name is taken in the namespace that is attached.
    #[error("interface {name} is already there in {netns} (choose another name with --ifname)")]
    InterfaceTaken {
        /// The name.
        name: String,
        /// The path of the namespace.
        netns: String,
    },
    /// The name is taken in the daemon's namespace.
    #[error("device {0} is already there, and is not ours (remove or rename it: `ip link show {0}`)")]
    DeviceTaken(String),
    /// A device is gone in the middle of it.
    #[error("device {0} disappeared while it was set up (try again)")]
    DeviceGone(String),
    /// No carrier came.
    #[error("device {0} has no carrier: somebody switched it or its other end off (try again)")]
    NoCarrier(String),
    /// rtnetlink refused.
    #[error("{0} ({hint})", hint = netlink_hint(.0))]
    Netlink(#[from] NetlinkError),
    /// The switch in the kernel refused.
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
    /// A thread of ours died.
    #[error("a thread of the daemon failed: {0} (see the daemon's log)")]
    Thread(#[from] tokio::task::JoinError),
}

impl ApplyError {
    /// The name for programs.
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

/// What to do where rtnetlink refused.
pub const fn netlink_hint(error: &NetlinkError) -> &'static str {
    match error {
        NetlinkError::Exists { .. } => "`ip link` shows what is there",
        NetlinkError::NotFound { .. } => "it disappeared meanwhile; try again",
        NetlinkError::Permission { .. } => "the daemon needs to be root",
        _ => "`dmesg` may say why",
    }
}

/// What to do where the switch in the kernel refused.
pub fn datapath_hint(error: &DatapathError) -> &'static str {
    match error {
        DatapathError::Attach { program, .. } if program.ends_with("_xdp") => {
            "its driver has no XDP, or somebody else's program is on it; -o xdp=off does without"
        }
        DatapathError::NoFreePort { .. } => "detach something",
        _ => "`vswitch doctor` says what this kernel can do",
    }
}

/// An attached namespace, open for as long as something is done in it.
#[derive(Debug)]
pub struct Container {
    netns: Arc<Netns>,
    netlink: Netlink,
    path: String,
}

impl Container {
    /// Opens a connection in the namespace.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(netns: Netns, path: &Path) -> Result<Self, ApplyError> {
        let netlink = Netlink::open_in(&netns)?;
        Ok(Self { netns: Arc::new(netns), netlink, path: path.display().to_string() })
    }
}

/// Where a plan is carried out.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The daemon's namespace.
    pub host: &'a Netlink,
    /// The attached one, for the plans that have steps there.
    pub container: Option<&'a Container>,
    /// The switch in the kernel.
    pub datapath: &'a Arc<Datapath>,
}

/// What a plan has made.
#[derive(Debug, Default)]
pub struct Made {
    undo: Vec<Undo>,
    indexes: HashMap<Device, u32>,
    /// The port, with the index of its device.
    pub port: Option<(u32, PortNumber)>,
}

/// How one step is taken back.
#[derive(Debug)]
enum Undo {
    DeleteLink(u32),
    Offloads { device: Device, settings: Vec<(Offload, bool)> },
    RemovePort(PortNumber),
    Promiscuous { index: u32, on: bool },
    SetDown { device: Device, index: u32 },
    HostRoute { index: u32, address: IpAddr },
}

/// Makes everything that the plan says, or nothing.
///
/// # Errors
/// What stopped it.
pub async fn apply(plan: &[Step], scene: Scene<'_>) -> Result<Made, ApplyError> {
    let mut made = Made::default();
    for step in plan {
        if let Err(error) = made.make(step, scene).await {
            made.undo(scene).await;
            return Err(error);
        }
    }
    Ok(made)
}

impl Made {
    /// Takes everything back, the last first. What cannot be taken back is logged: there is nobody to turn to.
    pub async fn undo(self, scene: Scene<'_>) {
        for undo in self.undo.into_iter().rev() {
            let what = format!("{undo:?}");
            if let Err(error) = take_back(undo, scene).await {
                tracing::warn!("could not take back {what}: {error}");
            }
        }
    }

    async fn make(&mut self, step: &Step, scene: Scene<'_>) -> Result<(), ApplyError> {
        match step {
            Step::CreateVeth { .. } => self.create_veth(step, scene).await,
            Step::CreateVxlan { device, port, mark } => self.create_vxlan(device, *port, mark, scene).await,
            Step::GuardTunnels { device } => self.guard_tunnels(device.clone(), scene).await,
            Step::NoIpv6 { device } => {
                Ok(unless_missing(sysctl::write(&["net", "ipv6", "conf", device, "disable_ipv6"], "1"))?)
            }
            Step::Ipv6 { device, enable, accept_ra } => ipv6(device.clone(), *enable, *accept_ra, scene).await,
            Step::Offloads { device, settings } => {
                let before = set_offloads(device.clone(), settings.clone(), scene).await?;
                if !before.is_empty() {
                    self.undo.push(Undo::Offloads { device: device.clone(), settings: before });
                }
                Ok(())
            }
            Step::AddPort(port) => self.add_port(port, scene).await,
            Step::Promiscuous { device, on } => {
                let index = self.index(&Device::host(device), scene).await?;
                scene.host.set_promiscuous(index, *on).await?;
                self.undo.push(Undo::Promiscuous { index, on: !*on });
                Ok(())
            }
            Step::AnnounceAddresses { device } => announce(device.clone(), scene).await,
            Step::AddAddress { device, address } => {
                let index = self.index(device, scene).await?;
                Ok(scene.netlink(device.place).add_address(index, *address).await?)
            }
            Step::SetUp { device } => self.set_up(device, scene).await,
            Step::DefaultRoute { device, via } => {
                let netlink = scene.netlink(Place::Container);
                let routes = netlink.routes().await?;
                let default = |route: &Route| {
                    route.destination.prefix_len() == 0 && route.destination.addr().is_ipv4() == via.is_ipv4()
                };
                if routes.iter().any(default) {
                    return Ok(());
                }
                let index = self.index(&Device::container(device), scene).await?;
                Ok(netlink.add_default_route(*via, index).await?)
            }
            Step::LinkLocal { device, address } => {
                let name = device.name.clone();
                let write = move || sysctl::write(&["net", "ipv6", "conf", &name, "addr_gen_mode"], "1");
                unless_missing(scene.inside(device.place, write).await?)?;
                let index = self.index(device, scene).await?;
                Ok(scene.netlink(device.place).add_address(index, IpNet::new_assert((*address).into(), 64)).await?)
            }
            Step::Mac { device, mac } => {
                let index = self.index(device, scene).await?;
                Ok(scene.netlink(device.place).set_mac(index, *mac).await?)
            }
            Step::NoArp { device } => {
                let index = self.index(device, scene).await?;
                Ok(scene.netlink(device.place).set_noarp(index, true).await?)
            }
            Step::DefaultByDevice { device, ipv6 } => {
                let index = self.index(&Device::container(device), scene).await?;
                Ok(scene.netlink(Place::Container).default_by_device(index, *ipv6).await?)
            }
            Step::HostRoute { device, address, mac } => {
                let index = self.index(&Device::host(device), scene).await?;
                scene.host.add_neighbor(index, *address, *mac).await?;
                self.undo.push(Undo::HostRoute { index, address: *address });
                Ok(scene.host.add_device_route(index, IpNet::from(*address)).await?)
            }
            Step::CheckCarrier { device } => {
                let index = self.index(device, scene).await?;
                check_carrier(device, index, scene).await
            }
        }
    }

    async fn create_veth(&mut self, step: &Step, scene: Scene<'_>) -> Result<(), ApplyError> {
        let Step::CreateVeth { device, mac, mark, peer, peer_mac, mtu } = step else { return Ok(()) };
        let spec = VethSpec {
            name: device,
            mac: *mac,
            mtu: *mtu,
            alias: Some(mark),
            // The end of a pair that leads elsewhere is the switch's own.
            peer_name: &peer.name,
            peer_mac: *peer_mac,
            peer_netns: scene.netns(peer.place).map(|netns| &**netns),
        };
        let made = match scene.host.create_veth(&spec).await {
            // Either end may be there: ours, from before a crash, or somebody's.
            Err(NetlinkError::Exists { .. }) => match scene.host.link_by_name(device).await? {
                Some(link) if link.alias.as_deref() == Some(mark) => {
                    self.indexes.insert(Device::host(device), link.index);
                    return Ok(());
                }
                // The mark is set after the device is made, and a crash comes between: nobody else has such names.
                Some(link) if link.alias.is_none() && link.kind.as_deref() == Some("veth") => {
                    scene.host.delete_link(link.index).await?;
                    scene.host.create_veth(&spec).await
                }
                Some(_) => return Err(ApplyError::DeviceTaken(device.clone())),
                None => return Err(scene.taken(peer)),
            },
            made => made,
        };
        let index = made?;
        self.undo.push(Undo::DeleteLink(index));
        self.indexes.insert(Device::host(device), index);
        Ok(())
    }

    async fn create_vxlan(&mut self, device: &str, port: u16, mark: &str, scene: Scene<'_>) -> Result<(), ApplyError> {
        let made = match scene.host.create_vxlan(device, port, mark).await {
            Err(exists @ NetlinkError::Exists { .. }) => match scene.host.link_by_name(device).await? {
                // Not one of this name: another one that gets all that comes to the port.
                None => return Err(exists.into()),
                Some(link) if link.alias.as_deref() == Some(mark) => {
                    self.indexes.insert(Device::host(device), link.index);
                    return Ok(());
                }
                // Before its mark was on it there was a crash: nobody else has such names.
                Some(link) if link.alias.is_none() && link.kind.as_deref() == Some("vxlan") => {
                    scene.host.delete_link(link.index).await?;
                    scene.host.create_vxlan(device, port, mark).await
                }
                Some(_) => return Err(ApplyError::DeviceTaken(device.to_owned())),
            },
            made => made,
        };
        let index = made?;
        self.undo.push(Undo::DeleteLink(index));
        self.indexes.insert(Device::host(device), index);
        Ok(())
    }

    async fn guard_tunnels(&mut self, device: String, scene: Scene<'_>) -> Result<(), ApplyError> {
        let ifindex = self.index(&Device::host(&device), scene).await?;
        let datapath = scene.datapath.clone();
        Ok(tokio::task::spawn_blocking(move || datapath.guard_tunnels(Some((ifindex, &device)))).await??)
    }

    async fn add_port(&mut self, port: &PortStep, scene: Scene<'_>) -> Result<(), ApplyError> {
        let ifindex = self.index(&Device::host(&port.device), scene).await?;
        let egress_ifindex = self.index(&Device::host(&port.egress), scene).await?;
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
        let number = tokio::task::spawn_blocking(move || datapath.add_port(&spec)).await??;
        self.undo.push(Undo::RemovePort(number));
        self.port = Some((ifindex, number));
        Ok(())
    }

    async fn set_up(&mut self, device: &Device, scene: Scene<'_>) -> Result<(), ApplyError> {
        let netlink = scene.netlink(device.place);
        let link = netlink.link_by_name(&device.name).await?.ok_or_else(|| gone(device))?;
        self.indexes.insert(device.clone(), link.index);
        if !link.up {
            netlink.set_up(link.index).await?;
            self.undo.push(Undo::SetDown { device: device.clone(), index: link.index });
        }
        Ok(())
    }

    async fn index(&mut self, device: &Device, scene: Scene<'_>) -> Result<u32, ApplyError> {
        if let Some(index) = self.indexes.get(device) {
            return Ok(*index);
        }
        let link = scene.netlink(device.place).link_by_name(&device.name).await?.ok_or_else(|| gone(device))?;
        self.indexes.insert(device.clone(), link.index);
        Ok(link.index)
    }
}

impl<'a> Scene<'a> {
    fn netlink(self, place: Place) -> &'a Netlink {
        match (place, self.container) {
            (Place::Container, Some(container)) => &container.netlink,
            // A plan with steps in a container is given one.
            _ => self.host,
        }
    }

    fn netns(self, place: Place) -> Option<&'a Arc<Netns>> {
        self.container.filter(|_| place == Place::Container).map(|container| &container.netns)
    }

    fn taken(self, device: &Device) -> ApplyError {
        match self.container.filter(|_| device.place == Place::Container) {
            Some(container) => ApplyError::InterfaceTaken { name: device.name.clone(), netns: container.path.clone() },
            None => ApplyError::DeviceTaken(device.name.clone()),
        }
    }

    /// Runs something short that works on the namespace of its thread.
    async fn inside<T: Send + 'static>(
        self,
        place: Place,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApplyError> {
        let netns = self.netns(place).cloned();
        let run = move || match netns {
            Some(netns) => netns.enter(action),
            None => Ok(action()),
        };
        Ok(tokio::task::spawn_blocking(run).await??)
    }
}

async fn take_back(undo: Undo, scene: Scene<'_>) -> Result<(), ApplyError> {
    match undo {
        Undo::DeleteLink(index) => scene.host.delete_link(index).await?,
        Undo::Offloads { device, settings } => drop(set_offloads(device, settings, scene).await?),
        Undo::RemovePort(number) => {
            let datapath = scene.datapath.clone();
            tokio::task::spawn_blocking(move || datapath.remove_port(number)).await??;
        }
        Undo::Promiscuous { index, on } => scene.host.set_promiscuous(index, on).await?,
        Undo::HostRoute { index, address } => {
            scene.host.remove_device_route(index, IpNet::from(address)).await?;
            scene.host.remove_neighbor(index, address).await?;
        }
        Undo::SetDown { device, index } => scene.netlink(device.place).set_down(index).await?,
    }
    Ok(())
}

/// Sets offloads; returns those that were different before, as they were.
async fn set_offloads(
    device: Device,
    settings: Vec<(Offload, bool)>,
    scene: Scene<'_>,
) -> Result<Vec<(Offload, bool)>, ApplyError> {
    let place = device.place;
    let changed = scene
        .inside(place, move || {
            let mut before = Vec::new();
            for (offload, on) in settings {
                let was = ethtool::set(&device.name, feature(offload), on)?;
                if was != on {
                    before.push((offload, was));
                }
            }
            before.reverse();
            Ok::<_, EthtoolError>(before)
        })
        .await??;
    Ok(changed)
}

/// The kernel's side of an offload.
pub const fn feature(offload: Offload) -> Feature {
    match offload {
        Offload::Gro => Feature::Gro,
        Offload::TxChecksum => Feature::TxChecksum,
        Offload::Tso => Feature::Tso,
        Offload::TxVlan => Feature::TxVlan,
        Offload::RxVlan => Feature::RxVlan,
    }
}

/// Has the kernel send gratuitous ARP and unsolicited neighbor advertisements when the device comes up.
async fn announce(device: Device, scene: Scene<'_>) -> Result<(), ApplyError> {
    let place = device.place;
    let announce = move || {
        sysctl::write(&["net", "ipv4", "conf", &device.name, "arp_notify"], "1")?;
        unless_missing(sysctl::write(&["net", "ipv6", "conf", &device.name, "ndisc_notify"], "1"))
    };
    Ok(scene.inside(place, announce).await??)
}

async fn ipv6(device: Device, enable: Option<bool>, accept_ra: bool, scene: Scene<'_>) -> Result<(), ApplyError> {
    let place = device.place;
    let set = move || {
        let write = |name, value| sysctl::write(&["net", "ipv6", "conf", &device.name, name], value);
        // The switch knows the link-local address that goes with the MAC address, and takes another one for forged.
        unless_missing(write("addr_gen_mode", "0"))?;
        // 2: also where the container forwards, by which the kernel would take it for a router itself.
        unless_missing(write("accept_ra", if accept_ra { "2" } else { "0" }))?;
        match enable {
            // What is needed must be there: without it, the address would be refused with less to say.
            Some(true) => write("disable_ipv6", "0").map(drop),
            Some(false) => unless_missing(write("disable_ipv6", "1")),
            None => Ok(()),
        }
    };
    Ok(scene.inside(place, set).await??)
}

/// A kernel without IPv6 needs no telling.
fn unless_missing(written: Result<String, SysctlError>) -> Result<(), SysctlError> {
    match written {
        Err(error) if !error.is_missing() => Err(error),
        _ => Ok(()),
    }
}

/// Makes sure that a device passes frames. Carrier comes at once when both ends are up, but the queue drops everything
/// until the kernel has acted on it; from 6.8 on it does so before it answers this (facd15dfd691), and earlier kernels
/// treat it as urgent.
async fn check_carrier(device: &Device, index: u32, scene: Scene<'_>) -> Result<(), ApplyError> {
    let link = scene.netlink(device.place).link(index).await?.ok_or_else(|| gone(device))?;
    if link.running { Ok(()) } else { Err(ApplyError::NoCarrier(device.name.clone())) }
}

fn gone(device: &Device) -> ApplyError {
    ApplyError::DeviceGone(device.name.clone())
}
