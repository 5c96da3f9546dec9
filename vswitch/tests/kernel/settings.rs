//! Tests of offloads, sysctls, feature detection and the bpffs.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use vswitch::kernel::capabilities::Capabilities;
use vswitch::kernel::ethtool::{self, EthtoolError, Feature};
use vswitch::kernel::netlink::Netlink;
use vswitch::kernel::{bpffs, sysctl};

use crate::shared::{Namespace, veth};

/// Guard that unmounts a bpffs when the test ends or fails.
struct Unmounted<'a>(&'a Path);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        while bpffs::is_mounted(self.0) && umount2(self.0, MntFlags::MNT_DETACH).is_ok() {}
    }
}

#[tokio::test]
async fn changing_offloads_and_sysctls_returns_their_previous_state() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let (host, container) = (host.open(), container.open());
    let host_netlink = Netlink::open_in(&host).expect("a socket");
    host_netlink.create_veth(&veth("vp0", "eth0", Some(&container))).await.expect("create the veth pair");
    container
        .enter(|| {
            assert_eq!(ethtool::driver("eth0").expect("ask"), "veth");
            assert!(!ethtool::set("eth0", Feature::Gro, true).expect("GRO on"));
            assert!(ethtool::get("eth0", Feature::Gro).expect("ask"));
            assert!(ethtool::set("eth0", Feature::TxChecksum, false).expect("checksums off"));
            assert!(!ethtool::get("eth0", Feature::TxChecksum).expect("ask"));
            assert!(ethtool::set("eth0", Feature::TxVlan, false).expect("tags off"));
            assert!(!ethtool::get("eth0", Feature::TxVlan).expect("ask"));
            assert!(matches!(ethtool::get("eth9", Feature::Gro), Err(EthtoolError::NotFound { .. })));
            for feature in [Feature::TxChecksum, Feature::Tso, Feature::TxVlan] {
                ethtool::set("eth0", feature, true).expect("on again");
                assert!(ethtool::get("eth0", feature).expect("ask"), "{feature:?}");
            }
            let fixed = ethtool::set("lo", Feature::TxChecksum, false);
            assert!(matches!(fixed, Err(EthtoolError::Fixed { on: false, .. })), "{fixed:?}");
            let accept = ["net", "ipv6", "conf", "eth0", "accept_ra"];
            assert_eq!(sysctl::write(&accept, "0").expect("write"), "1");
            assert_eq!(sysctl::read(&accept).expect("read"), "0");
            assert!(sysctl::read(&["net", "ipv6", "conf", "eth9", "accept_ra"]).expect_err("no device").is_missing());
        })
        .expect("enter");
}

#[test]
fn this_kernel_is_supported_and_a_bpffs_is_mounted_and_removed() {
    let capabilities = Capabilities::detect().expect("look");
    assert_eq!(capabilities.require(), Ok(()));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bpf");
    let _unmounted = Unmounted(&path);
    bpffs::ensure(&path).expect("mount");
    bpffs::ensure(&path).expect("also a second time");
    fs::create_dir_all(path.join("links/deep")).expect("a directory in it");
    assert!(bpffs::is_mounted(&path));
    bpffs::remove(&path).expect("unmount");
    bpffs::remove(&path).expect("also a second time");
    assert!(!path.exists());
}
