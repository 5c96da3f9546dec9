//! `fdb` and its arguments.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum FdbCommand {
    /// Show the stations that the switch knows
    #[command(after_help = "Example:\n  vswitch fdb show --dynamic --network lan")]
    Show(FdbShow),
    /// Say where a station is, for good or until it falls silent
    #[command(after_help = "Example:\n  vswitch fdb add 02:00:00:00:00:07 bridge web")]
    Add(FdbAdd),
    /// Remove a station
    #[command(after_help = "Example:\n  vswitch fdb del 02:00:00:00:00:07 bridge")]
    Del(FdbKey),
    /// Remove the stations that were learned
    #[command(after_help = "Example:\n  vswitch fdb flush --port eth1")]
    Flush(FdbWhere),
    /// Print changes as they come: stations that are added, gone, moved, or held for moving too often
    #[command(after_help = "Example:\n  vswitch fdb watch --network lan --format json")]
    Watch(FdbWatch),
}

#[derive(Debug, Args)]
pub struct FdbWatch {
    /// In this network
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Behind this port: an endpoint, or a device
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// End after so many changes
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

#[derive(Debug, Args)]
pub struct FdbWhere {
    /// In this network
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Behind this port: an endpoint, or a device
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// In this VLAN; with an s before it, that of a service tag
    #[arg(long, value_name = "VLAN")]
    pub vlan: Option<String>,
}

#[derive(Debug, Args)]
pub struct FdbShow {
    #[command(flatten)]
    pub place: FdbWhere,
    /// Those that were learned
    #[arg(long, group = "kind")]
    pub dynamic: bool,
    /// Those that stay at their port until they fall silent
    #[arg(long, group = "kind")]
    pub sticky: bool,
    /// Those that are there for good
    #[arg(long = "static", id = "fixed", group = "kind")]
    pub fixed: bool,
}

#[derive(Debug, Args)]
pub struct FdbKey {
    /// The station's address
    pub mac: String,
    /// Its network
    pub network: String,
    /// Its VLAN; with an s before it, that of a service tag
    #[arg(long, value_name = "VLAN")]
    pub vlan: Option<String>,
}

#[derive(Debug, Args)]
pub struct FdbAdd {
    #[command(flatten)]
    pub key: FdbKey,
    /// The port it is behind: an endpoint, or a device
    #[arg(value_name = "ENDPOINT")]
    pub port: String,
    /// Forget it when it falls silent, like one that was learned
    #[arg(long)]
    pub sticky: bool,
}
