//! The commands and their arguments. Values that the daemon validates are passed on as they were
//! typed.

mod cluster;
mod connection;
mod fdb;
mod network;
mod trace;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use vswitch_common::tables::{MARK_ENCRYPTED, MARK_FROM_CHILD};

pub use cluster::ClusterFlags;
use connection::{Connection, parse_pair};
pub use fdb::{FdbAdd, FdbCommand, FdbKey, FdbSelection, FdbShow, FdbWatch};
pub use network::{NetworkCommand, NetworkConnect, NetworkCreate};
pub use trace::Trace;

use super::engine::EngineCommand;
use super::observe::{Capture, Monitor};
use super::output::Format;
use super::plugin::PluginCommand;
use super::top::Top;
use crate::model::{InstanceName, Subnet};

/// The `vswitch` command line.
#[derive(Debug, Parser)]
#[command(
    name = "vswitch",
    version,
    about = "A virtual switch for containers with an eBPF fast path",
    after_help = "Example:\n  sudo vswitch up && sudo vswitch attach --netns /run/netns/web"
)]
pub struct Cli {
    /// The instance of vswitch to use
    #[arg(long, global = true, env = "VSWITCH_INSTANCE", default_value = "default", value_name = "NAME")]
    pub instance: InstanceName,
    /// The output format
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Print only names or ids
    #[arg(short, long, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the switch, or mend what other programs changed on the host of a running one
    #[command(
        after_help = "Example:\n  vswitch up --pool 10.201.0.0/16\n  vswitch up --advertise 192.0.2.1\n  vswitch up --cluster etcd://192.0.2.10:2379,192.0.2.11:2379"
    )]
    Up(Up),
    /// Stop the switch and remove everything that it created
    #[command(after_help = "Example:\n  vswitch down")]
    Down(Down),
    /// Show the state of the switch
    #[command(after_help = "Example:\n  vswitch status --format json")]
    Status,
    /// Check what this machine supports
    #[command(after_help = "Example:\n  vswitch doctor")]
    Doctor,
    /// Attach a network namespace
    #[command(after_help = "Example:\n  vswitch attach --netns /run/netns/web --ip 10.201.0.80\n\n\
                      The default name of the endpoint is the last part of PATH, or pid-PID for /proc/PID/ns/net.")]
    Attach(Attach),
    /// Run a command in a new network namespace
    #[command(after_help = "Example:\n  vswitch run --name web -- python3 -m http.server\n\n\
                      The exit status is that of the command, 127 if the command is not found, 126 if it cannot be executed.\n\
                      The namespace is detached when the command ends.")]
    Run(Run),
    /// Detach an endpoint
    #[command(after_help = "Example:\n  vswitch detach web")]
    Detach(Detach),
    /// List the endpoints
    #[command(after_help = "Example:\n  vswitch ps\n  vswitch ps --filter owner=docker --filter network=front")]
    Ps {
        /// Only endpoints that match: name, id, network, label or owner (docker, podman, cni, or empty
        /// for those attached by hand)
        #[arg(short = 'f', long, value_name = "K=V", value_parser = parse_pair)]
        filter: Vec<(String, String)>,
    },
    /// Show the details of an endpoint
    #[command(after_help = "Example:\n  vswitch inspect web --format json")]
    Inspect {
        /// Name or id of the endpoint
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        endpoint: String,
    },
    /// Create, list, inspect, connect and remove networks
    #[command(after_help = "Example:\n  vswitch network create --subnet 10.99.0.0/24 lan")]
    Network {
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Show and change the forwarding database
    #[command(after_help = "Example:\n  vswitch fdb show --network lan")]
    Fdb {
        #[command(subcommand)]
        command: FdbCommand,
    },
    /// Show the multicast groups and their listeners
    #[command(after_help = "Example:\n  vswitch mdb show")]
    Mdb {
        #[command(subcommand)]
        command: MdbCommand,
    },
    /// Let Docker, podman and CNI runtimes use vswitch
    #[command(after_help = "Example:\n  vswitch engine install docker\n  vswitch engine ls")]
    Engine {
        #[command(subcommand)]
        command: EngineCommand,
    },
    /// Serve as plugin of a container engine, which executes this
    #[command(hide = true, after_help = "Example:\n  vswitch plugin cni < network.conf")]
    Plugin {
        #[command(subcommand)]
        command: PluginCommand,
    },
    /// Add, list and remove the peers of overlay networks
    #[command(after_help = "Example:\n  vswitch peer add 192.0.2.7")]
    Peer {
        #[command(subcommand)]
        command: PeerCommand,
    },
    /// Show the counters of the ports
    #[command(after_help = "Example:\n  vswitch stats bridge")]
    Stats {
        /// Only this endpoint, or only the ports of this network
        #[arg(value_name = "ENDPOINT|NETWORK", value_parser = NonEmptyStringValueParser::new())]
        target: Option<String>,
        /// Show one sum for each network
        #[arg(long)]
        sum: bool,
    },
    /// Show frames as they arrive, with the verdict on each
    #[command(after_help = "Example:\n  vswitch monitor --drops --network lan")]
    Monitor(Monitor),
    /// Show or write frames before and after the verdict
    #[command(after_help = "Example:\n  vswitch capture web -w web.pcapng\n\n\
                      In Wireshark and tshark each port is an interface, and the verdict is the comment of the frame.")]
    Capture(Capture),
    /// Show current rates and drops of the ports
    #[command(
        after_help = "Example:\n  vswitch top --interval 2 bridge\n\nKeys: q quits, s changes the sort order, f shows one network."
    )]
    Top(Top),
    /// Show each step of the decision on a frame, without sending it
    #[command(after_help = "Example:\n  vswitch trace --from web --to 10.201.0.5 --proto tcp --dport 443\n\n\
                      The loaded program decides with the live tables. Nothing is sent, learned or counted.")]
    Trace(Trace),
    /// Print a shell completion script
    #[command(after_help = "Example:\n  vswitch completions bash > /etc/bash_completion.d/vswitch")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub struct Up {
    /// Stay in the foreground, for systemd and other supervisors
    #[arg(long)]
    pub foreground: bool,
    /// The hooks to use: the best for each port, only tc, or XDP on endpoints too [default: auto]
    #[arg(long, value_enum)]
    pub datapath: Option<DatapathMode>,
    /// An address range from which networks get their subnets [default: 10.201.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub pool: Vec<Subnet>,
    /// The number of learned stations that the FDB holds [default: 65536, or the size that an
    /// earlier daemon left]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(256..=4_194_304))]
    pub fdb_size: Option<u32>,
    /// The bit of packet marks (`skb->mark`) for connections to published ports, if another program
    /// uses the default [default: 0x800]
    #[arg(long, value_name = "MARK", value_parser = published_mark)]
    pub published_mark: Option<u32>,
    /// The UDP port of overlay tunnels, the same on every host [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: Option<u16>,
    /// The UDP port of WireGuard for encrypted networks, the same on every host [default: 51872]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub wireguard_port: Option<u16>,
    #[command(flatten)]
    pub cluster: ClusterFlags,
    /// Set by `up` itself for the process it starts: report on stdout once the daemon serves
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// The hooks that the datapath uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DatapathMode {
    #[default]
    Auto,
    Tc,
    Xdp,
}

