//! A container that publishes ports of its host, and clients outside that use them.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, bail};

use super::{
    parts::{SERVER, WIRE, create_wire, require_binary},
    variant::Variant,
};
use crate::{
    docker::Docker,
    endpoint::Endpoint,
    instance::Instance,
    listening::{IPERF3_SERVER, ListeningServer},
    namespaces::{Netns, NetnsName},
    serve::{self, Serve},
};

/// The ports of iperf3 and of the connection server.
const PORTS: [u16; 2] = [5201, serve::PORT];
const UPLINK: &str = "uplink";

/// Two servers in a container, which are reached from outside at the address of the host.
pub struct Published {
    /// The connection between clients and servers.
    pub variant: Variant,
    /// The namespace of the clients.
    pub outside: NetnsName,
    /// The address that the clients use.
    pub address: Ipv4Addr,
    // Dropped in this order: servers, the switch, and the namespaces that it works on.
    _servers: Vec<ListeningServer>,
    _instance: Option<Instance>,
    _docker: Option<Docker>,
    _namespaces: Vec<Netns>,
}

impl Published {
    /// Builds the connection and starts the servers.
    pub fn build(variant: Variant, vswitch: Option<&Path>) -> Result<Self> {
        let published = match variant {
            Variant::Direct => direct(),
            Variant::Docker => through_docker(),
            Variant::Vswitch => through_vswitch(require_binary(vswitch)?),
            _ => bail!("{} is not measured with published ports", variant.label()),
        };
        published.with_context(|| format!("setting up {} with published ports", variant.label()))
    }
}

/// Creates a host with an uplink, and the namespace at the far end of the uplink.
fn create_host(role: &str) -> Result<(Netns, Netns)> {
    let outside = Netns::create(&format!("{role}-out"))?;
    let host = Netns::create(&format!("{role}-host"))?;
    let far = create_wire(&host, &outside, UPLINK)?;
    let near = Endpoint::configure(&host, UPLINK, SERVER)?;
    host.ip(&format!("route add default via {WIRE}"))?;
    far.reach(&near)?;
    Ok((outside, host))
}

/// Runs the servers on the host itself, without container and NAT.
fn direct() -> Result<Published> {
    let (outside, host) = create_host("pub-direct")?;
    Ok(Published {
        variant: Variant::Direct,
        outside: outside.name(),
        address: SERVER,
        _servers: start_servers(&host)?,
        _instance: None,
        _docker: None,
        _namespaces: vec![outside, host],
    })
}

fn through_vswitch(vswitch: &Path) -> Result<Published> {
    let container = Netns::create("pub-vswitch-c")?;
    let (outside, host) = create_host("pub-vswitch")?;
    let instance = Instance::up(vswitch, &host, &[])?;
    let [iperf, serve] = PORTS.map(|port| format!("{port}:{port}"));
    instance.attach(&container, &["-p", &iperf, "-p", &serve])?;
    Ok(Published {
        variant: Variant::Vswitch,
        outside: outside.name(),
        address: SERVER,
        _servers: start_servers(&container)?,
        _instance: Some(instance),
        _docker: None,
        _namespaces: vec![outside, host, container],
    })
}

fn through_docker() -> Result<Published> {
    let (outside, host) = create_host("pub-docker")?;
    let docker = Docker::start(&host)?;
    let this = std::env::current_exe()?;
    let image = docker.image(&["iperf3".as_ref(), &this])?;
    let [iperf, serve] = PORTS;
    let iperf = ListeningServer::start(docker.run(&image, iperf, "iperf3")?.args(IPERF3_SERVER))?;
    let serve = ListeningServer::start(docker.run(&image, serve, &this)?.args(Serve::arguments()))?;
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

fn start_servers(netns: &NetnsName) -> Result<Vec<ListeningServer>> {
    let mut serve = netns.command(std::env::current_exe()?);
    serve.args(Serve::arguments());
    Ok(vec![ListeningServer::start(netns.command("iperf3").args(IPERF3_SERVER))?, ListeningServer::start(&mut serve)?])
}
