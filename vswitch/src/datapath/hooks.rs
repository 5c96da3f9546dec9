//! The hooks and the programs on them. Programs are attached by pinned links, which outlive the
//! daemon.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use aya::programs::ProgramError;
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::sys::SyscallError;
use aya::util::KernelVersion;
use nix::errno::Errno;
use vswitch_common::tables::{Port, PortKind};
use vswitch_common::tail_call::TailCall;

use super::load::{Pins, pin_error, remove_pin};
use super::ports::PortTable;
use super::programs::Programs;
use super::{DatapathError, Mode};
use crate::kernel::clsact;

/// Priority and handle of our filter where tc has no links (clsact). They identify the filter for
/// replacement and removal.
const CLSACT: (u16, TcHandle) = (1, TcHandle::new(0, 0x7673));
/// Priority and handle of the underlay filter. The underlay device may be a port, too; the filter
/// of the port runs first.
const CLSACT_UNDERLAY: (u16, TcHandle) = (2, TcHandle::new(0, 0x7674));

/// Declares each hook once: its name, the name of its program in the object and of the program's
/// pin, and the programs that it calls, also through others.
macro_rules! hooks {
    ($($(#[doc = $doc:literal])* $hook:ident = $program:literal, [$($call:ident),*];)*) => {
        /// A place at which one of our programs runs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Hook {
            $($(#[doc = $doc])* $hook,)*
        }

        impl Hook {
            pub(super) const ALL: [Self; [$($program),*].len()] = [$(Self::$hook),*];

            /// Returns the name of the program in the object and of its pin.
            pub(super) const fn program(self) -> &'static str {
                match self {
                    $(Self::$hook => $program,)*
                }
            }

            /// Returns the programs that the hook's program calls, and those that they call.
            pub(super) const fn tail_calls(self) -> &'static [TailCall] {
                match self {
                    $(Self::$hook => &[$(TailCall::$call),*],)*
                }
            }
        }
    };
}

hooks! {
    Container = "from_container", [GuardedGroupFromContainer, GroupFromContainer, Carry];
    Host = "from_host", [GroupFromHost, Carry];
    Uplink = "from_uplink", [GroupFromUplink, Carry];
    Child = "from_child", [GuardedGroupFromChild, GroupFromChild, Carry];
    Parent = "from_parent", [GroupFromParent, Carry];
    /// Frames that leave by a parent.
    ParentOut = "to_parent", [Carry];
    /// Packets that leave the tunnel device.
    Tunnel = "from_tunnel", [GroupFromTunnel, Carry];
    /// Packets that arrive on a device that leads to peers, whether the device is a port or not.
    /// Tunnel packets pass on to a device that has another of the programs.
    Underlay = "from_underlay", [];
    /// Packets that leave the WireGuard device, which is no port.
    Wireguard = "from_wireguard", [];
    /// Packets that enter the WireGuard device.
    WireguardOut = "to_wireguard", [];
    /// Packets that arrive behind the receiver, which is no port.
    Receiver = "from_receiver", [];
    // An XDP program cannot call a classifier. It defers such frames to the tc program.
    ContainerXdp = "from_container_xdp", [];
    UplinkXdp = "from_uplink_xdp", [];
    ParentXdp = "from_parent_xdp", [];
}

impl Hook {
    /// Returns the tc hook of a kind of port.
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

    /// Returns the XDP hook of a kind of port. A host port has none, because packets that the host
    /// sends are sk_buffs from the start.
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

    /// Returns the side of the device on which a tc program runs.
    const fn side(self) -> TcAttachType {
        match self {
            Self::ParentOut | Self::WireguardOut => TcAttachType::Egress,
            _ => TcAttachType::Ingress,
        }
    }

    /// Returns the priority and handle of the hook's filter on clsact.
    const fn clsact(self) -> (u16, TcHandle) {
        match self {
            Self::Underlay => CLSACT_UNDERLAY,
            _ => CLSACT,
        }
    }

    /// Returns all hooks that a port of a kind may have.
    fn of(kind: PortKind) -> impl Iterator<Item = Self> {
        let out = (kind == PortKind::Parent).then_some(Self::ParentOut);
        [Some(Self::tc(kind)), out, Self::xdp(kind)].into_iter().flatten()
    }
}

/// The mechanism that attaches tc programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TcHook {
    /// Links, kernel 6.6 and newer (e420bed02507).
    Tcx,
    /// Filters of the clsact qdisc.
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

/// The hooks that serve each kind of port, in the wording of `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Container ports.
    pub container: String,
    /// Host ports.
    pub host: String,
    /// Uplinks whose driver supports XDP.
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

/// Attaches a tc program to its side of a device, or replaces the attached program.
pub(super) fn attach_tc(
    programs: &mut Programs,
    tc: TcHook,
    hook: Hook,
    device: &str,
    ifindex: u32,
    pins: &Pins<'_>,
) -> Result<(), DatapathError> {
    let pin = pins.link(ifindex, hook);
    let failed = |cause| {
        let cause = Box::new(cause);
        DatapathError::Attach { program: hook.program(), device: device.to_owned(), cause }
    };
    match tc {
        TcHook::Tcx => {
            if replace(programs, hook, &pin)? {
                return Ok(());
            }
            let program = programs.classifier(hook)?;
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options(device, hook.side(), order).map_err(failed)?;
            let link = program.take_link(id).map_err(failed)?;
            pin_link(FdLink::try_from(link), &pin)
        }
        TcHook::Clsact => {
            // Fails if the qdisc exists already. If the qdisc is missing for another reason,
            // attaching the filter returns the error.
            let _ = qdisc_add_clsact(device);
            let (priority, handle) = hook.clsact();
            let program = programs.classifier(hook)?;
            // A link to a filter that may not exist yet: attaching to the link creates or replaces
            // the filter.
            let filter = SchedClassifierLink::attached(device, hook.side(), priority, handle, None);
            let filter = filter.map_err(|error| failed(TcError::IoError(error).into()))?;
            let id = match program.attach_to_link(filter) {
                Ok(id) => id,
                Err(_) => {
                    let options = TcAttachOptions::Netlink(NlOptions { priority, handle, classid: None });
                    program.attach_with_options(device, hook.side(), options).map_err(failed)?
                }
            };
            // The filter must stay when the daemon exits. It has no kernel link, so nothing is
            // pinned.
            std::mem::forget(program.take_link(id).map_err(failed)?);
            Ok(())
        }
    }
}

/// Attaches an XDP program to a device in native mode, or replaces our attached program.
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
    let failed = |cause| {
        let cause = Box::new(cause);
        DatapathError::Attach { program: hook.program(), device: device.to_owned(), cause }
    };
    let program = programs.xdp(hook)?;
    let id = program.attach_to_if_index(ifindex, XdpMode::Driver).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    pin_link(FdLink::try_from(link), &pin)
}

