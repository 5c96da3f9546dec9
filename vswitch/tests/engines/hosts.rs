//! The harness itself: engines work in its hosts as they do on a machine.

use crate::harness::Host;

/// Two containers on Docker's own bridge reach each other.
#[test]
fn docker_runs() {
    let Some(host) = Host::start("docker") else { return };
    let docker = host.docker();
    docker.ok("run -d --name one busybox sleep 1000");
    let address = docker.ok("inspect -f '{{.NetworkSettings.IPAddress}}' one");
    docker.ok(&format!("run --rm busybox ping -c 1 {address}"));
    assert!(docker.exec("one", "ip address").contains(&address), "exec enters the container");
    host.vswitch_up();
    assert_eq!(host.vswitch("ps -q"), "");
}

/// podman's own bridge works, and podmans of two hosts share nothing.
#[test]
fn podman_runs() {
    let Some(host) = Host::start("podman") else { return };
    host.ok("podman import -q /usr/share/vswitch/busybox.tar busybox");
    host.ok("podman run -d --name one busybox sleep 1000");
    let address = host.ok("podman inspect -f '{{.NetworkSettings.IPAddress}}' one");
    host.ok(&format!("podman run --rm --cap-add NET_RAW busybox ping -c 1 {address}"));
    host.ok("podman rm -f -t 0 one");
}
