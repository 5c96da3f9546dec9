//! What keeps the rules from being as they should.

use std::io;
use std::net::IpAddr;

use crate::kernel::sysctl::SysctlError;

use super::PortForward;

/// The host could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// There is no `nft`.
    #[error("the program nft is missing, which networks need to reach the outside (install the package nftables)")]
    NftMissing,
    /// It speaks no JSON.
    #[error("the program nft was built without JSON (install your distribution's package nftables)")]
    NftWithoutJson,
    /// It is too old for what we ask of it.
    #[error("nftables {version} is too old: {complaint} (version {needed} and later are known to work)")]
    NftTooOld {
        /// The version it says it has.
        version: String,
        /// The oldest that works.
        needed: &'static str,
        /// What it said.
        complaint: String,
    },
    /// It, or the kernel, refused.
    #[error("nft refused to {action}: {complaint} (`nft list ruleset` shows what there is; has the kernel nf_tables?)")]
    NftRefused {
        /// What it was to do.
        action: &'static str,
        /// What it said.
        complaint: String,
    },
    /// What it printed cannot be read.
    #[error("what nft printed cannot be read: {0} (is `nft` on the PATH of the daemon another program?)")]
    NftOutput(#[source] serde_json::Error),
    /// A program could not be run, or did not end.
    #[error("cannot run {program}: {source} (try again)")]
    Program {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// iptables refused.
    #[error("{program} refused our chain: {complaint} (`{program} -S` shows what there is)")]
    Iptables {
        /// Which one.
        program: String,
        /// What it said.
        complaint: String,
    },
    /// A setting could not be written.
    #[error("{0} (is /proc/sys writable for the daemon?)")]
    Sysctl(#[from] SysctlError),
    /// Two containers at one port of the host.
    #[error("{} port {} of the host leads to {} and to {} (publish one of them elsewhere)", .first.protocol,
        .first.host_port, .first.to, .second.to)]
    Conflict {
        /// One of them.
        first: Box<PortForward>,
        /// The other.
        second: Box<PortForward>,
    },
    /// An address of one family, a container's of the other.
    #[error(
        "host address {host_ip} cannot lead to {to}, which is of another family (publish at an address of its own)"
    )]
    Family {
        /// The host's.
        host_ip: IpAddr,
        /// The container's.
        to: IpAddr,
    },
}

impl OutsideError {
    /// The name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NftMissing | Self::NftWithoutJson | Self::NftTooOld { .. } => "nft_unusable",
            Self::NftRefused { .. } | Self::NftOutput(_) => "nft",
            Self::Program { .. } => "program",
            Self::Iptables { .. } => "iptables",
            Self::Sysctl(_) => "sysctl",
            Self::Conflict { .. } => "port_conflict",
            Self::Family { .. } => "address_family",
        }
    }
}
