//! Requirements that come as packages of the distribution: how to detect them, and the names of the
//! packages.

use std::env;
use std::process::{Command, Stdio};

use super::{
    Purpose,
    distribution::{self, Distribution},
    toolchain,
};
use crate::programs;

/// A requirement that packages provide.
#[derive(Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Description for a user who must install it by hand.
    pub description: String,
    debian: Vec<String>,
    fedora: Vec<String>,
    arch: Vec<String>,
    suse: Vec<String>,
}

impl Requirement {
    /// Creates a requirement. Each list of packages is one string, separated by spaces.
    fn new(description: impl Into<String>, debian: &str, fedora: &str, arch: &str, suse: &str) -> Self {
        let list = |packages: &str| packages.split_whitespace().map(str::to_owned).collect();
        Self {
            description: description.into(),
            debian: list(debian),
            fedora: list(fedora),
            arch: list(arch),
            suse: list(suse),
        }
    }

    /// Returns the packages that provide the requirement.
    pub fn packages(&self, distribution: Distribution) -> Vec<String> {
        let packages = match distribution {
            Distribution::Debian | Distribution::Other => &self.debian,
            Distribution::Fedora => &self.fedora,
            Distribution::Arch => &self.arch,
            Distribution::Suse => &self.suse,
        };
        packages.clone()
    }
}

/// A program started by vswitch's tests, demo or benchmark, or by xtask.
struct Program {
    name: &'static str,
    purpose: Purpose,
    packages: [&'static str; 4],
}

const fn program(purpose: Purpose, name: &'static str, packages: [&'static str; 4]) -> Program {
    Program { name, purpose, packages }
}

/// The packages are those of Debian, Fedora, Arch and openSUSE, in this order.
const PROGRAMS: &[Program] = &[
    program(
        Purpose::Build,
        PROTOC,
        ["protobuf-compiler libprotobuf-dev", "protobuf-compiler protobuf-devel", "protobuf", "protobuf-devel"],
    ),
    program(Purpose::Run, "ip", ["iproute2", "iproute", "iproute2", "iproute2"]),
    program(Purpose::Run, "nsenter", ["util-linux", "util-linux", "util-linux", "util-linux"]),
    program(Purpose::Run, "ping", ["iputils-ping", "iputils", "iputils", "iputils"]),
    program(Purpose::Run, "ethtool", ["ethtool", "ethtool", "ethtool", "ethtool"]),
    program(Purpose::Run, "iperf3", ["iperf3", "iperf3", "iperf3", "iperf"]),
    program(Purpose::Run, "nft", ["nftables", "nftables", "nftables", "nftables"]),
    program(Purpose::Test, "iptables-nft", ["iptables", "iptables-nft", "iptables", "iptables"]),
    program(Purpose::Test, QEMU, ["qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86", "qemu-x86"]),
    program(Purpose::Test, "busybox", ["busybox-static", "busybox", "busybox", "busybox-static"]),
    program(Purpose::Test, "dig", ["bind9-dnsutils", "bind-utils", "bind", "bind-utils"]),
    program(Purpose::Test, "dnsmasq", ["dnsmasq-base", "dnsmasq", "dnsmasq", "dnsmasq"]),
    program(Purpose::Test, "etcd", ["etcd-server", "etcd", "etcd", "etcd"]),
    program(Purpose::Test, "tcpdump", ["tcpdump", "tcpdump", "tcpdump", "tcpdump"]),
    program(Purpose::Test, "tshark", ["tshark", "wireshark-cli", "wireshark-cli", "wireshark"]),
    program(Purpose::Test, "depmod", ["kmod", "kmod", "kmod", "kmod"]),
    program(Purpose::Test, "xz", ["xz-utils", "xz", "xz", "xz"]),
    program(Purpose::Test, "firewalld", ["firewalld", "firewalld", "firewalld", "firewalld"]),
    program(Purpose::Test, "ufw", ["ufw", "ufw", "ufw", "ufw"]),
    program(Purpose::Test, "NetworkManager", ["network-manager", "NetworkManager", "networkmanager", "NetworkManager"]),
    program(Purpose::Test, "dbus-daemon", ["dbus", "dbus-daemon", "dbus", "dbus-1-daemon"]),
    program(Purpose::Test, "dockerd", ["docker.io", "moby-engine", "docker", "docker"]),
    program(Purpose::Test, "docker", ["docker.io", "docker-cli", "docker", "docker"]),
    program(
        Purpose::Test,
        "mmdebstrap",
        ["mmdebstrap debian-archive-keyring", "mmdebstrap", "mmdebstrap", "mmdebstrap"],
    ),
    program(Purpose::Bench, "dockerd", ["docker.io", "moby-engine", "docker", "docker"]),
    program(Purpose::Bench, "docker", ["docker.io", "docker-cli", "docker", "docker"]),
    program(Purpose::Bench, "etcd", ["etcd-server", "etcd", "etcd", "etcd"]),
    program(Purpose::Bench, "iptables", ["iptables", "iptables-nft", "iptables", "iptables"]),
];

