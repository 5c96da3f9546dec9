//! Errors of the cluster, and the classification of the errors of etcd's client.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::PathBuf;

use tonic::Code;

use super::options::InvalidOptions;
use crate::model::Vni;
use crate::model::{EndpointName, NetworkId, NetworkName, Subnet};

/// A change that the cluster refused, or a cluster that cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The options are invalid.
    #[error(transparent)]
    Options(#[from] InvalidOptions),
    /// A file that the options name is unreadable or has the wrong content.
    #[error("cannot read {what} from {path}: {message} (see --help for the expected content)")]
    File {
        /// Expected content of the file.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Reason.
        message: String,
    },
    /// No member of etcd answered in time.
    #[error("cannot reach etcd at {endpoints}: {message} (existing traffic goes on; etcd is needed {purpose})")]
    Unreachable {
        /// Addresses of etcd.
        endpoints: String,
        /// Reason of the last failure.
        message: String,
        /// What the request was for, as in "to create a network".
        purpose: String,
    },
    /// The TLS handshake failed because of a certificate.
    #[error(
        "TLS handshake with etcd at {endpoints} failed: {message} (check the certificate of the authority, and the certificate and key of this host)"
    )]
    Tls {
        /// Addresses of etcd.
        endpoints: String,
        /// Reason.
        message: String,
    },
    /// etcd does not know the user, or the user lacks the permission.
    #[error(
        "etcd at {endpoints} refuses this host: {message} (check user and password, and that the user's role may read and write the prefix)"
    )]
    Auth {
        /// Addresses of etcd.
        endpoints: String,
        /// Error message of etcd.
        message: String,
    },
    /// etcd answered and refused the request.
    #[error("etcd at {endpoints} refuses: {message} (`etcdctl endpoint status` shows its state)")]
    Refused {
        /// Addresses of etcd.
        endpoints: String,
        /// Error message of etcd.
        message: String,
    },
    /// The lease of this host has expired. The session requests a new one.
    #[error("the lease of this host in the cluster has expired, and a new one is being requested (try again)")]
    LeaseLost,
    /// etcd has compacted the requested revision.
    #[error("etcd has compacted the requested revision (try again)")]
    Compacted,

    /// A network of this name exists.
    #[error("network with name {0} already exists in the cluster (choose another name)")]
    NameTaken(NetworkName),
    /// Another network uses the VNI.
    #[error("VNI {vni} is already in use by network {network} of the cluster (choose another, or leave it out)")]
    VniTaken {
        /// The requested VNI.
        vni: Vni,
        /// Name of the network that uses it.
        network: String,
    },
    /// The subnet overlaps the subnet of another network.
    #[error(
        "Pool overlaps with other one on this address space: {subnet} overlaps {other} of network {network} in the cluster (choose another subnet)"
    )]
    SubnetTaken {
        /// The requested subnet.
        subnet: Subnet,
        /// The existing subnet that it overlaps.
        other: Subnet,
        /// Name of the network with the existing subnet.
        network: NetworkName,
    },
    /// Every VNI that can be assigned automatically is in use.
    #[error("no free VNI from {} to {} (remove a network)", Vni::FIRST_AUTOMATIC, Vni::LAST)]
    NoFreeVni,
    /// No network of this name exists.
    #[error("no network `{0}` in the cluster (`vswitch network ls` lists the networks)")]
    NetworkNotFound(NetworkName),
    /// The network was removed meanwhile, by this host or another.
    #[error("the network with id {} was removed from the cluster (create it again)", .0.short())]
    NetworkGone(NetworkId),
    /// The network still has endpoints.
    #[error("network {network} has active endpoints: {} (detach them first)", .endpoints.join(", "))]
    NetworkInUse {
        /// Name of the network.
        network: NetworkName,
        /// Endpoints with their hosts. A long list is cut off.
        endpoints: Vec<String>,
    },
    /// Another endpoint holds the address.
    #[error("address {address} is already in use by {owner} (choose another, or leave it out)")]
    AddressTaken {
        /// The requested address.
        address: IpAddr,
        /// Endpoint and host that hold it.
        owner: String,
    },
    /// Every candidate address is in use.
    #[error(
        "no available address: all {tried} in question are in use in the cluster (detach something, or use a network with a larger subnet)"
    )]
    Full {
        /// Number of candidates.
        tried: usize,
    },
    /// Another endpoint of the network has this name.
    #[error(
        "endpoint with name {name} already exists in that network, on host {host} (choose another with --name, or detach it first)"
    )]
    EndpointTaken {
        /// The requested name.
        name: EndpointName,
        /// Host of the endpoint that has it.
        host: String,
    },
    /// The kernel gave no random bytes for an id.
    #[error("{0} (they are needed for an id)")]
    Random(String),
    /// A record in etcd cannot be parsed.
    #[error(
        "cannot parse the record {key} in etcd: {message} (another version of vswitch may have written it; run the same version on all hosts)"
    )]
    Record {
        /// Key of the record.
        key: String,
        /// Reason.
        message: String,
    },
}

