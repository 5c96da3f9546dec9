//! The kernel modules in the initramfs: those of the network and their dependencies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{archive::Archive, image::Kernel};

/// Directories whose modules are all included, so that modprobe requests of the kernel succeed as
/// on an installed system.
const DIRECTORIES: [&str; 18] = [
    "arch/x86/crypto/",
    "crypto/",
    "lib/crypto/",
    "net/802/",
    "net/8021q/",
    "net/bridge/",
    "net/core/",
    "net/ipv4/",
    "net/ipv6/",
    "net/key/",
    "net/llc/",
    "net/netfilter/",
    "net/packet/",
    "net/sched/",
    "net/sctp/",
    "net/tls/",
    "net/unix/",
    "net/xfrm/",
];

/// Modules of devices without hardware.
const DEVICES: [&str; 15] = [
    "bonding",
    "dummy",
    "geneve",
    "ifb",
    "ipvlan",
    "ipvtap",
    "macvlan",
    "macvtap",
    "netkit",
    "tap",
    "tun",
    "veth",
    "vrf",
    "vxlan",
    "wireguard",
];

/// Adds the modules to the archive, with the lists that modprobe reads. Compressed modules are
/// first unpacked into the directory `unpacked`, because busybox does not support every
/// compression.
pub fn add(archive: &mut Archive, kernel: &Kernel, unpacked: &Path) -> Result<()> {
    let Some(modules) = &kernel.modules else { return Ok(()) };
    let read = |name: &str| {
        fs::read_to_string(modules.join(name)).with_context(|| format!("reading {} of {}", name, modules.display()))
    };
    let list = read("modules.dep")?;
    let dependencies = Dependencies::parse(&list);
    let needed = dependencies.closure(is_wanted);

    let inside = Path::new("/lib/modules").join(&kernel.release);
    for module in &needed {
        let name = without_compression(module);
        let source = modules.join(module);
        if name.len() == module.len() {
            archive.copy(inside.join(name), source);
        } else {
            let plain = unpacked.join(name);
            unpack(&source, &plain)?;
            archive.copy(inside.join(name), plain);
        }
    }
    archive.text(inside.join("modules.dep"), dependencies.render(&needed), 0o644);
    for list in ["modules.alias", "modules.symbols", "modules.builtin"] {
        archive.copy(inside.join(list), modules.join(list));
    }
    Ok(())
}

fn is_wanted(module: &str) -> bool {
    let Some(path) = module.strip_prefix("kernel/") else { return false };
    let name = path.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
    DIRECTORIES.iter().any(|directory| path.starts_with(directory))
        || (path.starts_with("drivers/net/") && DEVICES.contains(&name))
}

/// The file modules.dep: the dependencies of each module, direct ones first.
struct Dependencies<'a> {
    dependencies: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Dependencies<'a> {
    fn parse(text: &'a str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Self {
            dependencies: lines.map(|(module, needs)| (module.trim(), needs.split_whitespace().collect())).collect(),
        }
    }

    /// Returns the wanted modules and all their direct and indirect dependencies.
    fn closure(&self, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let mut pending: Vec<_> = self.dependencies.keys().copied().filter(|module| is_wanted(module)).collect();
        while let Some(module) = pending.pop() {
            if found.insert(module) {
                pending.extend(self.dependencies.get(module).into_iter().flatten());
            }
        }
        found
    }

    /// Formats the list for some of the modules, with the names of their uncompressed files.
    fn render(&self, modules: &BTreeSet<&str>) -> String {
        let line = |module: &&str| {
            let needs = self
                .dependencies
                .get(module)
                .into_iter()
                .flatten()
                .map(|needed| format!(" {}", without_compression(needed)));
            format!("{}:{}\n", without_compression(module), needs.collect::<String>())
        };
        modules.iter().map(line).collect()
    }
}

fn without_compression(module: &str) -> &str {
    [".xz", ".zst", ".gz"].iter().find_map(|suffix| module.strip_suffix(suffix)).unwrap_or(module)
}

/// Unpacks a module, unless the unpacked file exists already.
fn unpack(source: &Path, plain: &Path) -> Result<()> {
    if plain.is_file() {
        return Ok(());
    }
    let program = match source.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => "gzip",
    };
    if let Some(directory) = plain.parent() {
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    // The file has another name until it is complete.
    let partial = plain.with_extension("partial");
    let file = File::create(&partial).with_context(|| format!("creating {}", partial.display()))?;
    let mut command = Command::new(program);
    let status = command.args(["--decompress", "--stdout"]).arg(source).stdin(Stdio::null()).stdout(file).status();
    let status = status.with_context(|| format!("running {program} for {}", source.display()))?;
    ensure!(status.success(), "{program} cannot unpack {} ({status})", source.display());
    fs::rename(&partial, plain).with_context(|| format!("renaming {}", plain.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES_DEP: &str = "\
kernel/drivers/net/vxlan/vxlan.ko.xz: kernel/net/ipv4/udp_tunnel.ko.xz kernel/net/ipv6/ip6_udp_tunnel.ko.xz
kernel/net/ipv4/udp_tunnel.ko.xz: kernel/lib/shared.ko.xz
kernel/net/ipv6/ip6_udp_tunnel.ko.xz:
kernel/lib/shared.ko.xz: kernel/lib/deep.ko.xz
kernel/lib/deep.ko.xz:
kernel/drivers/net/ethernet/intel/e1000.ko.xz:
kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz
kernel/fs/jbd2/jbd2.ko.xz:
";

    #[test]
    fn dependencies_of_wanted_modules_are_included() {
        let dependencies = Dependencies::parse(MODULES_DEP);
        let needed = dependencies.closure(|module| module.contains("/vxlan."));
        let expected = [
            "kernel/drivers/net/vxlan/vxlan.ko.xz",
            "kernel/lib/deep.ko.xz",
            "kernel/lib/shared.ko.xz",
            "kernel/net/ipv4/udp_tunnel.ko.xz",
            "kernel/net/ipv6/ip6_udp_tunnel.ko.xz",
        ];
        assert_eq!(needed.iter().copied().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn modules_dep_lists_uncompressed_modules() {
        let dependencies = Dependencies::parse(MODULES_DEP);
        let needed = dependencies.closure(|module| module.contains("/shared."));
        assert_eq!(dependencies.render(&needed), "kernel/lib/deep.ko:\nkernel/lib/shared.ko: kernel/lib/deep.ko\n");
    }

    #[test]
    fn network_modules_are_wanted_and_hardware_drivers_are_not() {
        for wanted in [
            "kernel/drivers/net/veth.ko",
            "kernel/drivers/net/ipvlan/ipvlan.ko.xz",
            "kernel/net/sched/cls_bpf.ko.xz",
            "kernel/crypto/gcm.ko",
        ] {
            assert!(is_wanted(wanted), "{wanted}");
        }
        for unwanted in [
            "kernel/drivers/net/ethernet/intel/e1000.ko",
            "kernel/fs/ext4/ext4.ko",
            "kernel/drivers/tty/veth.ko",
            "updates/veth.ko",
        ] {
            assert!(!is_wanted(unwanted), "{unwanted}");
        }
    }
}
