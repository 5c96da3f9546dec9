//! Hooks: which program sits where, attached by links that are pinned and so outlive the daemon.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::sys::SyscallError;
use aya::util::KernelVersion;
use vswitch_common::tables::{Port, PortKind};

use super::load::{Pins, pin_error, remove_pin};
use super::ports::PortTable;
use super::programs::Programs;
use super::{DatapathError, Mode};
use crate::kernel::clsact;

/// Priority and handle of our filter where tc has no links (clsact): they name it for replacement and removal.
const CLSACT: (u16, TcHandle) = (1, TcHandle::new(0, 0x7673));
/// The same of the one on the underlay, whose device may be a port, too: that one is asked first.
const CLSACT_UNDERLAY: (u16, TcHandle) = (2, TcHandle::new(0, 0x7674));

/// A place where a program of ours runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Container,
    Host,
    Uplink,
    Child,
    Parent,
    /// What leaves by a parent.
    ParentOut,
    /// What comes out of the tunnel.
    Tunnel,
    /// What arrives on a device that leads to peers, which is no port.
    Underlay,
    /// What comes out of WireGuard, at its device, which is no port.
    Wireguard,
    /// What is to go into it.
    WireguardOut,
    /// What arrives behind the receiver, which is no port.
    Receiver,
    ContainerXdp,
    UplinkXdp,
    ParentXdp,
}

impl Hook {
    pub(super) const ALL: [Self; 14] = [
        Self::Container,
        Self::Host,
        Self::Uplink,
        Self::Child,
        Self::Parent,
        Self::ParentOut,
        Self::Tunnel,
        Self::Underlay,
        Self::Wireguard,
        Self::WireguardOut,
        Self::Receiver,
        Self::ContainerXdp,
        Self::UplinkXdp,
        Self::ParentXdp,
    ];

    /// The program's name in the object, and of its pin.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Container => "from_container",
            Self::Host => "from_host",
            Self::Uplink => "from_uplink",
            Self::Child => "from_child",
            Self::Parent => "from_parent",
            Self::ParentOut => "to_parent",
            Self::Tunnel => "from_tunnel",
            Self::Underlay => "from_underlay",
            Self::Wireguard => "from_wireguard",
            Self::WireguardOut => "to_wireguard",
            Self::Receiver => "from_receiver",
            Self::ContainerXdp => "from_container_xdp",
            Self::UplinkXdp => "from_uplink_xdp",
            Self::ParentXdp => "from_parent_xdp",
        }
    }

    /// The tc program of a kind of port.
    pub(super) const fn tc(kind: PortKind) -> Self {
        match kind {
            PortKind::Container => Self::Container,
            PortKind::Host => Self::Host,
            PortKind::Uplink => Self::Uplink,
            PortKind::Parent => Self::Parent,
            PortKind::Child => Self::Child,
            PortKind::Tunnel => Self::Tunnel,
        }
    }

    /// The XDP program of a kind of port; what the host sends has never been a bare frame.
    pub(super) const fn xdp(kind: PortKind) -> Option<Self> {
        match kind {
            PortKind::Container => Some(Self::ContainerXdp),
            PortKind::Uplink => Some(Self::UplinkXdp),
            PortKind::Parent => Some(Self::ParentXdp),
            PortKind::Host | PortKind::Child | PortKind::Tunnel => None,
        }
    }

    pub(super) const fn is_xdp(self) -> bool {
        matches!(self, Self::ContainerXdp | Self::UplinkXdp | Self::ParentXdp)
    }

    /// On which side of the device a tc program is.
    const fn side(self) -> TcAttachType {
        match self {
            Self::ParentOut | Self::WireguardOut => TcAttachType::Egress,
            _ => TcAttachType::Ingress,
        }
    }

    /// What names its filter on clsact.
    const fn clsact(self) -> (u16, TcHandle) {
        match self {
            Self::Underlay => CLSACT_UNDERLAY,
            _ => CLSACT,
        }
    }

    /// All that a port of a kind may have.
    fn of(kind: PortKind) -> impl Iterator<Item = Self> {
        let out = (kind == PortKind::Parent).then_some(Self::ParentOut);
        [Some(Self::tc(kind)), out, Self::xdp(kind)].into_iter().flatten()
    }
}

/// How tc programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TcHook {
    /// By links, kernel 6.6 and newer (e420bed02507).
    Tcx,
    /// As filters of the clsact qdisc.
    Clsact,
}

