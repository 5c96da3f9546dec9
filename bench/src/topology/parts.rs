//! Parts that several topologies share: addresses and wires.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};

use crate::{command, endpoint::Endpoint, namespaces::NetnsName};

/// Address of the sending container.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Address of the receiving container.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
/// Address of the far end of a wire.
pub(super) const WIRE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 250);

/// Returns the path of the vswitch binary. Fails if there is none.
pub(super) fn require_binary(vswitch: Option<&Path>) -> Result<&Path> {
    vswitch.context("this variant requires a vswitch binary (use --vswitch PATH)")
}

/// Turns off checksum offload at the far end of a wire. A veth passes on unfinished checksums,
/// which XDP cannot finish. A physical wire never carries them.
pub(super) fn disable_checksum_offload(far: &NetnsName) -> Result<()> {
    command::run(far.command("ethtool").args(["-K", "wire0", "tx", "off"]))?;
    Ok(())
}

/// Creates a wire with the near end `ifname` in `host`. Returns its far end.
pub(super) fn create_wire(host: &NetnsName, far: &NetnsName, ifname: &str) -> Result<Endpoint> {
    host.ip(&format!("link add {ifname} type veth peer name wire0 netns {far}"))?;
    host.ip(&format!("link set {ifname} up"))?;
    Endpoint::configure(far, "wire0", WIRE)
}
