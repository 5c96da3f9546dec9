//! What a second `up` asks for that does not fit what runs.

use std::ffi::OsString;
use std::fs;

use clap::Parser as _;

use super::{DEFAULT_POOL, VXLAN_PORT, WIREGUARD_PORT, cluster, daemon_arguments};
use crate::api::Status;
use crate::cli::arguments::{Cli, Command, Up};
use crate::datapath::Datapath;
use crate::model::Instance;

/// An option with a value; one that takes several is there several times.
type Argument = (&'static str, OsString);

/// The options that are given to `up` and that the daemon does not run with, each with its value; also those of which it
/// cannot be known.
pub fn differing(given: &Up, status: &Status, instance: &Instance) -> Vec<String> {
    let running = arguments_of(status.pid).map(|running| runs_with(&running, status, instance)).unwrap_or_default();
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

/// What a daemon was given, and what it chose where it was given nothing.
fn runs_with(running: &Up, status: &Status, instance: &Instance) -> Vec<Argument> {
    let etcd = cluster(&running.cluster).ok().flatten().map(|options| options.etcd);
    let chosen = [
        ("--datapath", Some(status.datapath.clone())),
        ("--pool", Some(DEFAULT_POOL.to_owned())),
        ("--fdb-size", Datapath::fdb_size(&instance.bpf_directory()).map(|size| size.to_string())),
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

/// What the daemon of this process id was started with; `None` if the kernel does not tell, or it is another version's.
fn arguments_of(pid: u32) -> Option<Up> {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.strip_suffix('\0').unwrap_or(&line).split('\0');
    match Cli::try_parse_from(words).ok()?.command {
        Command::Up(running) => Some(running),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_no_daemon_has_no_options() {
        assert!(arguments_of(std::process::id()).is_none());
    }
}
