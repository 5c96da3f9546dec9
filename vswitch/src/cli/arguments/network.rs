//! The arguments of `network`.

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{ArgAction, Args, Subcommand};

use super::connection::{Connection, parse_pair};

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Create a network
    #[command(
        after_help = "Example:\n  vswitch network create --subnet 10.99.0.0/24 -o uplink=eth1 lan\n  vswitch network create --ipv4=false --ipv6 six\n  vswitch network create -d macvlan -o parent=eth1.30 --subnet 10.30.0.0/24 voice\n  vswitch network create -d ipvlan -o parent=eth1 -o ipvlan_mode=l2 shared\n  vswitch network create -d overlay -o vni=5000 --subnet 10.10.0.0/16 --ip-range 10.10.1.0/24 all\n  vswitch network create -d overlay -o encrypted=true --subnet 10.11.0.0/16 --ip-range 10.11.1.0/24 sealed"
    )]
    Create(NetworkCreate),
    /// List the networks
    #[command(after_help = "Example:\n  vswitch network ls --filter driver=bridge --filter label=tier=front")]
    Ls {
        /// Only networks that match: name, id, driver, label, internal, type (builtin or custom) or
        /// dangling
        #[arg(short = 'f', long, value_name = "K=V", value_parser = parse_pair)]
        filter: Vec<(String, String)>,
    },
    /// Show the details of networks as a JSON array
    #[command(after_help = "Example:\n  vswitch network inspect bridge")]
    Inspect {
        /// Names or ids of networks
        #[arg(required = true, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
        networks: Vec<String>,
    },
    /// Remove networks
    #[command(after_help = "Example:\n  vswitch network rm lan")]
    Rm {
        /// Names or ids of networks
        #[arg(required = true, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
        networks: Vec<String>,
    },
    /// Remove all networks without endpoints
    #[command(after_help = "Example:\n  vswitch network prune -f")]
    Prune {
        /// Do not ask for confirmation
        #[arg(short, long)]
        force: bool,
    },
    /// Connect an endpoint to another network
    #[command(after_help = "Example:\n  vswitch network connect --alias db back web")]
    Connect(NetworkConnect),
    /// Disconnect an endpoint from a network
    #[command(after_help = "Example:\n  vswitch network disconnect back web")]
    Disconnect {
        /// Name or id of the network; of an id, at least 12 digits
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        network: String,
        /// Name or id of the endpoint; of an id, at least 12 digits
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        endpoint: String,
    },
}

#[derive(Debug, Args)]
pub struct NetworkConnect {
    #[command(flatten)]
    pub connection: Connection,
    /// Name or id of the network; of an id, at least 12 digits
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// Name or id of the endpoint; of an id, at least 12 digits
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub endpoint: String,
}

#[derive(Debug, Args)]
pub struct NetworkCreate {
    /// The kind of network: bridge, macvlan, ipvlan or overlay [default: bridge]
    #[arg(short, long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// A subnet, IPv4 or IPv6 [default: one from the pool]
    #[arg(long, value_name = "CIDR")]
    pub subnet: Vec<String>,
    /// The address of the host in a subnet [default: the first]
    #[arg(long, value_name = "IP")]
    pub gateway: Vec<String>,
    /// The range for automatic addresses [default: the whole subnet]
    #[arg(long, value_name = "CIDR")]
    pub ip_range: Vec<String>,
    /// An address of a subnet that another device uses
    #[arg(long, value_name = "NAME=IP", value_parser = parse_pair)]
    pub aux_address: Vec<(String, String)>,
    /// No connections to or from outside the network
    #[arg(long)]
    pub internal: bool,
    /// IPv4, with a subnet from the pool if none is given; `--ipv4=false` makes a network of IPv6
    /// alone
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
        default_value = "true", default_missing_value = "true", hide_possible_values = true,
        value_parser = BoolishValueParser::new()
    )]
    pub ipv4: bool,
    /// IPv6, with a unique-local subnet if none is given
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
        default_value = "false", default_missing_value = "true", hide_possible_values = true,
        value_parser = BoolishValueParser::new()
    )]
    pub ipv6: bool,
    /// An option of the driver, as in the operator's guide or in Docker's spelling: ageing, icc,
    /// mtu, uplink, ...
    #[arg(short = 'o', long = "opt", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub option: Vec<(String, String)>,
    /// A label
    #[arg(long, value_name = "K=V", value_parser = parse_pair)]
    pub label: Vec<(String, String)>,
    /// Name of the network
    pub name: String,
}
