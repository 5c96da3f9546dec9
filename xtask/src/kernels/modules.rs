//! Which of a kernel's modules come along: those of the network, and whatever these need in turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{archive::Archive, image::Kernel};

/// Directories that come along whole: so the kernel finds what it asks modprobe for, as on an installed system.
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

/// Devices without hardware.
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

/// Puts them into the archive, with the lists that modprobe reads. Those that are compressed are unpacked into a
/// directory first: busybox knows not every compression.
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

/// The list modules.dep: for each module those that it needs, the directly needed first.
struct Dependencies<'a> {
    of: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Dependencies<'a> {
    fn parse(text: &'a str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Self { of: lines.map(|(module, needs)| (module.trim(), needs.split_whitespace().collect())).collect() }
    }

    /// The wanted ones, and all that they need, directly or not.
    fn closure(&self, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let mut open: Vec<_> = self.of.keys().copied().filter(|module| is_wanted(module)).collect();
        while let Some(module) = open.pop() {
            if found.insert(module) {
                open.extend(self.of.get(module).into_iter().flatten());
            }
        }
        found
    }

    /// The same list with some of the modules, none of them compressed any more.
    fn render(&self, modules: &BTreeSet<&str>) -> String {
        let line = |module: &&str| {
            let needs =
                self.of.get(module).into_iter().flatten().map(|needed| format!(" {}", without_compression(needed)));
            format!("{}:{}\n", without_compression(module), needs.collect::<String>())
        };
        modules.iter().map(line).collect()
    }
}

fn without_compression(module: &str) -> &str {
    [".xz", ".zst", ".gz"].iter().find_map(|suffix| module.strip_suffix(suffix)).unwrap_or(module)
}

/// Unpacks a module, if that was not done before.
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
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    // Under another name until it is complete.
    let partial = plain.with_extension("partial");
    let file = File::create(&partial).with_context(|| format!("making {}", partial.display()))?;
    let mut command = Command::new(program);
    let status = command.args(["--decompress", "--stdout"]).arg(source).stdin(Stdio::null()).stdout(file).status();
    let status = status.with_context(|| format!("running {program} for {}", source.display()))?;
    ensure!(status.success(), "{program} cannot unpack {} ({status})", source.display());
    fs::rename(&partial, plain).with_context(|| format!("moving {} to its place", plain.display()))
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
    fn what_a_wanted_module_needs_comes_along() {
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
    fn modprobe_is_told_of_unpacked_modules() {
        let dependencies = Dependencies::parse(MODULES_DEP);
        let needed = dependencies.closure(|module| module.contains("/shared."));
        assert_eq!(dependencies.render(&needed), "kernel/lib/deep.ko:\nkernel/lib/shared.ko: kernel/lib/deep.ko\n");
    }

    #[test]
    fn the_network_is_wanted_and_hardware_is_not() {
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
