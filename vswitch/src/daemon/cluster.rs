//! Joining a cluster: the identity of this host, and the address that its tunnels end at.

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

/// The longest time that a host with a known address waits for the resolution of names.
const RESOLVING: Duration = Duration::from_secs(5);

/// The options of `up --cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The addresses of etcd, and the credentials.
    pub etcd: cluster::Options,
}

/// The reason why this host could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The address is none of this host's.
    #[error(
        "{0} is no address of this host (--advertise takes the one that the other hosts reach it by; `ip address` shows those there are)"
    )]
    NotOwn(IpAddr),
    /// The host has no address that other hosts can reach.
    #[error(
        "no address of this host leads to etcd at {0} (name the one that the other hosts reach it by with --advertise)"
    )]
    NoAddress(String),
    /// A name of etcd cannot be resolved.
    #[error("cannot resolve {name}: {message} (name etcd by its address, or see to /etc/hosts and /etc/resolv.conf)")]
    Unresolved {
        /// The name.
        name: String,
        /// The error.
        message: String,
    },
    /// etcd, or its options.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl JoinError {
    /// Returns the stable code of the error for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotOwn(_) | Self::NoAddress(_) => "invalid_advertise",
            Self::Unresolved { .. } => "cluster_unresolved",
            Self::Cluster(error) => error.code(),
        }
    }
}

/// Returns the source address of the tunnels of a host without a cluster. An address that the host
/// had at an earlier start may come back, so the daemon starts without it.
///
/// # Errors
/// [`JoinError::NotOwn`], or a file cannot be written.
pub async fn advertised(
    advertise: Option<IpAddr>,
    instance: &Instance,
    netlink: &Netlink,
) -> Result<Option<IpAddr>, DaemonError> {
    let Some(address) = advertise.map(|address| address.to_canonical()) else { return Ok(None) };
    let file = instance.state_directory().join("host-address");
    let recorded = host_address(&file);
    check_own(address, recorded, netlink).await?;
    record_address(&file, address, recorded)?;
    Ok(Some(address))
}

/// Checks that other hosts can send to an address of this host.
async fn check_own(address: IpAddr, recorded: Option<IpAddr>, netlink: &Netlink) -> Result<(), DaemonError> {
    let own = netlink.addresses(None).await?;
    let is_own = own.iter().any(|(_, own)| own.addr() == address);
    // An address that other hosts cannot use as a peer's.
    let usable = Peer::parse_address(&address.to_string()).is_ok();
    if usable && (is_own || recorded == Some(address)) { Ok(()) } else { Err(JoinError::NotOwn(address).into()) }
}

fn record_address(file: &Path, address: IpAddr, recorded: Option<IpAddr>) -> Result<(), DaemonError> {
    if recorded == Some(address) { Ok(()) } else { write(file, format!("{address}\n")) }
}

fn write(file: &Path, text: String) -> Result<(), DaemonError> {
    fs::write(file, text).map_err(|source| DaemonError::File { action: "write", path: file.to_owned(), source })
}

/// Joins the cluster. `advertise` is the address that other hosts send to; `None` for the source
/// address of packets to etcd. A host that was a member before starts even if etcd is unreachable, because
/// its endpoints have to run on.
///
/// # Errors
/// [`JoinError`], or a file cannot be read or written.
pub async fn join(
    options: &ClusterOptions,
    advertise: Option<IpAddr>,
    instance: &Instance,
    netlink: &Netlink,
) -> Result<Membership, DaemonError> {
    let directory = instance.state_directory();
    let (id_file, address_file) = (directory.join("host-id"), directory.join("host-address"));
    let (id, known) = host_id(&id_file).map_err(|source| DaemonError::File {
        action: "read or write",
        path: id_file.clone(),
        source,
    })?;
    // A host without its network has no route to etcd, and maybe not even its address yet.
    let recorded = if known { host_address(&address_file) } else { None };
    let address = match (advertise, recorded) {
        (Some(address), _) => address.to_canonical(),
        (None, None) => towards(&options.etcd).await?,
        (None, Some(recorded)) => match timeout(RESOLVING, towards(&options.etcd)).await {
            Ok(Ok(address)) => address,
            Ok(Err(_)) | Err(_) => recorded,
        },
    };
    check_own(address, recorded, netlink).await?;
    // The key is for encrypted networks, which any host may create.
    let key = wireguard::load_or_create(&instance.key_file()).map_err(SwitchError::from)?;
    let host = Host { id, name: host_name(), address, public_key: Some(key.public().to_string()) };
    let cluster = if known {
        Cluster::start(options.etcd.clone(), host.clone()).await
    } else {
        Cluster::connect(options.etcd.clone(), host.clone()).await
    };
    let cluster = cluster.map_err(JoinError::from)?;
    record_address(&address_file, address, recorded)?;
    if !known {
        write(&id_file, format!("{id}\n"))?;
    }
    Ok(Membership::new(cluster, host))
}

/// Returns the id that this host got when it first joined a cluster, or a new one; and whether the
/// id is old.
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

/// Returns the host name.
fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "unnamed".to_owned())
}

/// Returns the last known address of this host in the cluster, if the file can be read.
fn host_address(file: &Path) -> Option<IpAddr> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Returns the address by which this host reaches etcd.
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

/// Returns the source address of packets to a member. Sends nothing: connecting a UDP socket only
/// looks up the route.
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
    fn an_id_is_read_back_and_an_invalid_one_is_refused() {
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
