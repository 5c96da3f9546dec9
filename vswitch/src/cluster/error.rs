//! What can go wrong in the cluster, and what etcd's own errors mean.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::PathBuf;

use tonic::Code;

use super::options::InvalidOptions;
use super::vni::Vni;
use crate::model::{EndpointName, NetworkId, NetworkName, Subnet};

/// A change that the cluster did not take, or a cluster that cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The options are wrong in themselves.
    #[error(transparent)]
    Options(#[from] InvalidOptions),
    /// A file that the options name cannot be used.
    #[error("cannot read {what} from {path}: {message} (see --help for what it must hold)")]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// No member of etcd answers in time.
    #[error("cannot reach etcd at {endpoints}: {message} (existing traffic goes on; this change needs it: {doing})")]
    Unreachable {
        /// Where it should be.
        endpoints: String,
        /// Why not.
        message: String,
        /// What was to be done.
        doing: String,
    },
    /// The certificates do not fit.
    #[error(
        "cannot speak TLS with etcd at {endpoints}: {message} (check the authority's certificate, this host's, and its key)"
    )]
    Tls {
        /// Where it is.
        endpoints: String,
        /// Why not.
        message: String,
    },
    /// The user is unknown, or may not do this.
    #[error(
        "etcd at {endpoints} refuses this host: {message} (check user and password, and that the user's role may read and write the prefix)"
    )]
    Auth {
        /// Where it is.
        endpoints: String,
        /// What it said.
        message: String,
    },
    /// etcd understood, and refuses.
    #[error("etcd at {endpoints} refuses: {message} (`etcdctl endpoint status` says how it is)")]
    Refused {
        /// Where it is.
        endpoints: String,
        /// What it said.
        message: String,
    },
    /// The lease of this host has expired; a new one is on its way.
    #[error("this host's registration in the cluster was lost, and is being renewed (try again)")]
    LeaseLost,
    /// A revision that etcd has forgotten.
    #[error("etcd has forgotten the revision that was asked for (try again)")]
    Compacted,

    /// A network of that name is there.
    #[error("network with name {0} already exists in the cluster (choose another name)")]
    NameTaken(NetworkName),
    /// A VNI that is another network's.
    #[error("VNI {vni} is already in use by network {network} of the cluster (choose another, or leave it out)")]
    VniTaken {
        /// The VNI.
        vni: Vni,
        /// Whose it is.
        network: String,
    },
    /// A subnet that overlaps another network's.
    #[error(
        "Pool overlaps with other one on this address space: {subnet} overlaps {other} of network {network} in the cluster (choose another subnet)"
    )]
    SubnetTaken {
        /// The subnet.
        subnet: Subnet,
        /// What it overlaps.
        other: Subnet,
        /// Whose that is.
        network: NetworkName,
    },
    /// Every VNI is a network's.
    #[error("no VNI is left from {} to {} (remove a network)", Vni::FIRST_AUTOMATIC, Vni::LAST)]
    NoFreeVni,
    /// No such network.
    #[error("no network `{0}` in the cluster (`vswitch network ls` shows those there are)")]
    NetworkNotFound(NetworkName),
    /// A network that was removed meanwhile, on whatever host.
    #[error("the network with id {} is not in the cluster any more (create it again)", .0.short())]
    NetworkGone(NetworkId),
    /// A network in use.
    #[error("network {network} has active endpoints: {} (detach them first)", .endpoints.join(", "))]
    NetworkInUse {
        /// The network.
        network: NetworkName,
        /// The endpoints with their hosts; the first of them, if they are many.
        endpoints: Vec<String>,
    },
    /// An address that somebody has.
    #[error("address {address} is already in use by {owner} (choose another, or leave it out)")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: String,
    },
    /// No address is left.
    #[error(
        "no available address: all {tried} in question are in use in the cluster (detach something, or use a network with a larger subnet)"
    )]
    Full {
        /// How many there were.
        tried: usize,
    },
    /// A name that somebody has.
    #[error(
        "endpoint with name {name} already exists in that network, on host {host} (choose another with --name, or detach it first)"
    )]
    EndpointTaken {
        /// The name.
        name: EndpointName,
        /// The host that has it.
        host: String,
    },
    /// No random bytes for an id.
    #[error("{0} (an id is made of them)")]
    Random(String),
    /// A record that cannot be read.
    #[error(
        "what etcd has under {key} cannot be read: {message} (another version may have written it; bring all hosts to one version)"
    )]
    Record {
        /// The key.
        key: String,
        /// Why not.
        message: String,
    },
}

