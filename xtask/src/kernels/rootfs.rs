//! The root file system of a virtual machine: programs of this machine with their libraries,
//! vswitch's programs at the same paths as here, and an init that runs the tests.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{self, Command},
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use super::{archive::Archive, image::Kernel, libraries, modules};
use crate::{cargo, programs, times::REPORT_ENVIRONMENT};

/// Programs that tests start. Programs missing on this machine are left out, and a test that needs
/// one reports it.
const PROGRAMS: [&str; 20] = [
    "bash", "bpftool", "bridge", "dnsmasq", "env", "ethtool", "getent", "ip", "iperf3", "mount", "nft", "nsenter",
    "ping", "setpriv", "ss", "sysctl", "tc", "tcpdump", "umount", "unshare",
];

/// Files that programs and the C library read.
const FILES: [&str; 10] = [
    "/etc/ethertypes",
    "/etc/group",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
];

/// Builds the archive. `others` are further programs to include, which init does not start.
pub fn build(kernel: &Kernel, script: &Script, others: &[PathBuf]) -> Result<Archive> {
    let mut archive = Archive::default();
    for directory in ["bin", "sbin", "lib", "lib32", "lib64"] {
        archive.symlink(Path::new("/").join(directory), &format!("usr/{directory}"));
        archive.directory(Path::new("/usr").join(directory));
    }
    for directory in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/etc", "/var/lib", "/var/tmp"] {
        archive.directory(directory);
    }
    // The console of init until /dev is mounted. Without it init has no standard output for errors.
    archive.character_device("/dev/console", 5, 1);
    for file in FILES.iter().filter(|file| Path::new(file).is_file()) {
        archive.copy(file, *file);
    }
    archive.symlink("/var/run", "/run");
    archive.symlink("/etc/mtab", "/proc/self/mounts");

    let mut executables: BTreeSet<PathBuf> = PROGRAMS.iter().filter_map(|name| programs::find(name)).collect();
    executables.extend(others.iter().cloned());
    executables.extend(script.tasks.iter().map(|task| task.program.clone()));
    for executable in &executables {
        for library in libraries::of(executable)? {
            archive.copy(&library, &library);
        }
        archive.copy(executable, executable);
    }
    add_busybox(&mut archive)?;
    // Test binaries contain these paths from compile time.
    archive.directory(cargo::root().join("vswitch"));
    archive.directory(cargo::target_directory().join("tmp"));

    modules::add(&mut archive, kernel, &cargo::target_directory().join("kernels/modules").join(&kernel.release))?;
    archive.text("/init", script.text(), 0o755);
    Ok(archive)
}

/// Adds busybox and a link to it for each applet, except for programs that are included already.
fn add_busybox(archive: &mut Archive) -> Result<()> {
    let busybox = programs::find("busybox").context("busybox is not installed (`cargo xtask setup` installs it)")?;
    archive.copy("/usr/bin/busybox", &busybox);
    let applets =
        programs::output(Command::new(&busybox).arg("--list-full")).context("`busybox --list-full` failed")?;
    for applet in applets.lines() {
        let path = Path::new("/").join(applet);
        let name = path.file_name().unwrap_or_default();
        // A program of this machine may be in another directory, and takes precedence.
        let already_included =
            ["/usr/bin", "/usr/sbin"].iter().any(|directory| archive.contains(Path::new(directory).join(name)));
        if !already_included {
            archive.symlink(&path, "/usr/bin/busybox");
        }
    }
    Ok(())
}

/// A program that init runs.
#[derive(Clone, Debug)]
pub struct Task {
    pub title: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// The init script. It reports its progress in lines that begin with a unique mark.
pub struct Script {
    mark: String,
    tasks: Vec<Task>,
}

/// A report of init.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The machine has booted and the first task starts.
    Started,
    /// All tasks have run, and this many failed.
    Ended { failed: u32 },
}

impl Script {
    /// Creates a script that runs the tasks one after the other.
    pub fn new(tasks: Vec<Task>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { mark: format!("vswitch-kernels-{}-{}", process::id(), now.as_nanos()), tasks }
    }

    /// Parses a line of the console. Returns `None` if it is not a report of init.
    pub fn progress(&self, line: &str) -> Option<Progress> {
        let rest = line.trim().strip_prefix(&self.mark)?.trim();
        match rest.strip_prefix("ended") {
            Some(failed) => failed.trim().parse().ok().map(|failed| Progress::Ended { failed }),
            None => (rest == "begun").then_some(Progress::Started),
        }
    }

    fn text(&self) -> String {
        let mark = &self.mark;
        let package = cargo::root().join("vswitch");
        let package = quoted(&package.to_string_lossy());
        let run = |task: &Task| {
            let arguments: String = task.arguments.iter().map(|argument| format!(" {}", quoted(argument))).collect();
            let (title, program) = (quoted(&task.title), quoted(&task.program.to_string_lossy()));
            format!("echo {title}\n{program}{arguments} || failed=$((failed + 1))\n")
        };
        let tasks: String = self.tasks.iter().map(run).collect();
        format!(
            "#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8 {REPORT_ENVIRONMENT}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
# As with systemd: mounts made in one mount namespace propagate to the others.
mount --make-rshared /
hostname vswitch-test
ip link set lo up
# Loaded in advance: while a module is being loaded, a second request for it can fail, and tests run in parallel.
for module in veth bridge macvlan tun wireguard; do modprobe $module 2>/dev/null; done
ulimit -Hn 524288

# The first serial line belongs to the kernel, the second to the tests. Raw mode avoids CR LF at the end of lines.
stty -F /dev/ttyS1 raw
exec </dev/null >/dev/ttyS1 2>&1
export CARGO_MANIFEST_DIR={package}
cd {package}
echo '{mark} begun'
failed=0
{tasks}echo \"{mark} ended $failed\"
# This waits until all output is sent.
stty -F /dev/ttyS1 raw
poweroff -f
"
        )
    }
}

/// Quotes a word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script() -> Script {
        let arguments = vec!["--color".to_owned(), "a b".to_owned()];
        Script::new(vec![Task { title: "It's a test".to_owned(), program: PathBuf::from("/w/it's/e2e-1"), arguments }])
    }

    #[test]
    fn paths_and_arguments_are_quoted_for_the_shell() {
        let text = script().text();
        assert!(text.contains("echo 'It'\\''s a test'\n'/w/it'\\''s/e2e-1' '--color' 'a b' || failed"), "{text}");
    }

    #[test]
    fn only_lines_with_the_mark_are_progress() {
        let (script, other) = (script(), Script { mark: "vswitch-kernels-0-0".to_owned(), tasks: vec![] });
        let mark = &script.mark;
        assert_eq!(script.progress(&format!("{mark} begun\r\n")), Some(Progress::Started));
        assert_eq!(script.progress(&format!("{mark} ended 2")), Some(Progress::Ended { failed: 2 }));
        assert_eq!(script.progress(&format!("{mark} ended")), None);
        assert_eq!(script.progress(&format!("{} ended 0", other.mark)), None);
        assert_eq!(script.progress("test result: ok. 3 passed; 0 failed"), None);
    }

    #[test]
    fn init_is_a_valid_shell_script() {
        let text = script().text();
        programs::run(Command::new("sh").args(["-n", "-c", &text])).expect("the syntax is valid");
    }
}
