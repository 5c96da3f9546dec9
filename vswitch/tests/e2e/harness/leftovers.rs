//! Records the state around an instance for comparison before and after a command, and checks what
//! must not exist once the instance is down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{BpfObject, Host, Netns, netlink::settings, run, settles};

/// Everything that a failing command must not change. Compare two values with `assert_eq!`.
#[derive(Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Devices, queueing disciplines, addresses and routes of each recorded namespace.
    network: BTreeMap<String, BTreeSet<String>>,
    /// Files of the instance, including pins.
    files: BTreeSet<PathBuf>,
    /// The rules of the host's firewall, without counters.
    firewall: Vec<String>,
    mounts: BTreeSet<String>,
    processes: BTreeSet<Pid>,
}

impl Surroundings {
    /// Records the state of a host and of these containers.
    pub fn of(host: &Host, containers: &[&Netns]) -> Self {
        let namespaces = std::iter::once(&*host.netns).chain(containers.iter().copied());
        let mut files = files_below(&host.run_directory());
        files.extend(files_below(&host.state_directory()));
        files.extend(resolv_confs_of(host.instance()));
        // Programs stay loaded for the next port that needs them, until the instance goes down.
        let programs = host.run_directory().join("bpf/programs");
        files.retain(|file| !file.starts_with(&programs));
        Self {
            network: namespaces.map(|netns| (netns.name().to_owned(), settings(netns).into_iter().collect())).collect(),
            files,
            firewall: firewall(&host.netns),
            mounts: mounts_below(&host.run_directory()),
            processes: root_processes(host.instance()),
        }
    }
}

/// Returns the ruleset of a namespace; empty if nft is not installed.
fn firewall(netns: &Netns) -> Vec<String> {
    let listed = Command::new("nft")
        .arg("-v")
        .output()
        .is_ok()
        .then(|| run(netns.command("nft").args(["-s", "list", "ruleset"])));
    listed.map(|outcome| outcome.stdout.lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// Returns the files in /etc/netns that an instance has written for named namespaces. Their first
/// line names the instance.
pub fn resolv_confs_of(instance: &str) -> BTreeSet<PathBuf> {
    let mark = format!(" Instance {instance} endpoint ");
    let Ok(entries) = fs::read_dir("/etc/netns") else { return BTreeSet::new() };
    let files = entries.flatten().map(|entry| entry.path().join("resolv.conf"));
    files.filter(|file| fs::read_to_string(file).is_ok_and(|text| text.contains(&mark))).collect()
}

fn files_below(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    found.insert(directory.to_owned());
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

fn mounts_below(directory: &Path) -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(directory)).map(str::to_owned).collect()
}

/// Returns the processes of an instance: those with its unique name as a word of their command
/// line.
pub fn processes(instance: &str) -> BTreeSet<Pid> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    let of_instance = numbers.filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == instance.as_bytes())
    });
    of_instance.filter(|pid| alive(*pid)).collect()
}

/// Returns the processes of an instance without child processes. Between fork and exec, a program
/// that the daemon starts still has the daemon's command line.
fn root_processes(instance: &str) -> BTreeSet<Pid> {
    let found = processes(instance);
    found.iter().copied().filter(|pid| parent(*pid).is_none_or(|parent| !found.contains(&parent))).collect()
}

fn parent(process: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}

/// Reports whether a process is alive. A zombie is not.
pub fn alive(process: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z') && !line.contains('X'))
}

/// Asserts that nothing of the instance is left: no process, device, pin, mount, firewall rule,
/// file in its run directory or in /etc/netns, and none of these BPF objects. The state directory
/// may remain.
#[track_caller]
pub fn assert_gone(host: &Host, objects: &BTreeSet<BpfObject>) {
    let run = host.run_directory();
    // Between fork and exec, a program that the daemon started still has its command line, and is
    // no longer its child once the daemon has exited.
    settles("no process is left", || {
        let left = processes(host.instance());
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    // The kernel returns mountinfo in parts while other tests mount and unmount: once the text
    // still held a removed mount.
    settles("no mount is left", || {
        let left = mounts_below(&run);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(files_below(&run), BTreeSet::new(), "files");
    let mark = format!("IfAlias(\"vswitch:{}:", host.instance());
    let devices: Vec<String> = settings(&host.netns).into_iter().filter(|line| line.contains(&mark)).collect();
    assert!(devices.is_empty(), "devices: {devices:#?}");
    assert_eq!(resolv_confs_of(host.instance()), BTreeSet::new(), "files in /etc/netns");
    let table = format!("vswitch-{}", host.instance());
    let rules: Vec<String> = firewall(&host.netns).into_iter().filter(|line| line.contains(&table)).collect();
    assert!(rules.is_empty(), "rules in nftables: {rules:#?}");
    // The kernel frees BPF objects after a grace period.
    settles(&format!("the BPF objects of {} are gone", host.instance()), || {
        let found: Vec<_> = objects.iter().filter(|object| object.exists()).collect();
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
}

/// Removes by force what a failed test or a faulty instance has left.
pub fn remove(host: &Host) {
    for process in processes(host.instance()) {
        let _gone = kill(process, Signal::SIGKILL);
    }
    for mount in mounts_below(&host.run_directory()) {
        let _unmounted = umount2(Path::new(&mount), MntFlags::MNT_DETACH);
    }
    for file in resolv_confs_of(host.instance()) {
        let _removed = fs::remove_file(&file);
        let _emptied = file.parent().map(fs::remove_dir);
    }
    for directory in [host.run_directory(), host.state_directory()] {
        let _removed = fs::remove_dir_all(directory);
    }
}
