//! Options of a second `up` that differ from those of the running daemon.

use std::ffi::OsString;
use std::fs;

use clap::Parser as _;
use vswitch_common::tables::MARK_PUBLISHED;

use super::{DEFAULT_POOL, VXLAN_PORT, WIREGUARD_PORT, cluster, daemon_arguments};
use crate::api::Status;
use crate::cli::arguments::{Cli, Command, Up};
use crate::datapath::Datapath;
use crate::model::Instance;

/// An option with its value. An option with several values has several entries.
type Argument = (&'static str, OsString);

/// Returns the options given to `up` that the running daemon does not use, each with its value. An
/// option whose current value is unknown is included.
pub fn differing_options(given: &Up, status: &Status, instance: &Instance) -> Vec<String> {
    let running = arguments_of_process(status.pid)
        .map(|running| effective_options(&running, status, instance))
        .unwrap_or_default();
    let given = daemon_arguments(given);
    let values = |of: &[Argument], option: &str| -> Vec<OsString> {
        of.iter().filter(|(name, _)| *name == option).map(|(_, value)| value.clone()).collect()
    };
    let differs = |option: &str| values(&given, option) != values(&running, option);
    given
        .iter()
        .filter(|(option, _)| differs(option))
        .map(|(option, value)| format!("{option} {}", value.display()))
        .collect()
}

/// Returns the options of the running daemon, including the values it chose for options that were
/// not given.
fn effective_options(running: &Up, status: &Status, instance: &Instance) -> Vec<Argument> {
    let etcd = cluster(&running.cluster).ok().flatten().map(|options| options.etcd);
    let chosen = [
        ("--datapath", Some(status.datapath.clone())),
        ("--pool", Some(DEFAULT_POOL.to_owned())),
        ("--fdb-size", Datapath::fdb_size(&instance.bpf_directory()).map(|size| size.to_string())),
        ("--published-mark", Some(format!("{MARK_PUBLISHED:#x}"))),
        ("--vxlan-port", Some(VXLAN_PORT.to_string())),
        ("--wireguard-port", Some(WIREGUARD_PORT.to_string())),
        ("--advertise", status.cluster.as_ref().map(|cluster| cluster.address.to_string())),
        ("--cluster-prefix", etcd.as_ref().map(|etcd| etcd.prefix().to_owned())),
        ("--cluster-lease", etcd.as_ref().map(|etcd| etcd.lease().as_secs().to_string())),
    ];
    let mut all = daemon_arguments(running);
    for (option, value) in chosen {
        if all.iter().all(|(given, _)| *given != option) {
            all.extend(value.map(|value| (option, value.into())));
        }
    }
    all
}

/// Returns the arguments that the daemon with this process id was started with. Returns `None` if
/// the kernel does not show them, or if another version of vswitch wrote them and they cannot be
/// parsed.
fn arguments_of_process(pid: u32) -> Option<Up> {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = line.strip_suffix('\0').unwrap_or(&line).split('\0');
    match Cli::try_parse_from(arguments).ok()?.command {
        Command::Up(running) => Some(running),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_is_not_a_daemon_has_no_arguments() {
        assert!(arguments_of_process(std::process::id()).is_none());
    }
}