#[derive(Debug, Args)]
pub struct Down {
    /// Delete the recorded state too
    #[arg(long)]
    pub purge: bool,
}

#[derive(Debug, Args)]
pub struct Attach {
    /// The namespace: /run/netns/NAME, /proc/PID/ns/net, or any path where one is mounted
    #[arg(long, value_name = "PATH")]
    pub netns: PathBuf,
    #[command(flatten)]
    pub flags: AttachFlags,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub flags: AttachFlags,
    /// The command to run, with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// The flags that `attach` and `run` share.
#[derive(Debug, Args)]
pub struct AttachFlags {
    /// The network [default: bridge]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// The name of the endpoint [default: the last part of PATH, or pid-PID; run-PID for a command]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub connection: Connection,
    /// The hostname of the container
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    // The help text is an attribute because rustdoc would read its brackets as links.
    #[arg(
        short = 'p',
        long,
        value_name = "PUBLISH",
        help = "Publish a port: [HOSTIP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp|sctp]"
    )]
    pub publish: Vec<String>,
    /// A label
    #[arg(long, value_name = "K=V", value_parser = parse_pair)]
    pub label: Vec<(String, String)>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "target")]
pub struct DetachTarget {
    /// Name or id of the endpoint; of an id, at least 12 digits
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub endpoint: Option<String>,
    /// The namespace; all endpoints attached to it are meant
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Detach {
    #[command(flatten)]
    pub target: DetachTarget,
    /// Only from this network
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum PeerCommand {
    /// Add another host as a peer of overlay networks; run this on both hosts
    #[command(
        after_help = "Example:\n  vswitch peer add 192.0.2.7\n  vswitch peer add 192.0.2.7 --public-key hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
    )]
    Add {
        /// The address that the peer sends from
        #[arg(value_name = "IP")]
        address: String,
        /// The peer's public key, as printed there by `vswitch peer key`, for encrypted networks;
        /// replaces the previous key of an existing peer
        #[arg(long, value_name = "KEY")]
        public_key: Option<String>,
    },
    /// Print the public key of this host, for `peer add --public-key` on other hosts
    #[command(after_help = "Example:\n  vswitch peer key")]
    Key,
    /// List the peers
    #[command(after_help = "Example:\n  vswitch peer ls")]
    Ls,
    /// Remove a peer: no frames are sent to it or accepted from it
    #[command(after_help = "Example:\n  vswitch peer rm 192.0.2.7")]
    Rm {
        /// The address of the peer
        #[arg(value_name = "IP")]
        address: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum MdbCommand {
    /// Show the listeners of each multicast group
    #[command(after_help = "Example:\n  vswitch mdb show --network lan")]
    Show {
        /// Only this network
        #[arg(long, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
        network: Option<String>,
    },
}

/// Parses a mark of one bit that no other part of vswitch uses.
fn published_mark(text: &str) -> Result<u32, String> {
    let mark = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let others = MARK_FROM_CHILD | MARK_ENCRYPTED;
    mark.ok()
        .filter(|mark| mark.is_power_of_two() && mark & others == 0)
        .ok_or_else(|| format!("a mark is one bit, like 0x800, and none of {others:#x}"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use clap::CommandFactory as _;

    use super::*;

    fn parse(arguments: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("vswitch").chain(arguments.split_whitespace()))
    }

    #[test]
    fn clap_definition_is_valid() {
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
    fn attach_is_parsed_as_in_the_contract() {
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
    fn command_of_run_keeps_its_own_flags() {
        for (arguments, command) in [
            ("run ls -l", "ls -l"),
            ("run --network none -- ls", "ls"),
            ("run --name w sh -q --format x --instance y", "sh -q --format x --instance y"),
            ("run -- --help", "--help"),
            ("run env -- sh", "env -- sh"),
        ] {
            let Command::Run(run) = parse(arguments).expect("valid").command else { panic!("not a run") };
            assert_eq!(run.command.join(OsStr::new(" ")), command, "{arguments}");
        }
        for arguments in ["run", "run --", "run --netns /run/netns/web sh", "run --nonsense sh"] {
            assert!(parse(arguments).is_err(), "{arguments}");
        }
    }

    #[test]
    fn monitor_and_capture_are_parsed() {
        let cli = parse("monitor --drops --network lan --port web --count 3 --rate 10").expect("valid");
        let Command::Monitor(monitor) = cli.command else { panic!("not a monitor") };
        assert_eq!((monitor.drops, monitor.limits.count, monitor.limits.rate), (true, Some(3), Some(10)));
        assert!(matches!(parse("capture web -w -").expect("valid").command, Command::Capture(_)));
        assert!(parse("capture").is_err() && parse("capture web --rate 0").is_err());
    }

    #[test]
    fn wrong_usage_is_rejected() {
        assert!(parse("up --datapath warp").is_err());
        for mark in ["0", "0x3000", "0x4000", "0x1000", "many"] {
            let error = parse(&format!("up --published-mark {mark}")).expect_err("refused").to_string();
            assert!(error.contains("one bit"), "{error}");
        }
        assert!(parse("up --published-mark 0x20000000").is_ok() && parse("up --published-mark 256").is_ok());
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
    fn an_empty_reference_is_wrong_usage() {
        for words in [
            "detach ''",
            "detach web --network ''",
            "inspect ''",
            "stats ''",
            "capture ''",
            "monitor --network ''",
            "monitor --port ''",
            "attach --netns /run/netns/web --network ''",
            "mdb show --network ''",
            "network inspect ''",
            "network inspect lan ''",
            "network rm ''",
            "network connect '' web",
            "network connect lan ''",
            "network disconnect '' web",
            "network disconnect lan ''",
            "fdb show --network ''",
            "fdb show --port ''",
            "fdb flush --network ''",
            "fdb flush --port ''",
            "fdb watch --network ''",
            "fdb add 02:00:00:00:00:07 '' web",
            "fdb add 02:00:00:00:00:07 lan ''",
            "fdb del 02:00:00:00:00:07 ''",
            "top ''",
            "trace --from '' --to 10.0.0.1",
            "trace --from web --network '' --to 10.0.0.1",
        ] {
            let arguments = words.split(' ').map(|word| if word == "''" { "" } else { word });
            let error = Cli::try_parse_from(std::iter::once("vswitch").chain(arguments)).expect_err(words);
            assert_eq!(error.exit_code(), 2, "{words}");
            let filled = words.replace("''", "x");
            assert!(parse(&filled).is_ok(), "{filled}");
        }
    }

    #[test]
    fn network_commands_are_parsed_as_in_the_contract() {
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
    fn option_value_starts_at_the_first_equals_sign() {
        let cli = parse("network create -o uplink=eth1 -o a=b=c lan").expect("valid");
        let Command::Network { command: NetworkCommand::Create(create) } = cli.command else { panic!("not a create") };
        assert_eq!(create.option[1], ("a".to_owned(), "b=c".to_owned()));
    }
}
