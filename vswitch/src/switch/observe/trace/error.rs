//! The errors of a trace request.

use std::net::IpAddr;

use crate::datapath::SHORTEST;

/// The reason why a frame cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Not a frame in hex digits.
    #[error("invalid frame `{0}` (hex digits, two a byte, at least {SHORTEST} bytes from the destination address on)")]
    Frame(String),
    /// Neither a frame nor a destination.
    #[error("nothing to trace is named (give --to or --frame)")]
    Nothing,
    /// Neither a MAC nor an IP address.
    #[error("`{0}` is neither a MAC address nor an IP address (as in 02:42:ac:11:00:02, 10.201.0.5 or fd00:1:2::5)")]
    Target(String),
    /// A sender in several networks, none of which contains the target.
    #[error("{from} is in several networks, and none of them is {target}'s (say which with --network)")]
    WhichNetwork {
        /// The sender.
        from: String,
        /// The target.
        target: String,
    },
    /// A sender without an address of the target's family.
    #[error("{from} has no address to send to {target} from (choose a target of the other family, or give --frame)")]
    NoAddress {
        /// The sender.
        from: String,
        /// The target.
        target: IpAddr,
    },
    /// A target that no known station has.
    #[error("no station is known to have the address {address} (resolve it with --proto arp, or give the MAC address)")]
    NoOwner {
        /// The address.
        address: IpAddr,
    },
    /// A station without a known IP address.
    #[error("no IP address of {0} is known (leave --proto out, or give the IP address)")]
    NoIp(vswitch_common::Mac),
    /// A target without a route.
    #[error("{from} has no route to {target} (it is in no subnet of the network, which has no way out for it)")]
    NoRoute {
        /// The sender.
        from: String,
        /// The target.
        target: IpAddr,
    },
}

impl TraceError {
    /// Returns the stable code of the error for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Frame(_) => "invalid_frame",
            Self::Nothing => "invalid_request",
            Self::Target(_) => "invalid_target",
            Self::WhichNetwork { .. } => "ambiguous_network",
            Self::NoAddress { .. } => "no_address",
            Self::NoOwner { .. } | Self::NoIp(_) => "unknown_address",
            Self::NoRoute { .. } => "no_route",
        }
    }
}
