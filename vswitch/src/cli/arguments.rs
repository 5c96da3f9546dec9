//! The commands and their arguments. Values that the daemon judges are taken as they are typed.

mod cluster;
mod fdb;
mod network;
mod trace;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use cluster::ClusterFlags;
pub use fdb::{FdbAdd, FdbCommand, FdbKey, FdbShow, FdbWatch, FdbWhere};
pub use network::{NetworkCommand, NetworkConnect, NetworkCreate};
pub use trace::Trace;

use super::top::Sort;
use super::watch::{Capture, Monitor};
use crate::model::{InstanceName, Subnet};

/// A virtual switch for containers.
#[derive(Debug, Parser)]
#[command(
    name = "vswitch",
    version,
    about = "A virtual switch for containers: eBPF fast path, nothing to learn",
    after_help = "Example:\n  sudo vswitch up && sudo vswitch attach --netns /run/netns/web"
)]
pub struct Cli {
    /// The instance of vswitch that is meant
    #[arg(long, global = true, env = "VSWITCH_INSTANCE", default_value = "default", value_name = "NAME")]
    pub instance: InstanceName,
    /// How to print
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Print names or ids alone
    #[arg(short, long, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the switch
    #[command(
        after_help = "Example:\n  vswitch up --pool 10.201.0.0/16\n  vswitch up --cluster etcd://192.0.2.10:2379,192.0.2.11:2379 --advertise 192.0.2.1"
    )]
    Up(Up),
    /// Stop the switch and remove everything that it made
    #[command(after_help = "Example:\n  vswitch down")]
    Down(Down),
    /// Show what runs
    #[command(after_help = "Example:\n  vswitch status --format json")]
    Status,
    /// Check what this machine can do
    #[command(after_help = "Example:\n  vswitch doctor")]
    Doctor,
    /// Attach a network namespace
    #[command(after_help = "Example:\n  vswitch attach --netns /run/netns/web --ip 10.201.0.80\n\n\
                      The endpoint is named after the last part of PATH; /proc/PID/ns/net becomes pid-PID.")]
    Attach(Attach),
    /// Run a command in a network namespace of its own
    #[command(after_help = "Example:\n  vswitch run --name web -- python3 -m http.server\n\n\
                      The exit status is the command's; 127 if there is no such command, 126 if it cannot be run.\n\
                      The namespace is detached when the command ends.")]
    Run(Run),
    /// Detach an endpoint
    #[command(after_help = "Example:\n  vswitch detach web")]
    Detach(Detach),
    /// List the endpoints
    #[command(after_help = "Example:\n  vswitch ps")]
    Ps,
    /// Show all about an endpoint
    #[command(after_help = "Example:\n  vswitch inspect web --format json")]
    Inspect {
        /// Name or id
        endpoint: String,
    },
    /// Make, list and remove networks
    #[command(after_help = "Example:\n  vswitch network create --subnet 10.99.0.0/24 lan")]
    Network {
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Look into the forwarding database, and change it
    #[command(after_help = "Example:\n  vswitch fdb show --network lan")]
    Fdb {
        #[command(subcommand)]
        command: FdbCommand,
    },
    /// Look into the multicast groups that endpoints listen to
    #[command(after_help = "Example:\n  vswitch mdb show")]
    Mdb {
        #[command(subcommand)]
        command: MdbCommand,
    },
    /// Add, list and remove the other hosts of overlay networks
    #[command(after_help = "Example:\n  vswitch peer add 192.0.2.7")]
    Peer {
        #[command(subcommand)]
        command: PeerCommand,
    },
    /// Show what went through the ports
    #[command(after_help = "Example:\n  vswitch stats bridge")]
    Stats {
        /// Of this endpoint, or of the ports of this network
        #[arg(value_name = "ENDPOINT|NETWORK")]
        of: Option<String>,
        /// Summed up by network
        #[arg(long)]
        sum: bool,
    },
    /// Show frames as they come in, and what becomes of them
    #[command(after_help = "Example:\n  vswitch monitor --drops --network lan")]
    Monitor(Monitor),
    /// Show or write frames before and after the verdict
    #[command(after_help = "Example:\n  vswitch capture web -w web.pcapng\n\n\
                      In Wireshark and tshark each port is an interface, and the verdict is the frame's comment.")]
    Capture(Capture),
    /// Show rates and drops of the ports as they are at the moment
    #[command(
        after_help = "Example:\n  vswitch top --interval 2 bridge\n\nKeys: q quits, s sorts, f shows one network."
    )]
    Top(Top),
    /// Show what becomes of a frame, step by step, without sending it
    #[command(after_help = "Example:\n  vswitch trace --from web --to 10.201.0.5 --proto tcp --dport 443\n\n\
                      The loaded program decides on the live tables; nothing is sent, learned or counted.")]
    Trace(Trace),
    /// Print a completion script
    #[command(after_help = "Example:\n  vswitch completions bash > /etc/bash_completion.d/vswitch")]
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub struct Up {
    /// Stay in the foreground, for systemd and the like
    #[arg(long)]
    pub foreground: bool,
    /// Which hooks to use: what is best for each port, tc alone, or XDP on endpoints too [default: auto]
    #[arg(long, value_enum)]
    pub datapath: Option<DatapathMode>,
    /// Take the subnets of networks from here [default: 10.201.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub pool: Vec<Subnet>,
    /// Room for so many stations that are learned [default: 65536, or as many as there is room for already]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(256..=4_194_304))]
    pub fdb_size: Option<u32>,
    /// The UDP port of the tunnels of overlay networks; the same on every host [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: Option<u16>,
    /// The UDP port of WireGuard, for encrypted networks; the same on every host [default: 51872]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub wireguard_port: Option<u16>,
    #[command(flatten)]
    pub cluster: ClusterFlags,
    /// Started by `up` itself: tells it on stdout when it serves
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// Which hooks to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DatapathMode {
    #[default]
    Auto,
    Tc,
    Xdp,
}