impl ClusterError {
    /// The name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Options(_) => "invalid_cluster",
            Self::File { .. } => "file",
            Self::Unreachable { .. } => "cluster_unreachable",
            Self::Tls { .. } => "cluster_tls",
            Self::Auth { .. } => "cluster_auth",
            Self::Refused { .. } | Self::Compacted => "cluster_refused",
            Self::LeaseLost => "cluster_lease_lost",
            Self::NameTaken(_) => "network_exists",
            Self::VniTaken { .. } => "vni_in_use",
            Self::SubnetTaken { .. } => "subnet_overlap",
            Self::NoFreeVni => "no_free_vni",
            Self::NetworkNotFound(_) | Self::NetworkGone(_) => "network_not_found",
            Self::NetworkInUse { .. } => "active_endpoints",
            Self::AddressTaken { .. } => "address_in_use",
            Self::Full { .. } => "no_available_address",
            Self::EndpointTaken { .. } => "endpoint_exists",
            Self::Random(_) => "random",
            Self::Record { .. } => "cluster_record",
        }
    }

    /// Whether it does not fit what is there.
    pub const fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::NameTaken(_)
                | Self::VniTaken { .. }
                | Self::SubnetTaken { .. }
                | Self::NoFreeVni
                | Self::NetworkInUse { .. }
                | Self::AddressTaken { .. }
                | Self::Full { .. }
                | Self::EndpointTaken { .. }
        )
    }

    /// Whether what a host had is somebody else's by now, or is in a network that is gone.
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::AddressTaken { .. } | Self::EndpointTaken { .. } | Self::NetworkGone(_))
    }

    /// Whether etcd did not answer: what was asked for may have been done, or not.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Tls { .. })
    }
}

/// What an error of the client's means for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Another member, or the same one a moment later, may answer.
    Transient(String),
    /// The same, and it is because of certificates.
    Certificate(String),
    /// The user may not do this.
    Auth(String),
    /// The lease is not there any more.
    LeaseLost,
    /// The revision that was asked for is forgotten.
    Compacted,
    /// It will not be done.
    Refused(String),
}

/// The causes of an error, each once, the outermost first.
fn causes(error: &etcd_client::Error) -> Vec<String> {
    let (mut texts, mut cause): (Vec<String>, Option<&dyn std::error::Error>) = match error {
        etcd_client::Error::GRpcStatus(status) => (vec![status.message().to_owned()], status.source()),
        etcd_client::Error::TransportError(error) => (vec![error.to_string()], error.source()),
        other => (vec![other.to_string()], None),
    };
    while let Some(error) = cause {
        let text = error.to_string();
        // What tonic calls everything.
        if text != "transport error" && !texts.iter().any(|before| before.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    texts
}

/// Whether it is rustls that did not like the other side, or the other way round.
fn is_tls(error: &etcd_client::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = match error {
        etcd_client::Error::GRpcStatus(status) => status.source(),
        etcd_client::Error::TransportError(error) => error.source(),
        _ => None,
    };
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What the client's error means.
pub(super) fn meaning(error: &etcd_client::Error) -> Meaning {
    let text = causes(error).join(": ");
    let status = match error {
        etcd_client::Error::GRpcStatus(_) | etcd_client::Error::TransportError(_) if is_tls(error) => {
            return Meaning::Certificate(text);
        }
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::LeaseKeepAliveError(_) => return Meaning::LeaseLost,
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) | etcd_client::Error::WatchError(_) => {
            return Meaning::Transient(text);
        }
        _ => return Meaning::Refused(text),
    };
    let said = text.to_lowercase();
    match status.code() {
        // Made here, by a connection that broke: etcd's own have no source.
        _ if status.source().is_some() => Meaning::Transient(text),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Meaning::Transient(text),
        Code::Unauthenticated | Code::PermissionDenied => Meaning::Auth(text),
        // So does etcd call a wrong password, and a request without any where one is needed.
        Code::InvalidArgument if said.contains("authentication failed") || said.contains("user name is empty") => {
            Meaning::Auth(text)
        }
        Code::FailedPrecondition if said.contains("authentication is not enabled") => Meaning::Auth(text),
        Code::NotFound if said.contains("lease not found") => Meaning::LeaseLost,
        Code::OutOfRange if said.contains("compacted") => Meaning::Compacted,
        _ => Meaning::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn of(code: Code, message: &str) -> Meaning {
        meaning(&etcd_client::Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn what_etcd_says_is_understood() {
        let failed = "etcdserver: authentication failed, invalid user ID or password";
        assert_eq!(of(Code::InvalidArgument, failed), Meaning::Auth(failed.to_owned()));
        assert!(matches!(of(Code::InvalidArgument, "etcdserver: user name is empty"), Meaning::Auth(_)));
        assert!(matches!(of(Code::InvalidArgument, "etcdserver: too many operations"), Meaning::Refused(_)));
        assert!(matches!(of(Code::Unavailable, "etcdserver: no leader"), Meaning::Transient(_)));
        assert_eq!(of(Code::NotFound, "etcdserver: requested lease not found"), Meaning::LeaseLost);
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(of(Code::OutOfRange, compacted), Meaning::Compacted);
        assert!(matches!(
            of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            Meaning::Refused(_)
        ));
    }

    #[test]
    fn errors_are_one_line_with_a_way_out() {
        let error = ClusterError::Unreachable {
            endpoints: "a:2379".to_owned(),
            message: "connection refused".to_owned(),
            doing: "to lease an address".to_owned(),
        };
        assert_eq!(
            error.to_string(),
            "cannot reach etcd at a:2379: connection refused (existing traffic goes on; this change needs it: to lease an address)"
        );
        assert!(error.is_unreachable());
        let full = ClusterError::Full { tried: 253 };
        assert!(!full.is_unreachable() && !full.to_string().contains('\n'));
    }
}
