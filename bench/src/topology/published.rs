//! A container that publishes ports of the host it is on, and somebody outside who uses them.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, bail};

use super::{Endpoint, SERVER, Variant, WIRE, required, wire};
use crate::{
    docker::Docker,
    instance::Instance,
    listening::Listening,
    measure::{
        connections::{self, Serve},
        iperf,
    },
    namespaces::{Netns, NetnsName},
};

/// iperf3's own port, and that of the server of connections.
const PORTS: [u16; 2] = [5201, connections::PORT];
const UPLINK: &str = "uplink";

/// Both servers run in a container; outside they are reached at the host's address.
pub struct Published {
    /// What is between the two.
    pub variant: Variant,
    /// Where the clients are.
    pub outside: NetnsName,
    /// The address that they use.
    pub address: Ipv4Addr,
    // Dropped in this order: servers, what connects them, and the namespaces that it works on.
    _servers: Vec<Listening>,
    _instance: Option<Instance>,
    _docker: Option<Docker>,
    _namespaces: Vec<Netns>,
}

impl Published {
    /// Builds it; the servers listen.
    pub fn build(variant: Variant, vswitch: Option<&Path>) -> Result<Self> {
        let published = match variant {
            Variant::Direct => direct(),
            Variant::Docker => docker(),
            Variant::Vswitch => through_vswitch(required(vswitch)?),
            _ => bail!("{} is not measured on published ports", variant.label()),
        };
        let published = published.with_context(|| format!("setting up {} with published ports", variant.label()))?;
        connections::prepare(&published.outside)?;
        Ok(published)
    }
}

/// A host with an uplink, and the namespace at the far end of it.
fn host(role: &str) -> Result<(Netns, Netns)> {
    let outside = Netns::create(&format!("{role}-out"))?;
    let host = Netns::create(&format!("{role}-host"))?;
    let far = wire(&host, &outside, UPLINK)?;
    let near = Endpoint::configure(&host, UPLINK, SERVER)?;
    host.ip(&format!("route add default via {WIRE}"))?;
    far.reach(&near)?;
    Ok((outside, host))
}

/// The servers run on the host itself: no container, no NAT.
fn direct() -> Result<Published> {
    let (outside, host) = host("pub-direct")?;
    Ok(Published {
        variant: Variant::Direct,
        outside: outside.name(),
        address: SERVER,
        _servers: servers_in(&host)?,
        _instance: None,
        _docker: None,
        _namespaces: vec![outside, host],
    })
}

fn through_vswitch(vswitch: &Path) -> Result<Published> {
    let container = Netns::create("pub-vswitch-c")?;
    let (outside, host) = host("pub-vswitch")?;
    let instance = Instance::up(vswitch, &host, &[])?;
    let [iperf, serve] = PORTS.map(|port| format!("{port}:{port}"));
    instance.attach(&container, &["-p", &iperf, "-p", &serve])?;
    Ok(Published {
        variant: Variant::Vswitch,
        outside: outside.name(),
        address: SERVER,
        _servers: servers_in(&container)?,
        _instance: Some(instance),
        _docker: None,
        _namespaces: vec![outside, host, container],
    })
}

fn docker() -> Result<Published> {
    let (outside, host) = host("pub-docker")?;
    let docker = Docker::start(&host)?;
    let this = std::env::current_exe()?;
    let image = docker.image(&["iperf3".as_ref(), &this])?;
    let [iperf, serve] = PORTS;
    let iperf = Listening::start(docker.run(&image, iperf, "iperf3")?.args(iperf::SERVER))?;
    let serve = Listening::start(docker.run(&image, serve, &this)?.args(Serve::arguments()))?;
    Ok(Published {
        variant: Variant::Docker,
        outside: outside.name(),
        address: SERVER,
        _servers: vec![iperf, serve],
        _instance: None,
        _docker: Some(docker),
        _namespaces: vec![outside, host],
    })
}

fn servers_in(netns: &NetnsName) -> Result<Vec<Listening>> {
    let mut serve = netns.command(std::env::current_exe()?);
    serve.args(Serve::arguments());
    Ok(vec![Listening::start(netns.command("iperf3").args(iperf::SERVER))?, Listening::start(&mut serve)?])
}