#[derive(Debug, Args)]
pub struct Down {
    /// Forget what was recorded, too
    #[arg(long)]
    pub purge: bool,
}

#[derive(Debug, Args)]
pub struct Attach {
    /// The namespace: /run/netns/NAME, /proc/PID/ns/net, or where it is mounted
    #[arg(long, value_name = "PATH")]
    pub netns: PathBuf,
    #[command(flatten)]
    pub flags: AttachFlags,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub flags: AttachFlags,
    /// What to run, with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// What `attach` and `run` have in common.
#[derive(Debug, Args)]
pub struct AttachFlags {
    /// The network [default: bridge]
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// The endpoint's name [default: the last part of PATH, or pid-PID; run-PID for a command]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub connection: Connection,
    /// The name of the host in the namespace
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    // Brackets would be links in a comment.
    #[arg(
        short = 'p',
        long,
        value_name = "PUBLISH",
        help = "Publish a port: [HOSTIP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp|sctp]"
    )]
    pub publish: Vec<String>,
    /// A label
    #[arg(long, value_name = "K=V", value_parser = pair)]
    pub label: Vec<(String, String)>,
}

/// What an endpoint is in one network.
#[derive(Debug, Args)]
pub struct Connection {
    /// The interface in the namespace [default: the next of eth0, eth1, ... that is free]
    #[arg(long, value_name = "IF")]
    pub ifname: Option<String>,
    /// The IPv4 address [default: the first that is free]
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    /// The IPv6 address [default: the first that is free]
    #[arg(long, value_name = "IP")]
    pub ip6: Option<String>,
    /// The MAC address [default: made from network and name]
    #[arg(long, value_name = "MAC")]
    pub mac: Option<String>,
    /// A further name in the network
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// The network with the highest number has the default route
    #[arg(long, value_name = "N", default_value_t, allow_negative_numbers = true)]
    pub gw_priority: i32,
    /// An option: accept_ra, arp_suppress, bpdu_guard, dhcp_guard, fdb_limit, hairpin, isolated, learning,
    /// mcast_router, ra_guard, spoof_guard or storm_pps
    #[arg(short = 'o', long = "opt", value_name = "KEY=VALUE", value_parser = pair)]
    pub option: Vec<(String, String)>,
    /// The VLAN of its untagged frames; in a VLAN, the gateway is out of reach
    #[arg(long, value_name = "ID")]
    pub vlan: Option<String>,
    /// The VLANs of its tagged frames, as in 10,20-30, or all
    #[arg(long, value_name = "LIST")]
    pub trunk: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "what")]
