//! The root file systems with engines: what is in them, and where they are kept. `cargo xtask setup
//! --engines` makes them, the tests mount them; both compile this file.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
};

/// A root file system of Debian with engines.
#[derive(Debug, Hash)]
pub struct Root {
    pub name: &'static str,
    /// The release of Debian.
    pub suite: &'static str,
    /// The packages, without those that Debian calls essential. Recommended packages are left out.
    pub packages: &'static str,
}

/// Docker 26.1 with compose 2, podman 5.4 with netavark, containerd 1.7 and the CNI plugins: the
/// root of the tests that CI runs for every commit.
pub const TRIXIE: Root = Root {
    name: "trixie",
    suite: "trixie",
    packages: "docker.io docker-cli docker-compose podman netavark crun containerd containernetworking-plugins \
               mount iproute2 iptables nftables iputils-ping busybox-static curl procps jq",
};

/// Docker 20.10 with compose 1.29, podman 4.3 with CNI, containerd 1.6.
pub const BOOKWORM: Root = Root {
    name: "bookworm",
    suite: "bookworm",
    packages: "docker.io docker-compose podman crun containerd containernetworking-plugins \
               mount iproute2 iptables nftables iputils-ping busybox-static curl procps jq",
};

/// Programs that run containers without an engine's network: LXC, Incus, systemd-nspawn, bubblewrap.
pub const OTHERS: Root = Root {
    name: "others",
    suite: "trixie",
    packages: "lxc incus-base incus-client systemd-container bubblewrap \
               mount iproute2 iptables nftables iputils-ping busybox-static procps jq",
};

/// All roots. The first is the one of CI.
pub const ROOTS: [&Root; 3] = [&TRIXIE, &BOOKWORM, &OTHERS];

/// Where the roots are kept. They outlive `cargo clean`.
pub const CACHE: &str = "/var/cache/vswitch-engines";

/// The environment variable that makes a missing root a failure.
pub const ALL_REQUIRED: &str = "VSWITCH_TEST_ALL_ENGINES";

/// The script that makes a root. Its arguments are those of [`Root::arguments`].
pub const SCRIPT: &str = include_str!("root.sh");

impl Root {
    /// Returns the directory of this root. Another recipe has another directory.
    pub fn directory(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (self, SCRIPT).hash(&mut hasher);
        PathBuf::from(CACHE).join(format!("{}-{:08x}", self.name, hasher.finish() >> 32))
    }

    /// Reports whether the root has been made. It gets its name when it is complete.
    pub fn exists(&self) -> bool {
        self.directory().is_dir()
    }

    /// Returns the arguments of [`SCRIPT`].
    pub fn arguments(&self) -> [String; 3] {
        let packages: Vec<_> = self.packages.split_whitespace().collect();
        [self.directory().display().to_string(), self.suite.to_owned(), packages.join(",")]
    }
}
