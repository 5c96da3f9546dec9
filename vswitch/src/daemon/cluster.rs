//! Joining a cluster: who this host is there, and where its tunnels end.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::Path;

use super::DaemonError;
use crate::cluster::{self, Cluster, ClusterError, Host};
use crate::kernel::netlink::Netlink;
use crate::model::{HostId, Instance, Peer, random_error};
use crate::switch::{Membership, SwitchError};
use crate::wireguard;

/// The cluster that `up --cluster` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Where etcd is, and how this host makes itself known there.
    pub etcd: cluster::Options,
    /// The address of this host that the others send to; the one by which it reaches etcd, if none is given.
    pub advertise: Option<IpAddr>,
}

/// Why this host is in no cluster.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Not an address of this host.
    #[error(
        "{0} is no address of this host (--advertise takes the one that the other hosts reach it by; `ip address` shows those there are)"
    )]
    NotOwn(IpAddr),
    /// No address that other hosts could reach.
    #[error(
        "no address of this host leads to etcd at {0} (name the one that the other hosts reach it by with --advertise)"
    )]
    NoAddress(String),
    /// etcd, or its options.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl JoinError {
    /// The name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotOwn(_) | Self::NoAddress(_) => "invalid_advertise",
            Self::Cluster(error) => error.code(),
        }
    }
}

/// Joins. A host that was in the cluster before starts whether etcd answers or not: what it has goes on.
///
/// # Errors
/// [`JoinError`], or what cannot be read or written.
pub async fn join(options: &ClusterOptions, instance: &Instance, netlink: &Netlink) -> Result<Membership, DaemonError> {
    let own: Vec<IpAddr> = netlink.addresses(None).await?.into_iter().map(|(_, address)| address.addr()).collect();
    let address = match options.advertise {
        Some(address) => address.to_canonical(),
        None => towards(&options.etcd).ok_or_else(|| JoinError::NoAddress(options.etcd.to_string()))?,
    };
    // What cannot be a peer's to others.
    let usable = Peer::parse_address(&address.to_string()).is_ok() && own.contains(&address);
    if !usable {
        return Err(JoinError::NotOwn(address).into());
    }
    let file = instance.state_directory().join("host-id");
    let (id, known) =
        host_id(&file).map_err(|source| DaemonError::File { action: "read or write", path: file.clone(), source })?;
    // For encrypted networks, whoever creates the first.
    let key = wireguard::load_or_create(&instance.key_file()).map_err(SwitchError::from)?;
    let host = Host { id, name: host_name(), address, public_key: Some(key.public().to_string()) };
    let cluster = if known {
        Cluster::start(options.etcd.clone(), host.clone()).await
    } else {
        Cluster::connect(options.etcd.clone(), host.clone()).await
    };
    let cluster = cluster.map_err(JoinError::from)?;
    if !known {
        fs::write(&file, format!("{id}\n")).map_err(|source| DaemonError::File {
            action: "write",
            path: file,
            source,
        })?;
    }
    Ok(Membership::new(cluster, host))
}

/// The id that this host has had since it was first in a cluster, or a new one; and whether it is the former.
fn host_id(file: &Path) -> io::Result<(HostId, bool)> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    match fs::read_to_string(file) {
        Ok(text) => Ok((text.trim().parse().map_err(|_| invalid("it holds no id".to_owned()))?, true)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok((HostId::random().map_err(|error| invalid(random_error(&error)))?, false))
        }
        Err(error) => Err(error),
    }
}

/// What people call this host.
fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "unnamed".to_owned())
}

/// The address by which this host reaches etcd. Nothing is sent: connecting a UDP socket only asks for the route.
fn towards(etcd: &cluster::Options) -> Option<IpAddr> {
    let text = etcd.to_string();
    let mut members = text.split(',').filter_map(|member| member.to_socket_addrs().ok()).flatten();
    members.find_map(|member: SocketAddr| {
        let any: SocketAddr = if member.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(member).ok()?;
        let own = socket.local_addr().ok()?.ip().to_canonical();
        (!own.is_loopback()).then_some(own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_and_nonsense_is_no_id() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("host-id");
        let (id, known) = host_id(&file).expect("a new one");
        assert!(!known);
        fs::write(&file, format!("{id}\n")).expect("written");
        assert_eq!(host_id(&file).expect("the same"), (id, true));
        fs::write(&file, "x").expect("written");
        assert!(host_id(&file).is_err());
    }
}
