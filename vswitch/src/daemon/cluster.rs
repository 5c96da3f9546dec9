//! Joining a cluster: who this host is there, and where its tunnels end.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::DaemonError;
use crate::cluster::{self, Cluster, ClusterError, Host};
use crate::kernel::netlink::Netlink;
use crate::model::{HostId, Instance, Peer, random_error};
use crate::switch::{Membership, SwitchError};
use crate::wireguard;

/// How long a host that knows its address waits for names to be resolved.
const RESOLVING: Duration = Duration::from_secs(5);

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
    /// Names without addresses.
    #[error("cannot resolve {name}: {message} (name etcd by its address, or see to /etc/hosts and /etc/resolv.conf)")]
    Unresolved {
        /// The name.
        name: String,
        /// Why not.
        message: String,
    },
    /// etcd, or its options.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl JoinError {
    /// The name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotOwn(_) | Self::NoAddress(_) => "invalid_advertise",
            Self::Unresolved { .. } => "cluster_unresolved",
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
    let directory = instance.state_directory();
    let (id_file, address_file) = (directory.join("host-id"), directory.join("host-address"));
    let (id, known) = host_id(&id_file).map_err(|source| DaemonError::File {
        action: "read or write",
        path: id_file.clone(),
        source,
    })?;
    // A host that is cut off has no way to etcd, and maybe not even its address yet.
    let recorded = if known { host_address(&address_file) } else { None };
    let address = match (options.advertise, recorded) {
        (Some(address), _) => address.to_canonical(),
        (None, None) => towards(&options.etcd).await?,
        (None, Some(recorded)) => match timeout(RESOLVING, towards(&options.etcd)).await {
            Ok(Ok(address)) => address,
            Ok(Err(_)) | Err(_) => recorded,
        },
    };
    // What cannot be a peer's to others.
    let usable = Peer::parse_address(&address.to_string()).is_ok();
    if !usable || !(own.contains(&address) || recorded == Some(address)) {
        return Err(JoinError::NotOwn(address).into());
    }
    // For encrypted networks, whoever creates the first.
    let key = wireguard::load_or_create(&instance.key_file()).map_err(SwitchError::from)?;
    let host = Host { id, name: host_name(), address, public_key: Some(key.public().to_string()) };
    let cluster = if known {
        Cluster::start(options.etcd.clone(), host.clone()).await
    } else {
        Cluster::connect(options.etcd.clone(), host.clone()).await
    };
    let cluster = cluster.map_err(JoinError::from)?;
    let write = |path: &Path, text: String| {
        fs::write(path, text).map_err(|source| DaemonError::File { action: "write", path: path.to_owned(), source })
    };
    if recorded != Some(address) {
        write(&address_file, format!("{address}\n"))?;
    }
    if !known {
        write(&id_file, format!("{id}\n"))?;
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

/// The address that this host was last known by in the cluster. Without one that can be read, it is found as at first.
fn host_address(file: &Path) -> Option<IpAddr> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The address by which this host reaches etcd.
async fn towards(etcd: &cluster::Options) -> Result<IpAddr, JoinError> {
    let text = etcd.to_string();
    let (mut resolved, mut unresolved) = (false, None);
    for member in text.split(',') {
        match lookup_host(member).await {
            Ok(mut addresses) => {
                if let Some(own) = addresses.find_map(way_to) {
                    return Ok(own);
                }
                resolved = true;
            }
            Err(error) => {
                let name = member.rsplit_once(':').map_or(member, |(name, _)| name).to_owned();
                unresolved = Some(JoinError::Unresolved { name, message: error.to_string() });
            }
        }
    }
    Err(unresolved.filter(|_| !resolved).unwrap_or(JoinError::NoAddress(text)))
}

/// The address that this host sends from to a member. Nothing is sent: connecting a UDP socket only asks for the route.
fn way_to(member: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if member.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(member).ok()?;
    let own = socket.local_addr().ok()?.ip().to_canonical();
    (!own.is_loopback()).then_some(own)
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
        assert_eq!(host_address(&file), None);
        fs::write(&file, "192.0.2.1\n").expect("written");
        assert_eq!(host_address(&file), Some([192, 0, 2, 1].into()));
    }
}
