//! What a second `up` asks for that does not fit what runs.

use std::fs;
use std::path::Path;

use clap::Parser as _;

use super::{VXLAN_PORT, WIREGUARD_PORT, cluster, pools};
use crate::api::Status;
use crate::cli::arguments::{Cli, Command, Up};
use crate::datapath::Datapath;
use crate::model::Instance;

/// The options that are given to `up` and that the daemon does not run with, each with its value; also those of which it
/// cannot be known.
pub fn differing(given: &Up, status: &Status, instance: &Instance) -> Vec<String> {
    let running = arguments_of(status.pid);
    let same_as_running = |same: &dyn Fn(&Up) -> bool| running.as_ref().is_some_and(same);
    let mut differing = Vec::new();
    let mut look = |option: &str, value: Option<String>, same: bool| {
        if let Some(value) = value.filter(|_| !same) {
            differing.push(format!("{option} {value}"));
        }
    };
    let datapath = given.datapath.map(|mode| mode.name().to_owned());
    look("--datapath", datapath.clone(), datapath.as_ref() == Some(&status.datapath));
    let all = pools(given).iter().map(ToString::to_string).collect::<Vec<_>>().join(" --pool ");
    let pool = Some(all).filter(|_| !given.pool.is_empty());
    look("--pool", pool, same_as_running(&|running| pools(running) == pools(given)));
    let fdb_size = given.fdb_size.map(|size| size.to_string());
    let asked = running.as_ref().and_then(|running| running.fdb_size);
    let room = asked.or_else(|| Datapath::fdb_size(&instance.bpf_directory()));
    look("--fdb-size", fdb_size, room == given.fdb_size);
    let vxlan = |up: &Up| up.vxlan_port.unwrap_or(VXLAN_PORT);
    let port = given.vxlan_port.map(|port| port.to_string());
    look("--vxlan-port", port, same_as_running(&|running| vxlan(running) == vxlan(given)));
    let wireguard = |up: &Up| up.wireguard_port.unwrap_or(WIREGUARD_PORT);
    let port = given.wireguard_port.map(|port| port.to_string());
    look("--wireguard-port", port, same_as_running(&|running| wireguard(running) == wireguard(given)));
    differing.extend(of_cluster(given, running.as_ref(), status));
    differing
}

/// The same for the options of the cluster.
fn of_cluster(given: &Up, running: Option<&Up>, status: &Status) -> Vec<String> {
    let etcd_of = |up: &Up| cluster(&up.cluster).ok().flatten().map(|options| options.etcd);
    let (ours, theirs) = (etcd_of(given), running.and_then(etcd_of));
    let (given, running) = (&given.cluster, running.map(|running| &running.cluster));
    let joined = status.cluster.as_ref();
    let file = |path: &Path| std::path::absolute(path).ok();
    let shown = |path: &Path| path.display().to_string();
    let mut differing = Vec::new();
    let mut look = |option: &str, value: Option<String>, same: bool| {
        if let Some(value) = value.filter(|_| !same) {
            differing.push(format!("{option} {value}"));
        }
    };
    let etcd = ours.as_ref().map(ToString::to_string);
    look("--cluster", given.cluster.clone(), joined.is_some_and(|joined| Some(&joined.etcd) == etcd.as_ref()));
    let advertised = given.advertise.map(|address| address.to_canonical());
    let address = given.advertise.map(|address| address.to_string());
    look("--advertise", address, joined.map(|joined| joined.address) == advertised);
    for (option, value, runs) in [
        ("--cluster-ca", &given.cluster_ca, running.and_then(|running| running.cluster_ca.as_deref())),
        ("--cluster-cert", &given.cluster_cert, running.and_then(|running| running.cluster_cert.as_deref())),
        ("--cluster-key", &given.cluster_key, running.and_then(|running| running.cluster_key.as_deref())),
        (
            "--cluster-password-file",
            &given.cluster_password_file,
            running.and_then(|running| running.cluster_password_file.as_deref()),
        ),
    ] {
        let same = value.as_deref().and_then(file) == runs.and_then(file);
        look(option, value.as_deref().map(shown), same);
    }
    let user = running.and_then(|running| running.cluster_user.clone());
    look("--cluster-user", given.cluster_user.clone(), user == given.cluster_user);
    let both = ours.as_ref().zip(theirs.as_ref());
    let prefix = both.is_some_and(|(ours, theirs)| ours.prefix() == theirs.prefix());
    look("--cluster-prefix", given.cluster_prefix.clone(), prefix);
    let lease = both.is_some_and(|(ours, theirs)| ours.lease() == theirs.lease());
    look("--cluster-lease", given.cluster_lease.map(|seconds| seconds.to_string()), lease);
    differing
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
