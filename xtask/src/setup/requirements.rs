//! What comes as packages of the distribution: how to tell that it is there, and what the packages are called.

use std::env;
use std::process::{Command, Stdio};

use super::{
    Purpose,
    distribution::{self, Distribution},
    toolchain,
};
use crate::programs;

/// Something that packages bring.
#[derive(Debug, PartialEq, Eq)]
pub struct Requirement {
    /// What it is, for a person who must install it by hand.
    pub what: String,
    debian: Vec<String>,
    fedora: Vec<String>,
    arch: Vec<String>,
    suse: Vec<String>,
}

impl Requirement {
    /// Each list of packages in one string, separated by spaces.
    fn new(what: impl Into<String>, debian: &str, fedora: &str, arch: &str, suse: &str) -> Self {
        let list = |packages: &str| packages.split_whitespace().map(str::to_owned).collect();
        Self { what: what.into(), debian: list(debian), fedora: list(fedora), arch: list(arch), suse: list(suse) }
    }

    /// The packages that bring it.
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

/// A program that vswitch's tests, demo or benchmark start, or that xtask starts itself.
struct Program {
    name: &'static str,
    purpose: Purpose,
    packages: [&'static str; 4],
}

const fn program(purpose: Purpose, name: &'static str, packages: [&'static str; 4]) -> Program {
    Program { name, purpose, packages }
}

/// The packages of Debian, Fedora, Arch and openSUSE.
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
    program(Purpose::Bench, "dockerd", ["docker.io", "moby-engine", "docker", "docker"]),
    program(Purpose::Bench, "docker", ["docker.io", "docker-cli", "docker", "docker"]),
    program(Purpose::Bench, "etcd", ["etcd-server", "etcd", "etcd", "etcd"]),
    program(Purpose::Bench, "iptables", ["iptables", "iptables-nft", "iptables", "iptables"]),
];

/// The emulator of the machines whose kernels we have.
pub const QEMU: &str = "qemu-system-x86_64";

/// What a purpose needs and is not there.
pub fn missing(purpose: Purpose) -> Vec<Requirement> {
    let programs = PROGRAMS.iter().filter(|program| purpose.includes(program.purpose));
    // Other kernels are booted on x86-64 only; see kernels.rs.
    let programs = programs.filter(|program| cfg!(target_arch = "x86_64") || program.name != QEMU);
    let missing = programs.filter(|program| match program.name {
        "busybox" => !has_static_busybox(),
        PROTOC => !has_protoc(),
        name => !programs::exists(name),
    });
    let requirement = |program: &Program| {
        let [mut debian, fedora, arch, suse] = program.packages;
        // From Debian 13 on it is no longer part of docker.io.
        if program.name == "docker" && distribution::apt_has("docker-cli") {
            debian = "docker-cli";
        }
        Requirement::new(program.name, debian, fedora, arch, suse)
    };
    missing.map(requirement).collect()
}

/// It is to run where there are no shared libraries yet.
fn has_static_busybox() -> bool {
    programs::find("busybox").is_some_and(|file| crate::kernels::libraries::is_static(&file))
}

/// The compiler of etcd's messages, which are part of the program that talks to it.
const PROTOC: &str = "protoc";

/// It needs the messages that all others are described with, and on Debian they are another package.
fn has_protoc() -> bool {
    let mut command = Command::new(PROTOC);
    command.args(["--descriptor_set_out=/dev/null", "google/protobuf/descriptor.proto"]).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What building bpf-linker needs and is not there.
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
    let there = match Distribution::here() {
        // What llvm-config would have us link with is not all among the dependencies of its package.
        Distribution::Debian if env::var_os("LLVM_PREFIX").is_none() => {
            debian.iter().all(|package| distribution::dpkg_has(package))
        }
        _ => toolchain::llvm_prefix(major).is_some(),
    };
    if !there {
        missing.push(Requirement::new(
            format!("the LLVM {major} libraries for development"),
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
    fn tests_and_benchmark_include_running_but_not_each_other() {
        for purpose in [Purpose::Run, Purpose::Test, Purpose::Bench] {
            assert!(purpose.includes(Purpose::Build) && purpose.includes(Purpose::Run) && purpose.includes(purpose));
        }
        assert!(!Purpose::Test.includes(Purpose::Bench) && !Purpose::Bench.includes(Purpose::Test));
        assert!(!Purpose::Build.includes(Purpose::Run));
        assert_eq!(missing(Purpose::Build), []);
    }

    #[test]
    fn packages_are_those_of_the_distribution() {
        let requirement = Requirement::new("a thing", "a b", "c", "d", "e");
        assert_eq!(requirement.packages(Distribution::Debian), ["a", "b"]);
        assert_eq!(requirement.packages(Distribution::Other), ["a", "b"]);
        assert_eq!(requirement.packages(Distribution::Fedora), ["c"]);
        assert_eq!(requirement.packages(Distribution::Arch), ["d"]);
        assert_eq!(requirement.packages(Distribution::Suse), ["e"]);
    }
}