/// Removes the egress program of a parent, if it is attached.
pub(super) fn detach_out(tc: TcHook, device: &str, ifindex: u32, pins: &Pins<'_>) -> Result<(), DatapathError> {
    if tc == TcHook::Clsact {
        let (priority, handle) = CLSACT;
        drop(SchedClassifierLink::attached(device, TcAttachType::Egress, priority, handle, None));
    }
    remove_pin(&pins.link(ifindex, Hook::ParentOut))
}

/// Removes our underlay program from a device, which may no longer exist.
pub(super) fn detach_underlay(ifindex: u32, pins: &Pins<'_>) -> Result<(), DatapathError> {
    remove_pin(&pins.link(ifindex, Hook::Underlay))?;
    release_underlay(ifindex);
    Ok(())
}

/// Removes the pinned links of these hooks, except those on `device`. The other devices no longer
/// exist; only the pins of their links are left.
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

/// Removes the underlay filter from a device where tc has no links (clsact), including the filter
/// of a daemon that died.
pub fn release_underlay(ifindex: u32) {
    if TcHook::of_this_kernel() == TcHook::Clsact {
        release(ifindex, CLSACT_UNDERLAY, &[TcAttachType::Ingress]);
    }
}

/// Removes our programs from a device, which may no longer exist.
pub(super) fn detach(tc: TcHook, kind: PortKind, ifindex: u32, pins: &Pins<'_>) -> Result<(), DatapathError> {
    for hook in Hook::of(kind) {
        remove_pin(&pins.link(ifindex, hook))?;
    }
    if tc == TcHook::Clsact {
        release_device(ifindex);
    }
    Ok(())
}

/// Removes the programs of another kind of port from a device that has those of `kind` now. With clsact
/// both are one filter, which has been replaced.
pub(super) fn detach_others(
    before: Option<PortKind>,
    kind: PortKind,
    ifindex: u32,
    pins: &Pins<'_>,
) -> Result<(), DatapathError> {
    let stay: Vec<Hook> = Hook::of(kind).collect();
    let gone = before.into_iter().flat_map(Hook::of).filter(|hook| !stay.contains(hook));
    gone.into_iter().try_for_each(|hook| remove_pin(&pins.link(ifindex, hook)))
}

/// Removes our filters from a device that uses clsact, and the clsact qdisc if it is empty then.
/// Does nothing with tcx, where links disappear with their pins. Also removes the filters that a
/// dead daemon left on an interface that stays.
pub fn release_device(ifindex: u32) {
    if TcHook::of_this_kernel() != TcHook::Clsact {
        return;
    }
    release(ifindex, CLSACT, &[TcAttachType::Ingress, TcAttachType::Egress]);
}

fn release(ifindex: u32, (priority, handle): (u16, TcHandle), sides: &[TcAttachType]) {
    let Ok(name) = nix::net::if_::if_indextoname(ifindex) else { return };
    let Ok(device) = name.to_str() else { return };
    // Dropping the link removes the filter. An error means that the filter no longer exists.
    for side in sides {
        drop(SchedClassifierLink::attached(device, *side, priority, handle, None));
    }
    if let Err(error) = clsact::remove_if_empty(ifindex) {
        tracing::warn!("clsact stays on {device}: {error}");
    }
}

