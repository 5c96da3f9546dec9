//! The address of an endpoint is free only after its published ports are closed, also while nft
//! fails or hangs.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Host, Netns, PATIENCE, Site, Uplinks, addresses, eventually, get, run, try_get};

/// An `nft` in front of the real one that does what the file `mode` says: `fail`, `hang`, or
/// anything else to run the real one.
struct UnreliableNft(tempfile::TempDir);

impl UnreliableNft {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let real = ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft"].into_iter().find(|path| Path::new(path).exists());
        let mode = directory.path().join("mode");
        let script = format!(
            "#!/bin/sh\ncase \"$(cat {})\" in\nfail) echo 'Error: out of order' >&2; exit 1;;\nhang) exec sleep 100000;;\nesac\nexec {} \"$@\"\n",
            mode.display(),
            real.expect("nft is installed")
        );
        let program = directory.path().join("nft");
        std::fs::write(&program, script).expect("a file of our own");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("a file of our own");
        let nft = Self(directory);
        nft.set("work");
        nft
    }

    fn set(&self, mode: &str) {
        std::fs::write(self.0.path().join("mode"), mode).expect("a file of our own");
    }

    fn start(&self, host: &Host) {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap_or_default());
        let outcome = run(host.command(&["up"]).env("PATH", path));
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    }
}

#[test]
fn an_address_is_free_after_its_ports_are_closed() {
    let uplinks = Uplinks::new();
    let Uplinks { outside, host, .. } = &uplinks;
    let nft = UnreliableNft::new();
    nft.start(host);
    host.ok(&["network", "create", "--subnet", "10.121.0.0/24", "--subnet", "fd00:121::/64", "front"]);
    for mode in ["fail", "hang"] {
        let [web, next] = ["web", "next"].map(Netns::new);
        let at_web = host.attach(&web, &["--network", "front", "--name", "web", "-p", "8080:80"]);
        let [ipv4, ipv6] = [at_web.ipv4.to_string(), at_web.ipv6.unwrap().to_string()];
        nft.set(mode);
        host.ok(&["detach", "web"]);
        // Neither by chance nor by request.
        let path = next.path_argument();
        for flags in [["--ip", &ipv4], ["--ip6", &ipv6]] {
            let error = host.fails(1, &[&["attach", "--netns", &path, "--network", "front"][..], &flags].concat());
            assert!(error.contains(flags[1]) && error.contains("published"), "{mode}: {error}");
        }
        let at_next = host.attach(&next, &["--network", "front", "--name", "next"]);
        assert_ne!((at_next.ipv4, at_next.ipv6), (at_web.ipv4, at_web.ipv6), "{mode}");
        assert!(at_next.ipv4 != at_web.ipv4 && at_next.ipv6 != at_web.ipv6, "{mode}");
        let _site = Site::open(&next, 80, "next");
        for to in addresses(Uplinks::HOST) {
            let got = try_get(outside, SocketAddr::new(to, 8080), std::time::Duration::from_millis(300));
            assert!(got.is_err(), "{mode}: {got:?}");
        }
        let notes = host.json::<Value>(&["status"])["notes"].to_string();
        assert!(notes.contains("nft"), "{mode}: {notes}");
        host.ok(&["detach", "next"]);
        nft.set("work");
        eventually("the address is free", || {
            let attach =
                ["attach", "--netns", &path, "--network", "front", "--name", "next", "--ip", &ipv4, "--ip6", &ipv6];
            (host.run(&attach).code == Some(0)).then_some(())
        });
        for to in addresses(Uplinks::HOST) {
            let closed = try_get(outside, SocketAddr::new(to, 8080), PATIENCE).expect_err("nothing is published");
            assert_eq!(closed.kind(), std::io::ErrorKind::ConnectionRefused, "{mode}");
        }
        // The port is free, too.
        let other = Netns::new("other");
        host.attach(&other, &["--network", "front", "--name", "other", "-p", "8080:80"]);
        let _site = Site::open(&other, 80, "other");
        assert_eq!(get(outside, addresses(Uplinks::HOST)[0], 8080).site, "other");
        host.ok(&["detach", "other"]);
        host.ok(&["detach", "next"]);
        eventually("nothing is noted", || {
            (!host.json::<Value>(&["status"])["notes"].to_string().contains("nft")).then_some(())
        });
    }
}
