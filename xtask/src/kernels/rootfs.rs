//! What a virtual machine has besides its kernel: programs of this machine with their libraries, ours at the paths that
//! they have here, and an init that runs some of them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{self, Command},
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use super::{archive::Archive, image::Kernel, libraries, modules};
use crate::{cargo, programs};

/// Programs that tests start. Those that this machine lacks are left out, and a test that needs one says so.
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

/// The whole of it. `others` are programs of ours that nobody runs directly.
pub fn build(kernel: &Kernel, script: &Script, others: &[PathBuf]) -> Result<Archive> {
    let mut archive = Archive::default();
    for directory in ["bin", "sbin", "lib", "lib32", "lib64"] {
        archive.symlink(Path::new("/").join(directory), &format!("usr/{directory}"));
        archive.directory(Path::new("/usr").join(directory));
    }
    for directory in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/etc", "/var/lib", "/var/tmp"] {
        archive.directory(directory);
    }
    // Until /dev is mounted; without it, init has no standard output to complain on.
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
    busybox(&mut archive)?;
    // Test binaries know these by the paths that they had when they were compiled.
    archive.directory(cargo::root().join("vswitch"));
    archive.directory(cargo::target_directory().join("tmp"));

    modules::add(&mut archive, kernel, &cargo::target_directory().join("kernels/modules").join(&kernel.release))?;
    archive.text("/init", script.text(), 0o755);
    Ok(archive)
}

/// Everything else that a system has, by the one program that can be all of them.
fn busybox(archive: &mut Archive) -> Result<()> {
    let busybox = programs::find("busybox").context("busybox is not there (`cargo xtask setup` installs it)")?;
    archive.copy("/usr/bin/busybox", &busybox);
    let applets =
        programs::output(Command::new(&busybox).arg("--list-full")).context("busybox does not list what it can be")?;
    for applet in applets.lines() {
        let path = Path::new("/").join(applet);
        let name = path.file_name().unwrap_or_default();
        // A program of this machine may be in another directory, and goes before.
        let elsewhere =
            ["/usr/bin", "/usr/sbin"].iter().any(|directory| archive.contains(Path::new(directory).join(name)));
        if !elsewhere {
            archive.symlink(&path, "/usr/bin/busybox");
        }
    }
    Ok(())
}

/// Something that the machine is started for.
#[derive(Clone, Debug)]
pub struct Task {
    pub title: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// The program that the kernel starts. It tells how far it got in lines that begin with a mark that nobody else prints.
pub struct Script {
    mark: String,
    tasks: Vec<Task>,
}

/// What init tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Tidings {
    /// The machine is up, the first task begins.
    Begun,
    /// All were run, and so many failed.
    Ended { failed: u32 },
}

impl Script {
    /// One that runs these, one after the other.
    pub fn new(tasks: Vec<Task>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { mark: format!("vswitch-kernels-{}-{}", process::id(), now.as_nanos()), tasks }
    }

    /// Reads a line of the console.
    pub fn tidings(&self, line: &str) -> Option<Tidings> {
        let rest = line.trim().strip_prefix(&self.mark)?.trim();
        match rest.strip_prefix("ended") {
            Some(failed) => failed.trim().parse().ok().map(|failed| Tidings::Ended { failed }),
            None => (rest == "begun").then_some(Tidings::Begun),
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
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8
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
# As systemd leaves it: mounts made in one namespace are seen in the others.
mount --make-rshared /
hostname vswitch-test
ip link set lo up
# There before several tests ask for it at once: whoever asks while a module is being loaded may be told that there is none.
for module in veth bridge macvlan tun wireguard; do modprobe $module 2>/dev/null; done
ulimit -Hn 524288

# The first serial line is the kernel's, the second ours. Raw, or every line would end in CR LF.
stty -F /dev/ttyS1 raw
exec </dev/null >/dev/ttyS1 2>&1
export CARGO_MANIFEST_DIR={package}
cd {package}
echo '{mark} begun'
failed=0
{tasks}echo \"{mark} ended $failed\"
# This waits until all of it has gone out.
stty -F /dev/ttyS1 raw
poweroff -f
"
        )
    }
}

/// A word that the shell takes as it is.
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
    fn the_shell_gets_paths_and_arguments_as_they_are() {
        let text = script().text();
        assert!(text.contains("echo 'It'\\''s a test'\n'/w/it'\\''s/e2e-1' '--color' 'a b' || failed"), "{text}");
    }

    #[test]
    fn only_its_own_lines_are_tidings() {
        let (script, other) = (script(), Script { mark: "vswitch-kernels-0-0".to_owned(), tasks: vec![] });
        let mark = &script.mark;
        assert_eq!(script.tidings(&format!("{mark} begun\r\n")), Some(Tidings::Begun));
        assert_eq!(script.tidings(&format!("{mark} ended 2")), Some(Tidings::Ended { failed: 2 }));
        assert_eq!(script.tidings(&format!("{mark} ended")), None);
        assert_eq!(script.tidings(&format!("{} ended 0", other.mark)), None);
        assert_eq!(script.tidings("test result: ok. 3 passed; 0 failed"), None);
    }

    #[test]
    fn init_is_a_script_that_the_shell_understands() {
        let text = script().text();
        programs::run(Command::new("sh").args(["-n", "-c", &text])).expect("its syntax is right");
    }
}