/// The emulator that boots other kernels.
pub const QEMU: &str = "qemu-system-x86_64";

/// Returns the missing requirements of a purpose.
pub fn missing(purpose: Purpose) -> Vec<Requirement> {
    let programs = PROGRAMS.iter().filter(|program| purpose.includes(program.purpose));
    // Other kernels are booted only on x86-64; see kernels.rs.
    let programs = programs.filter(|program| cfg!(target_arch = "x86_64") || program.name != QEMU);
    let missing = programs.filter(|program| match program.name {
        "busybox" => !has_static_busybox(),
        PROTOC => !has_protoc(),
        name => !programs::exists(name),
    });
    let requirement = |program: &Program| {
        let [mut debian, fedora, arch, suse] = program.packages;
        // Debian 13 moved the client out of the package docker.io.
        if program.name == "docker" && distribution::apt_has("docker-cli") {
            debian = "docker-cli";
        }
        Requirement::new(program.name, debian, fedora, arch, suse)
    };
    missing.map(requirement).collect()
}

/// Returns whether busybox is linked statically, as required in an initramfs that may lack shared
/// libraries.
fn has_static_busybox() -> bool {
    programs::find("busybox").is_some_and(|file| crate::kernels::libraries::is_static(&file))
}

/// The compiler of etcd's messages. The etcd client needs it at build time.
const PROTOC: &str = "protoc";

/// Returns whether protoc works. It needs the descriptor messages, which are a separate package on
/// Debian.
fn has_protoc() -> bool {
    let mut command = Command::new(PROTOC);
    command.args(["--descriptor_set_out=/dev/null", "google/protobuf/descriptor.proto"]).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns the missing requirements for building bpf-linker.
pub fn missing_for_llvm(major: u32) -> Vec<Requirement> {
    let mut missing = Vec::new();
    if !programs::exists("c++") {
        missing.push(Requirement::new("a C++ compiler", "g++", "gcc-c++", "gcc", "gcc-c++"));
    }
    let debian = [
        format!("llvm-{major}-dev"),
        format!("libpolly-{major}-dev"),
        "libzstd-dev".into(),
        "zlib1g-dev".into(),
        "libxml2-dev".into(),
    ];
    let installed = match Distribution::here() {
        // The package of llvm-config does not depend on all libraries that llvm-config lists.
        Distribution::Debian if env::var_os("LLVM_PREFIX").is_none() => {
            debian.iter().all(|package| distribution::dpkg_has(package))
        }
        _ => toolchain::llvm_prefix(major).is_some(),
    };
    if !installed {
        missing.push(Requirement::new(
            format!("the development files of LLVM {major}"),
            &debian.join(" "),
            &format!("llvm{major}-devel libzstd-devel zlib-devel libxml2-devel"),
            "llvm zstd zlib libxml2",
            &format!("llvm{major}-devel libzstd-devel zlib-devel libxml2-devel"),
        ));
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_benchmark_include_run_but_not_each_other() {
        for purpose in [Purpose::Run, Purpose::Test, Purpose::Bench] {
            assert!(purpose.includes(Purpose::Build) && purpose.includes(Purpose::Run) && purpose.includes(purpose));
        }
        assert!(!Purpose::Test.includes(Purpose::Bench) && !Purpose::Bench.includes(Purpose::Test));
        assert!(!Purpose::Build.includes(Purpose::Run));
        assert_eq!(missing(Purpose::Build), []);
    }

    #[test]
    fn packages_depend_on_the_distribution() {
        let requirement = Requirement::new("a thing", "a b", "c", "d", "e");
        assert_eq!(requirement.packages(Distribution::Debian), ["a", "b"]);
        assert_eq!(requirement.packages(Distribution::Other), ["a", "b"]);
        assert_eq!(requirement.packages(Distribution::Fedora), ["c"]);
        assert_eq!(requirement.packages(Distribution::Arch), ["d"]);
        assert_eq!(requirement.packages(Distribution::Suse), ["e"]);
    }
}
