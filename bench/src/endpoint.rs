//! One end of a measured connection.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use crate::{command, namespaces::NetnsName};

/// One end of a connection: a device with an address in a namespace.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The namespace of the device.
    pub netns: NetnsName,
    /// The name of the device.
    pub ifname: String,
    /// The address of the device.
    pub ipv4: Ipv4Addr,
}

impl Endpoint {
    /// Assigns an address to a device in the namespace and brings it up.
    pub fn configure(netns: &NetnsName, ifname: &str, ipv4: Ipv4Addr) -> Result<Self> {
        netns.ip(&format!("address add {ipv4}/24 dev {ifname}"))?;
        netns.ip(&format!("link set {ifname} up"))?;
        Ok(Self { netns: netns.clone(), ifname: ifname.to_owned(), ipv4 })
    }

    /// Pings the other end, which also fills neighbor tables and FDBs. Fails if there is no reply.
    pub fn reach(&self, other: &Self) -> Result<()> {
        let mut ping = self.netns.command("ping");
        ping.args(["-n", "-q", "-c", "3", "-i", "0.2", "-W", "2"]).arg(other.ipv4.to_string());
        command::run(&mut ping).with_context(|| format!("{} does not reach {}", self.ipv4, other.ipv4))?;
        Ok(())
    }
}
