//! `trace`: the frame that is asked about.

use clap::Args;

use crate::api::TraceProtocol;

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whither").args(["to", "frame"]).required(true)))]
pub struct Trace {
    /// Who sends it: an endpoint, an uplink's interface, the address of a peer, `host`, or vsw-NETWORK
    #[arg(long, value_name = "ENDPOINT")]
    pub from: String,
    /// In which network, where it could be several
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// To whom: a MAC or an IP address
    #[arg(long, value_name = "MAC|IP")]
    pub to: Option<String>,
    /// The frame itself, in hex, from its destination address on
    #[arg(long, value_name = "HEX", conflicts_with_all = ["proto", "sport", "dport", "vlan"])]
    pub frame: Option<String>,
    /// What it carries; arp asks for the address (for IPv6 by a neighbor solicitation) [default: icmp]
    #[arg(long, value_enum, value_name = "PROTO")]
    pub proto: Option<TraceProtocol>,
    /// The port it comes from, of TCP and UDP [default: 49152]
    #[arg(long, value_name = "N")]
    pub sport: Option<u16>,
    /// The port it goes to, of TCP and UDP [default: 80]
    #[arg(long, value_name = "N")]
    pub dport: Option<u16>,
    /// Its VLAN tag; with an s before it, a service tag
    #[arg(long, value_name = "VLAN")]
    pub vlan: Option<String>,
}