impl TcHook {
    pub(super) fn of_this_kernel() -> Self {
        match KernelVersion::current() {
            Ok(version) if version < KernelVersion::new(6, 6, 0) => Self::Clsact,
            _ => Self::Tcx,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Which hooks serve each kind of port, in the words of `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Container ports.
    pub container: String,
    /// The host's ports.
    pub host: String,
    /// Uplinks, where the driver has XDP.
    pub uplink: String,
}

impl Hooks {
    pub(super) fn of(mode: Mode, tc: TcHook) -> Self {
        let tc = tc.name().to_owned();
        let both = format!("xdp+{tc}");
        match mode {
            Mode::Auto => Self { container: tc.clone(), host: tc, uplink: both },
            Mode::Tc => Self { container: tc.clone(), host: tc.clone(), uplink: tc },
            Mode::Xdp => Self { container: both.clone(), host: tc, uplink: both },
        }
    }
}

/// Attaches a tc program to its side of a device, or puts it in the place of the one that is there.
pub(super) fn attach_tc(
    programs: &mut Programs,
    tc: TcHook,
    hook: Hook,
    device: &str,
    ifindex: u32,
    pins: &Pins<'_>,
) -> Result<(), DatapathError> {
    let pin = pins.link(ifindex, hook);
    let failed = |cause| DatapathError::Attach { program: hook.program(), device: device.to_owned(), cause };
    match tc {
        TcHook::Tcx => {
            if replace(programs, hook, &pin)? {
                return Ok(());
            }
            let program = programs.classifier(hook);
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options(device, hook.side(), order).map_err(failed)?;
            let link = program.take_link(id).map_err(failed)?;
            pin_link(FdLink::try_from(link), &pin)
        }
        TcHook::Clsact => {
            // Fails where the qdisc is there already; without it, attaching says what is wrong.
            let _ = qdisc_add_clsact(device);
            let (priority, handle) = hook.clsact();
            let program = programs.classifier(hook);
            // A link to a filter that may not exist yet: attaching to it makes or replaces the filter.
            let filter = SchedClassifierLink::attached(device, hook.side(), priority, handle, None);
            let filter = filter.map_err(|error| failed(TcError::IoError(error).into()))?;
            let id = match program.attach_to_link(filter) {
                Ok(id) => id,
                Err(_) => {
                    let options = TcAttachOptions::Netlink(NlOptions { priority, handle, classid: None });
                    program.attach_with_options(device, hook.side(), options).map_err(failed)?
                }
            };
            // The filter stays when we go: no link of the kernel's, and nothing to pin.
            std::mem::forget(program.take_link(id).map_err(failed)?);
            Ok(())
        }
    }
}

/// Attaches an XDP program to a device in native mode, or puts it in the place of our own that is there.
pub(super) fn attach_xdp(
    programs: &mut Programs,
    hook: Hook,
    device: &str,
    ifindex: u32,
    pins: &Pins<'_>,
) -> Result<(), DatapathError> {
    let pin = pins.link(ifindex, hook);
    if replace(programs, hook, &pin)? {
        return Ok(());
    }
    let failed = |cause| DatapathError::Attach { program: hook.program(), device: device.to_owned(), cause };
    let program = programs.xdp(hook);
    let id = program.attach_to_if_index(ifindex, XdpMode::Driver).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    pin_link(FdLink::try_from(link), &pin)
}

/// Takes the program off that looks at what leaves by a parent, if it is there.
pub(super) fn detach_out(tc: TcHook, device: &str, ifindex: u32, pins: &Pins<'_>) -> Result<(), DatapathError> {
    if tc == TcHook::Clsact {
        let (priority, handle) = CLSACT;
        drop(SchedClassifierLink::attached(device, TcAttachType::Egress, priority, handle, None));
    }
    remove_pin(&pins.link(ifindex, Hook::ParentOut))
}

/// Takes our program for the underlay off a device, which may be gone already.
pub(super) fn detach_underlay(ifindex: u32, pins: &Pins<'_>) -> Result<(), DatapathError> {
    remove_pin(&pins.link(ifindex, Hook::Underlay))?;
    release_underlay(ifindex);
    Ok(())
}

/// Forgets these programs of ours, but for those at one device: the others are gone, and took them with them but for the pins
/// of their links.
pub(super) fn forget(hooks: &[Hook], device: Option<u32>, pins: &Pins<'_>) -> Result<(), DatapathError> {
    let links = std::fs::read_dir(pins.links()).map_err(|error| pin_error(&pins.links(), &error))?;
    for link in links.flatten() {
        let name = link.file_name();
        let Some((ifindex, hook)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
        let ours = hooks.iter().any(|of| of.program() == hook);
        if ours && (device.is_none() || ifindex.parse().ok() != device) {
            remove_pin(&link.path())?;
        }
    }
    Ok(())
}

/// The same where tc has no links, also for what a daemon that died has left.
pub fn release_underlay(ifindex: u32) {
    if TcHook::of_this_kernel() == TcHook::Clsact {
        release(ifindex, CLSACT_UNDERLAY, &[TcAttachType::Ingress]);
    }
}

/// Takes our programs off a device, which may be gone already.
pub(super) fn detach(tc: TcHook, kind: PortKind, ifindex: u32, pins: &Pins<'_>) -> Result<(), DatapathError> {
    for hook in Hook::of(kind) {
        remove_pin(&pins.link(ifindex, hook))?;
    }
    if tc == TcHook::Clsact {
        release_device(ifindex);
    }
    Ok(())
}

/// Takes our filter off a device where it hangs on clsact, and clsact with it if it is empty then. With tcx there is
/// nothing to do: links go with their pins. Also for what a daemon that died has left on an interface that stays.
pub fn release_device(ifindex: u32) {
    if TcHook::of_this_kernel() != TcHook::Clsact {
        return;
    }
    release(ifindex, CLSACT, &[TcAttachType::Ingress, TcAttachType::Egress]);
}

fn release(ifindex: u32, (priority, handle): (u16, TcHandle), sides: &[TcAttachType]) {
    let Ok(name) = nix::net::if_::if_indextoname(ifindex) else { return };
    let Ok(device) = name.to_str() else { return };
    // Dropping the link removes the filter; an error means that it is gone.
    for side in sides {
        drop(SchedClassifierLink::attached(device, *side, priority, handle, None));
    }
    if let Err(error) = clsact::remove_if_empty(ifindex) {
        tracing::warn!("clsact stays on {device}: {error}");
    }
}

/// Puts the programs just loaded in the place of an earlier daemon's, on every port.
pub(super) fn replace_programs(
    programs: &mut Programs,
    tc: TcHook,
    pins: &Pins<'_>,
    ports: &PortTable,
) -> Result<(), DatapathError> {
    for (port, kind) in ports.iter().filter_map(|(_, port)| Some((port, port.kind()?))) {
        for hook in Hook::of(kind).filter(|hook| hook.is_xdp() || tc == TcHook::Tcx) {
            replace(programs, hook, &pins.link(port.ifindex, hook))?;
        }
        if tc == TcHook::Clsact
            && let Ok(device) = nix::net::if_::if_indextoname(port.ifindex)
            && let Ok(device) = device.to_str()
        {
            let hooks = Hook::of(kind).filter(|hook| !hook.is_xdp());
            let mut hooks = hooks.filter(|hook| *hook != Hook::ParentOut || port.has(Port::HOST_ACCESS));
            let attached = hooks.try_for_each(|hook| attach_tc(programs, tc, hook, device, port.ifindex, pins));
            // A namespace is taken down in the background: a device that goes meanwhile is no port for long.
            let there = nix::net::if_::if_nametoindex(device) == Ok(port.ifindex);
            attached.or_else(|error| if there { Err(error) } else { Ok(()) })?;
        }
    }
    Ok(())
}

/// The same on the devices that lead to peers, as far as links tell which they are: returns them. And behind the receiver, and
/// on the tunnels' device, which has it whether there are tunnels or not.
pub(super) fn replace_on_underlay(programs: &mut Programs, pins: &Pins<'_>) -> Result<BTreeSet<u32>, DatapathError> {
    let mut devices = BTreeSet::new();
    let links = std::fs::read_dir(pins.links()).map_err(|error| pin_error(&pins.links(), &error))?;
    for link in links.flatten() {
        let name = link.file_name();
        let Some((device, program)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
        let ours = [Hook::Underlay, Hook::Receiver, Hook::Tunnel];
        let Some(hook) = ours.into_iter().find(|hook| hook.program() == program) else { continue };
        if let Ok(ifindex) = device.parse()
            && replace(programs, hook, &link.path())?
            && hook == Hook::Underlay
        {
            devices.insert(ifindex);
        }
    }
    Ok(devices)
}

/// Puts our program into a pinned link. False if there is none; one whose device is gone is removed.
fn replace(programs: &mut Programs, hook: Hook, pin: &Path) -> Result<bool, DatapathError> {
    let pinned = match PinnedLink::from_pin(pin) {
        Ok(pinned) => FdLink::from(pinned),
        Err(LinkError::SyscallError(SyscallError { io_error, .. })) if io_error.kind() == ErrorKind::NotFound => {
            return Ok(false);
        }
        Err(error) => return Err(DatapathError::Pin { path: pin.to_owned(), message: error.to_string() }),
    };
    // The links that we take back out here stay attached: the pin holds them.
    let replaced = if hook.is_xdp() {
        let program = programs.xdp(hook);
        XdpLink::try_from(pinned).map_err(|_| ()).and_then(|link| {
            program.attach_to_link(link).and_then(|id| program.take_link(id)).map(drop).map_err(|_| ())
        })
    } else {
        let program = programs.classifier(hook);
        SchedClassifierLink::try_from(pinned).map_err(|_| ()).and_then(|link| {
            program.attach_to_link(link).and_then(|id| program.take_link(id)).map(drop).map_err(|_| ())
        })
    };
    if replaced.is_err() {
        // ENOLINK: its device is gone, or another by now.
        remove_pin(pin)?;
    }
    Ok(replaced.is_ok())
}

fn pin_link<E: std::fmt::Display>(link: Result<FdLink, E>, pin: &Path) -> Result<(), DatapathError> {
    let failed = |message: String| DatapathError::Pin { path: pin.to_owned(), message };
    let link = link.map_err(|error| failed(error.to_string()))?;
    link.pin(pin).map(drop).map_err(|error| failed(error.to_string()))
}
