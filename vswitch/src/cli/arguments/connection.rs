//! The properties of an endpoint in one network, which several commands take.

use clap::Args;

/// The properties of an endpoint in one network.
#[derive(Debug, Args)]
pub struct Connection {
    /// The interface in the namespace [default: the first free one of eth0, eth1, ...]
    #[arg(long, value_name = "IF")]
    pub ifname: Option<String>,
    /// The IPv4 address [default: the next free one]
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    /// The IPv6 address [default: the next free one]
    #[arg(long, value_name = "IP")]
    pub ip6: Option<String>,
    /// The MAC address [default: derived from the network and the name]
    #[arg(long, value_name = "MAC")]
    pub mac: Option<String>,
    /// An additional name in the network
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// Priority of this network for the default route; the highest number wins
    #[arg(long, value_name = "N", default_value_t, allow_negative_numbers = true)]
    pub gw_priority: i32,
    /// An option: accept_ra, arp_suppress, bpdu_guard, dhcp_guard, fdb_limit, hairpin, isolated,
    /// learning, mcast_router, ra_guard, spoof_guard or storm_pps
    #[arg(short = 'o', long = "opt", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub option: Vec<(String, String)>,
    /// The VLAN of untagged frames; the gateway is not reachable from a VLAN
    #[arg(long, value_name = "ID")]
    pub vlan: Option<String>,
    /// The VLANs of tagged frames: a list like 10,20-30, or all
    #[arg(long, value_name = "LIST")]
    pub trunk: Option<String>,
}

/// Parses `KEY=VALUE`.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not of the form KEY=VALUE".to_owned()),
    }
}
