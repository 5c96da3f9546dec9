//! Errors that keep the rules from being applied.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::kernel::sysctl::SysctlError;

use super::PortForward;

/// An error of setting up the host's rules.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The program `nft` is missing.
    #[error("the program nft is missing, which networks need to reach the outside (install the package nftables)")]
    NftMissing,
    /// `nft` does not support JSON.
    #[error("the program nft was built without JSON (install your distribution's package nftables)")]
    NftWithoutJson,
    /// `nft` is too old.
    #[error("nftables {version} is too old: {complaint} (version {needed} and later are known to work)")]
    NftTooOld {
        /// The version that `nft` reports.
        version: String,
        /// The oldest supported version.
        needed: &'static str,
        /// The output of the program.
        complaint: String,
    },
    /// `nft` or the kernel refused a change.
    #[error("nft refused to {action}: {complaint} (`nft list ruleset` shows what there is; has the kernel nf_tables?)")]
    NftRefused {
        /// The action.
        action: &'static str,
        /// The output of the program.
        complaint: String,
    },
    /// The output of `nft` cannot be parsed.
    #[error("what nft printed cannot be read: {0} (is `nft` on the PATH of the daemon another program?)")]
    NftOutput(#[source] serde_json::Error),
    /// A program could not be run, or did not end.
    #[error("cannot run {program}: {source} (try again)")]
    Program {
        /// The program.
        program: String,
        /// The reason.
        source: io::Error,
    },
    /// A change of the rules did not end in time.
    #[error("the rules did not change within {} s (does nft hang? `nft list ruleset` shows it)", .0.as_secs())]
    TooSlow(Duration),
    /// iptables refused a change.
    #[error("{program} refused our chain: {complaint} (`{program} -S` shows what there is)")]
    Iptables {
        /// The name of the program.
        program: String,
        /// The output of the program.
        complaint: String,
    },
    /// A setting could not be written.
    #[error("{0} (is /proc/sys writable for the daemon?)")]
    Sysctl(#[from] SysctlError),
    /// Two containers publish the same host port.
    #[error("{} port {} of the host leads to {} and to {} (publish one of them elsewhere)", .first.protocol,
        .first.host_port, .first.to, .second.to)]
    Conflict {
        /// One of the containers.
        first: Box<PortForward>,
        /// The other container.
        second: Box<PortForward>,
    },
    /// The host address and the container address have different families.
    #[error(
        "host address {host_ip} cannot lead to {to}, which is of another family (publish at an address of its own)"
    )]
    Family {
        /// The host address.
        host_ip: IpAddr,
        /// The container address.
        to: IpAddr,
    },
}

impl NatError {
    /// Returns the error code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NftMissing | Self::NftWithoutJson | Self::NftTooOld { .. } => "nft_unusable",
            Self::NftRefused { .. } | Self::NftOutput(_) => "nft",
            Self::Program { .. } | Self::TooSlow(_) => "program",
            Self::Iptables { .. } => "iptables",
            Self::Sysctl(_) => "sysctl",
            Self::Conflict { .. } => "port_conflict",
            Self::Family { .. } => "address_family",
        }
    }
}
