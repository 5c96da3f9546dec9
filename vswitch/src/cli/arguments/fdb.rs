//! The arguments of `fdb`.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum FdbCommand {
    /// Show the known stations
    #[command(after_help = "Example:\n  vswitch fdb show --dynamic --network lan")]
    Show(FdbShow),
    /// Add a station, static or until it falls silent
    #[command(after_help = "Example:\n  vswitch fdb add 02:00:00:00:00:07 bridge web")]
    Add(FdbAdd),
    /// Remove a station
    #[command(after_help = "Example:\n  vswitch fdb del 02:00:00:00:00:07 bridge")]
    Del(FdbKey),
    /// Remove the learned stations
    #[command(after_help = "Example:\n  vswitch fdb flush --port eth1")]
    Flush(FdbSelection),
    /// Print each change: a station that is added, removed, moved, or held because it moved too
    /// often
    #[command(after_help = "Example:\n  vswitch fdb watch --network lan --format json")]
    Watch(FdbWatch),
}

#[derive(Debug, Args)]
pub struct FdbWatch {
    /// Only this network
    #[arg(long, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// Only behind this port: an endpoint or a device
    #[arg(long, value_name = "PORT", value_parser = NonEmptyStringValueParser::new())]
    pub port: Option<String>,
    /// Exit after this many changes
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

#[derive(Debug, Args)]
pub struct FdbSelection {
    /// Only this network
    #[arg(long, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// Only behind this port: an endpoint or a device
    #[arg(long, value_name = "PORT", value_parser = NonEmptyStringValueParser::new())]
    pub port: Option<String>,
    /// Only this VLAN; prefix s for the VLAN of a service tag
    #[arg(long, value_name = "VLAN")]
    pub vlan: Option<String>,
}

#[derive(Debug, Args)]
pub struct FdbShow {
    #[command(flatten)]
    pub selection: FdbSelection,
    /// Only learned stations
    #[arg(long, group = "kind")]
    pub dynamic: bool,
    /// Only sticky stations: they stay at their port until they fall silent
    #[arg(long, group = "kind")]
    pub sticky: bool,
    /// Only static stations
    #[arg(long = "static", id = "fixed", group = "kind")]
    pub fixed: bool,
}

#[derive(Debug, Args)]
pub struct FdbKey {
    /// The MAC address of the station
    pub mac: String,
    /// The network of the station
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub network: String,
    /// The VLAN of the station; prefix s for the VLAN of a service tag
    #[arg(long, value_name = "VLAN")]
    pub vlan: Option<String>,
}

#[derive(Debug, Args)]
pub struct FdbAdd {
    #[command(flatten)]
    pub key: FdbKey,
    /// The port of the station: an endpoint or a device
    #[arg(value_name = "ENDPOINT", value_parser = NonEmptyStringValueParser::new())]
    pub port: String,
    /// Let the entry age out when the station falls silent, like a learned one
    #[arg(long)]
    pub sticky: bool,
}