impl ClusterError {
    /// Returns the error code of the HTTP API.
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

    /// Reports whether the request conflicts with the present state of the cluster.
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

    /// Reports whether this host has lost the claim: another endpoint holds the address or the
    /// name, or the network was removed.
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::AddressTaken { .. } | Self::EndpointTaken { .. } | Self::NetworkGone(_))
    }

    /// Reports whether etcd did not answer. The change may or may not have been carried out.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Tls { .. })
    }
}

/// Class of an error of etcd's client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ErrorClass {
    /// Worth a retry: another member, or the same member a moment later, may answer.
    Transient(String),
    /// Worth a retry, and caused by a certificate.
    Certificate(String),
    /// Authentication or authorisation failed.
    Auth(String),
    /// The lease does not exist.
    LeaseLost,
    /// The requested revision is compacted.
    Compacted,
    /// A definite refusal.
    Refused(String),
}

/// Returns the messages of the error and its sources, outermost first, without repetitions.
fn messages(error: &etcd_client::Error) -> Vec<String> {
    let (mut texts, mut cause): (Vec<String>, Option<&dyn std::error::Error>) = match error {
        etcd_client::Error::GRpcStatus(status) => (vec![status.message().to_owned()], status.source()),
        etcd_client::Error::TransportError(error) => (vec![error.to_string()], error.source()),
        other => (vec![other.to_string()], None),
    };
    while let Some(error) = cause {
        let text = error.to_string();
        // tonic uses this text for every transport failure.
        if text != "transport error" && !texts.iter().any(|before| before.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    texts
}

/// Reports whether a TLS failure caused the error: rustls is among its sources. Either side may
/// have rejected the other.
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

/// Classifies an error of etcd's client.
pub(super) fn classify(error: &etcd_client::Error) -> ErrorClass {
    let text = messages(error).join(": ");
    let status = match error {
        etcd_client::Error::GRpcStatus(_) | etcd_client::Error::TransportError(_) if is_tls(error) => {
            return ErrorClass::Certificate(text);
        }
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::LeaseKeepAliveError(_) => return ErrorClass::LeaseLost,
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) | etcd_client::Error::WatchError(_) => {
            return ErrorClass::Transient(text);
        }
        _ => return ErrorClass::Refused(text),
    };
    let lower_text = text.to_lowercase();
    match status.code() {
        // A status with a source was made by the client when a connection broke. A status from etcd
        // has none.
        _ if status.source().is_some() => ErrorClass::Transient(text),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => ErrorClass::Transient(text),
        Code::Unauthenticated | Code::PermissionDenied => ErrorClass::Auth(text),
        // etcd's codes for a wrong password, and for a request without credentials where etcd
        // requires them.
        Code::InvalidArgument
            if lower_text.contains("authentication failed") || lower_text.contains("user name is empty") =>
        {
            ErrorClass::Auth(text)
        }
        Code::FailedPrecondition if lower_text.contains("authentication is not enabled") => ErrorClass::Auth(text),
        Code::NotFound if lower_text.contains("lease not found") => ErrorClass::LeaseLost,
        Code::OutOfRange if lower_text.contains("compacted") => ErrorClass::Compacted,
        _ => ErrorClass::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn class_of(code: Code, message: &str) -> ErrorClass {
        classify(&etcd_client::Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn etcd_errors_are_classified() {
        let failed = "etcdserver: authentication failed, invalid user ID or password";
        assert_eq!(class_of(Code::InvalidArgument, failed), ErrorClass::Auth(failed.to_owned()));
        assert!(matches!(class_of(Code::InvalidArgument, "etcdserver: user name is empty"), ErrorClass::Auth(_)));
        assert!(matches!(class_of(Code::InvalidArgument, "etcdserver: too many operations"), ErrorClass::Refused(_)));
        assert!(matches!(class_of(Code::Unavailable, "etcdserver: no leader"), ErrorClass::Transient(_)));
        assert_eq!(class_of(Code::NotFound, "etcdserver: requested lease not found"), ErrorClass::LeaseLost);
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(class_of(Code::OutOfRange, compacted), ErrorClass::Compacted);
        assert!(matches!(
            class_of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            ErrorClass::Refused(_)
        ));
    }

    #[test]
    fn errors_are_one_line_and_say_what_to_do() {
        let error = ClusterError::Unreachable {
            endpoints: "a:2379".to_owned(),
            message: "connection refused".to_owned(),
            purpose: "to lease an address".to_owned(),
        };
        assert_eq!(
            error.to_string(),
            "cannot reach etcd at a:2379: connection refused (existing traffic goes on; etcd is needed to lease an address)"
        );
        assert!(error.is_unreachable());
        let full = ClusterError::Full { tried: 253 };
        assert!(!full.is_unreachable() && !full.to_string().contains('\n'));
    }
}
