//! The arguments of `trace`: the description of a frame.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::model::TraceProtocol;

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("destination").args(["to", "frame"]).required(true)))]
pub struct Trace {
    /// The sender: an endpoint, the interface of an uplink, the address of a peer, `host`, or
    /// vsw-NETWORK
    #[arg(long, value_name = "ENDPOINT", value_parser = NonEmptyStringValueParser::new())]
    pub from: String,
    /// The network, if the sender is in several
    #[arg(long, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// The destination: a MAC or an IP address
    #[arg(long, value_name = "MAC|IP")]
    pub to: Option<String>,
    /// The whole frame in hex, starting at its destination address
    #[arg(long, value_name = "HEX", conflicts_with_all = ["proto", "sport", "dport", "vlan"])]
    pub frame: Option<String>,
    /// The protocol; arp resolves the address (for IPv6 with a neighbor solicitation) [default:
    /// icmp]
    #[arg(long, value_enum, value_name = "PROTO")]
    pub proto: Option<TraceProtocol>,
    /// The source port of TCP and UDP [default: 49152]
    #[arg(long, value_name = "N")]
    pub sport: Option<u16>,
    /// The destination port of TCP and UDP [default: 80]
    #[arg(long, value_name = "N")]
    pub dport: Option<u16>,
    /// The VLAN tag; prefix s for a service tag
    #[arg(long, value_name = "VLAN")]
    pub vlan: Option<String>,
}
