//! Flags of `up` for a host that is in a cluster.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

/// The cluster that a host is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterFlags {
    /// Share overlay networks with all hosts that name this etcd
    #[arg(long, value_name = "etcd://HOST:PORT,...")]
    pub cluster: Option<String>,
    /// The address of this host that the others send to [default: the one by which it reaches etcd]
    #[arg(long, value_name = "IP", requires = "cluster")]
    pub advertise: Option<IpAddr>,
    /// The certificates that etcd's is signed by, in PEM; with this or the next, TLS is spoken
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub cluster_ca: Option<PathBuf>,
    /// This host's certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cluster_key")]
    pub cluster_cert: Option<PathBuf>,
    /// The key of this host's certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cluster_cert")]
    pub cluster_key: Option<PathBuf>,
    /// The user that this host is to etcd
    #[arg(long, value_name = "NAME", requires = "cluster_password_file")]
    pub cluster_user: Option<String>,
    /// A file with that user's password
    #[arg(long, value_name = "FILE", requires = "cluster_user")]
    pub cluster_password_file: Option<PathBuf>,
    /// What all keys in etcd begin with: several clusters can share one [default: /vswitch]
    #[arg(long, value_name = "PATH", requires = "cluster")]
    pub cluster_prefix: Option<String>,
    /// How long a host that is silent keeps its endpoints and their addresses, in seconds [default: 15]
    #[arg(long, value_name = "SECONDS", requires = "cluster")]
    pub cluster_lease: Option<u64>,
}