pub struct What {
    /// Name or id
    pub endpoint: Option<String>,
    /// Whatever is attached at this namespace
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Detach {
    #[command(flatten)]
    pub what: What,
    /// Only from this network
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
}

#[derive(Debug, Args)]
pub struct Top {
    /// Only the ports of this network, or of this endpoint
    #[arg(value_name = "NETWORK")]
    pub network: Option<String>,
    /// Print one table, after one interval
    #[arg(long)]
    pub once: bool,
    /// Measure this long, from 0.1 to 3600 seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub interval: f64,
    /// Sort by this
    #[arg(long, value_enum, default_value_t)]
    pub sort: Sort,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: Option<f64> = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "not a number of seconds from 0.1 to 3600".to_owned())
}

#[derive(Debug, Subcommand)]
pub enum PeerCommand {
    /// Make another host a peer: overlay networks go on there. To be done on both
    #[command(
        after_help = "Example:\n  vswitch peer add 192.0.2.7\n  vswitch peer add 192.0.2.7 --public-key hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
    )]
    Add {
        /// The address that it sends from
        #[arg(value_name = "IP")]
        address: String,
        /// What `vswitch peer key` says there: encrypted networks go on there, too. Of a peer: in the place of the one it had
        #[arg(long, value_name = "KEY")]
        public_key: Option<String>,
    },
    /// Print this host's own public key, for the others' `peer add --public-key`
    #[command(after_help = "Example:\n  vswitch peer key")]
    Key,
    /// List the peers
    #[command(after_help = "Example:\n  vswitch peer ls")]
    Ls,
    /// Make another host a stranger: nothing goes there, nothing is taken from there
    #[command(after_help = "Example:\n  vswitch peer rm 192.0.2.7")]
    Rm {
        /// Its address
        #[arg(value_name = "IP")]
        address: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum MdbCommand {
    /// Show who listens to which multicast group
    #[command(after_help = "Example:\n  vswitch mdb show --network lan")]
    Show {
        /// In this network
        #[arg(long, value_name = "NETWORK")]
        network: Option<String>,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not of the form KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use clap::CommandFactory as _;

    use super::*;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("vswitch").chain(words.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains(&format!("{} ", command.get_name())) || help.contains(command.get_name()));
                assert!(help.starts_with("Example:\n  vswitch "), "{}", command.get_name());
                check(command);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn an_attach_as_in_the_contract_is_read() {
        let cli = parse(
            "attach -o spoof_guard=off -o learning=on --vlan 30 --trunk 10,20-30 --netns /run/netns/web --network lan --name w --ifname eth1 --ip 10.0.0.2 --mac 02:00:00:00:00:01 --alias www --alias w3 --hostname w --label tier=front --format json",
        );
        let cli = cli.expect("valid");
        let Command::Attach(attach) = cli.command else { panic!("not an attach") };
        let flags = attach.flags;
        let connection = &flags.connection;
        assert_eq!((connection.option.len(), connection.vlan.as_deref()), (2, Some("30")));
        assert_eq!(connection.trunk.as_deref(), Some("10,20-30"));
        assert_eq!((flags.connection.alias.len(), flags.label[0].1.as_str(), cli.format), (2, "front", Format::Json));
        assert!(parse("attach").is_err());
        assert!(parse("attach --netns a --label tier").is_err());
        let cli = parse("attach --netns a -p 80 -p 8080:80/tcp --ip6 fd00::2 --gw-priority -1").expect("valid");
        let Command::Attach(attach) = cli.command else { panic!("not an attach") };
        assert_eq!((attach.flags.publish.len(), attach.flags.connection.gw_priority), (2, -1));
    }

    #[test]
    fn a_command_to_run_keeps_what_looks_like_ours() {
        for (words, command) in [
            ("run ls -l", "ls -l"),
            ("run --network none -- ls", "ls"),
            ("run --name w sh -q --format x --instance y", "sh -q --format x --instance y"),
            ("run -- --help", "--help"),
            ("run env -- sh", "env -- sh"),
        ] {
            let Command::Run(run) = parse(words).expect("valid").command else { panic!("not a run") };
            assert_eq!(run.command.join(OsStr::new(" ")), command, "{words}");
        }
        for words in ["run", "run --", "run --netns /run/netns/web sh", "run --nonsense sh"] {
            assert!(parse(words).is_err(), "{words}");
        }
    }

    #[test]
    fn what_is_watched_is_read() {
        let cli = parse("monitor --drops --network lan --port web --count 3 --rate 10").expect("valid");
        let Command::Monitor(monitor) = cli.command else { panic!("not a monitor") };
        assert_eq!((monitor.drops, monitor.limits.count, monitor.limits.rate), (true, Some(3), Some(10)));
        assert!(matches!(parse("capture web -w -").expect("valid").command, Command::Capture(_)));
        assert!(parse("capture").is_err() && parse("capture web --rate 0").is_err());
    }

    #[test]
    fn what_is_wrong_usage_is_refused() {
        assert!(parse("up --datapath warp").is_err());
        let error = parse("up --fdb-size 255").expect_err("too small").to_string();
        assert!(error.contains("255 is not in 256..=4194304"), "{error}");
        assert!(parse("up --fdb-size 256").is_ok() && parse("up --fdb-size 4194305").is_err());
        assert!(parse("up --pool everything").is_err());
        assert!(parse("detach").is_err());
        assert!(parse("detach web --netns /run/netns/web").is_err());
        assert!(parse("fdb show --dynamic --static").is_err());
        for seconds in ["0", "-1", "NaN", "soon", "1e9"] {
            assert!(parse(&format!("top --interval={seconds}")).is_err(), "{seconds}");
        }
        assert!(parse("trace --from web").is_err());
        assert!(parse("trace --to 10.0.0.1").is_err());
        assert!(parse("trace --from web --to 10.0.0.1 --frame 00").is_err());
        assert!(parse("trace --from web --frame 00 --vlan 3").is_err());
        assert!(parse("trace --from web --to 10.0.0.1 --proto ipx").is_err());
        assert!(parse("network rm").is_err());
        assert!(parse("ps --instance ../x").is_err());
        assert!(parse("teleport").is_err());
    }

    #[test]
    fn a_network_as_in_the_contract_is_read() {
        let cli = parse(
            "network create -d bridge --subnet 10.9.0.0/24 --subnet fd00:9::/64 --gateway 10.9.0.1 --ip-range 10.9.0.128/25 --aux-address printer=10.9.0.9 --internal --ipv6 -o icc=false --label a=b lan",
        );
        let Command::Network { command: NetworkCommand::Create(create) } = cli.expect("valid").command else {
            panic!("not a create")
        };
        assert_eq!((create.subnet.len(), create.aux_address.len(), create.internal, create.ipv6), (2, 1, true, true));
        let cli = parse("network connect --ip 10.9.0.7 --alias db --ifname eth7 lan web").expect("valid");
        assert!(matches!(cli.command, Command::Network { command: NetworkCommand::Connect(_) }));
        assert!(parse("network disconnect lan").is_err());
    }

    #[test]
    fn options_keep_everything_behind_the_first_equals_sign() {
        let cli = parse("network create -o uplink=eth1 -o a=b=c lan").expect("valid");
        let Command::Network { command: NetworkCommand::Create(create) } = cli.command else { panic!("not a create") };
        assert_eq!(create.option[1], ("a".to_owned(), "b=c".to_owned()));
    }
}