/// Returns the hooks on which an earlier daemon left programs.
pub(super) fn in_use(tc: TcHook, pins: &Pins<'_>, ports: &PortTable) -> Result<Vec<Hook>, DatapathError> {
    let mut names = BTreeSet::new();
    let links = std::fs::read_dir(pins.links()).map_err(|error| pin_error(&pins.links(), &error))?;
    for link in links.flatten() {
        if let Some((_, program)) = link.file_name().to_str().and_then(|name| name.split_once('-')) {
            names.insert(program.to_owned());
        }
    }
    // clsact has no links to list, so the hooks follow from the kinds of the ports.
    let kinds: Vec<PortKind> =
        ports.iter().filter(|_| tc == TcHook::Clsact).filter_map(|(_, port)| port.kind()).collect();
    let on_ports = |hook: &Hook| !hook.is_xdp() && kinds.iter().any(|kind| Hook::of(*kind).any(|of| of == *hook));
    Ok(Hook::ALL.into_iter().filter(|hook| names.contains(hook.program()) || on_ports(hook)).collect())
}

/// Replaces the programs of an earlier daemon with those of this daemon, on every port.
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
            // The kernel removes a namespace in the background. An error is ignored if the device
            // disappeared meanwhile, because its port is about to be removed.
            let there = nix::net::if_::if_nametoindex(device) == Ok(port.ifindex);
            attached.or_else(|error| if there { Err(error) } else { Ok(()) })?;
        }
    }
    Ok(())
}

/// Replaces the programs of an earlier daemon on the devices that lead to peers, behind the
/// receiver and on the tunnel device, as far as pinned links identify these devices. Returns the
/// devices that lead to peers. The tunnel device has its program with or without tunnels.
pub(super) fn replace_on_underlay(programs: &mut Programs, pins: &Pins<'_>) -> Result<BTreeSet<u32>, DatapathError> {
    let mut devices = BTreeSet::new();
    let links = std::fs::read_dir(pins.links()).map_err(|error| pin_error(&pins.links(), &error))?;
    let mut ours = Vec::new();
    for link in links.flatten() {
        let name = link.file_name();
        let Some((device, program)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
        // In this order: the program at the tunnel device asks for the mark that those of the underlay
        // set.
        let order = [Hook::Underlay, Hook::Receiver, Hook::Tunnel];
        let Some(place) = order.iter().position(|hook| hook.program() == program) else { continue };
        if let Ok(ifindex) = device.parse::<u32>() {
            ours.push((place, order[place], ifindex, link.path()));
        }
    }
    ours.sort_unstable();
    for (_, hook, ifindex, path) in ours {
        if replace(programs, hook, &path)? && hook == Hook::Underlay {
            devices.insert(ifindex);
        }
    }
    Ok(devices)
}

/// Replaces the program of a pinned link. Returns false if no link exists. A pin whose device no
/// longer exists is removed. If the kernel refuses the replacement for another reason, the link and
/// the old program stay: a device must not be without a program.
fn replace(programs: &mut Programs, hook: Hook, pin: &Path) -> Result<bool, DatapathError> {
    let pinned = match PinnedLink::from_pin(pin) {
        Ok(pinned) => FdLink::from(pinned),
        Err(LinkError::SyscallError(SyscallError { io_error, .. })) if io_error.kind() == ErrorKind::NotFound => {
            return Ok(false);
        }
        Err(error) => return Err(DatapathError::Pin { path: pin.to_owned(), message: error.to_string() }),
    };
    let unusable = |error: LinkError| DatapathError::Pin {
        path: pin.to_owned(),
        message: format!("{error} (the earlier program stays)"),
    };
    // The links taken out of the program here stay attached, because the pin holds them.
    let replaced = if hook.is_xdp() {
        let program = programs.xdp(hook)?;
        let link = XdpLink::try_from(pinned).map_err(unusable)?;
        program.attach_to_link(link).and_then(|id| program.take_link(id)).map(drop)
    } else {
        let program = programs.classifier(hook)?;
        let link = SchedClassifierLink::try_from(pinned).map_err(unusable)?;
        program.attach_to_link(link).and_then(|id| program.take_link(id)).map(drop)
    };
    match replaced {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => remove_pin(pin).map(|()| false),
        Err(cause) => {
            let cause = Box::new(cause);
            Err(DatapathError::Replace { program: hook.program(), pin: pin.to_owned(), cause })
        }
    }
}

/// Returns whether a link cannot be updated because its device no longer exists: the kernel has taken
/// the program off with the device (ENOLINK). The index may belong to another device now.
fn is_gone(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(SyscallError { io_error, .. }) = error else { return false };
    io_error.raw_os_error() == Some(Errno::ENOLINK as i32)
}

fn pin_link<E: std::fmt::Display>(link: Result<FdLink, E>, pin: &Path) -> Result<(), DatapathError> {
    let failed = |message: String| DatapathError::Pin { path: pin.to_owned(), message };
    let link = link.map_err(|error| failed(error.to_string()))?;
    link.pin(pin).map(drop).map_err(|error| failed(error.to_string()))
}
