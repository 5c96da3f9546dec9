//! Flags of `up` for a host that is a member of a cluster.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

/// The cluster that this host joins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterFlags {
    /// The etcd of the cluster; all hosts that use it share overlay networks
    #[arg(long, value_name = "etcd://HOST:PORT,...")]
    pub cluster: Option<String>,
    /// The source address of tunnels, to which other hosts send theirs, with a cluster or without
    /// [default: with a cluster the address from which this host reaches etcd; else that of the route
    /// to each peer]
    #[arg(long, value_name = "IP")]
    pub advertise: Option<IpAddr>,
    /// The CA certificates, in PEM, that sign the certificate of etcd; this flag or --cluster-cert
    /// turns TLS on
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub cluster_ca: Option<PathBuf>,
    /// The client certificate of this host, in PEM
    #[arg(long, value_name = "FILE", requires = "cluster_key")]
    pub cluster_cert: Option<PathBuf>,
    /// The private key of --cluster-cert, in PEM
    #[arg(long, value_name = "FILE", requires = "cluster_cert")]
    pub cluster_key: Option<PathBuf>,
    /// The etcd user of this host
    #[arg(long, value_name = "NAME", requires = "cluster_password_file")]
    pub cluster_user: Option<String>,
    /// A file with the password of --cluster-user
    #[arg(long, value_name = "FILE", requires = "cluster_user")]
    pub cluster_password_file: Option<PathBuf>,
    /// The prefix of all keys in etcd, so that clusters can share one etcd [default: /vswitch]
    #[arg(long, value_name = "PATH", requires = "cluster")]
    pub cluster_prefix: Option<String>,
    /// The seconds after which a silent host loses its endpoints and their addresses [default: 15]
    #[arg(long, value_name = "SECONDS", requires = "cluster")]
    pub cluster_lease: Option<u64>,
}
