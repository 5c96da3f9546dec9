//! Engines side by side, and programs that run containers without a network of their own.

use crate::harness::{Host, eventually, roots};

#[test]
fn x01_docker_and_podman_may_use_one_name() {
    let Some(host) = Host::start("x01") else { return };
    host.vswitch_up();
    host.vswitch("engine install docker");
    host.vswitch("engine install podman");
    let docker = host.docker();
    docker.ok("network create -d vswitch --ipam-driver vswitch front");
    docker.ok("run -d --name web --network front busybox sleep 1000");
    host.ok("podman import -q /usr/share/vswitch/busybox.tar busybox; podman network create -d vswitch pods");
    host.ok("podman run -d --name web --network pods busybox sleep 1000");
    docker.ok("run --rm --network front busybox ping -c 1 web");
    host.ok("podman run --rm --cap-add NET_RAW --network pods busybox ping -c 1 web");
    eventually("both have the name", || (host.vswitch("ps -q") == "web\nweb").then_some(()));
    let refused = host.fails("vswitch detach web");
    assert!(refused.contains("could mean") && refused.contains("docker") && refused.contains("podman"), "{refused}");
    host.ok("podman rm -f -t 0 web");
    docker.ok("rm -f web");
}

#[test]
fn x02_other_programs_are_attached_by_the_path_of_their_namespace() {
    let Some(host) = Host::on(&roots::OTHERS, "x02") else { return };
    host.vswitch_up();
    let released = || eventually("it is released", || host.endpoints().is_empty().then_some(()));
    // unshare
    host.ok("unshare --net sleep 1000 & p=$!; sleep 0.2; vswitch attach --netns /proc/$p/ns/net --name u
        nsenter --net=/proc/$p/ns/net ping -c 1 10.201.0.1; kill $p");
    released();
    // bubblewrap: the program waits until the namespace is attached.
    host.ok("mkfifo /tmp/block; exec 8<>/tmp/block
        bwrap --unshare-net --dev-bind / / --info-fd 9 --block-fd 8 ping -c 1 10.201.0.1 9>/tmp/info & b=$!
        until grep -q child-pid /tmp/info; do sleep 0.05; done
        vswitch attach --netns /proc/$(jq '.\"child-pid\"' /tmp/info)/ns/net --name b; echo go >&8; wait $b");
    released();
    // LXC, with a hook before the container starts and one after its end
    host.write("/tmp/hook", "#!/bin/sh\nvswitch attach --netns /proc/$LXC_PID/ns/net --name l\n");
    host.write("/tmp/end", "#!/bin/sh\nvswitch detach l\n");
    host.write(
        "/tmp/lxc/l/config",
        "lxc.uts.name = l\nlxc.rootfs.path = dir:/tmp/root\nlxc.net.0.type = empty\nlxc.hook.version = 1\n\
         lxc.hook.start-host = /tmp/hook\nlxc.hook.post-stop = /tmp/end\nlxc.init.cmd = /bin/sleep 1000\n\
         lxc.apparmor.profile = unconfined\n",
    );
    host.ok("mkdir -p /tmp/root; cp -a /usr/share/vswitch/busybox/. /tmp/root/; chmod +x /tmp/hook /tmp/end
        lxc-start -P /tmp/lxc -n l
        lxc-attach -P /tmp/lxc -n l -- ping -c 1 10.201.0.1
        lxc-stop -P /tmp/lxc -n l -k");
    released();
    // systemd-nspawn
    host.ok("ip netns add n; vswitch attach --netns /run/netns/n; mkdir -p /tmp/root; cp -a /usr/share/vswitch/busybox/. /tmp/root/
        systemd-nspawn -q --register=no --keep-unit --resolv-conf=off --network-namespace-path=/run/netns/n -D /tmp/root ping -c 1 10.201.0.1
        vswitch detach n");
    released();
}

#[test]
fn x02_incus_attaches_its_containers_by_hooks() {
    let Some(host) = Host::on(&roots::OTHERS, "x02i") else { return };
    host.vswitch_up();
    host.ok("echo root:1000000:65536 | tee /etc/subuid > /etc/subgid");
    host.daemon("incusd", "/usr/libexec/incus/incusd");
    host.settles("incus info > /dev/null");
    host.ok("incus storage create default dir; incus profile device add default root disk path=/ pool=default");
    host.write("/tmp/image/metadata.yaml", "architecture: x86_64\ncreation_date: 1\nproperties: {os: busybox}\n");
    host.write("/tmp/image/rootfs/sbin/init", "#!/bin/sh\nexec sleep 1000\n");
    host.ok("cd /tmp/image; cp -a /usr/share/vswitch/busybox/. rootfs/; chmod +x rootfs/sbin/init
        tar -czf ../image.tar.gz metadata.yaml rootfs; incus image import ../image.tar.gz --alias busybox");
    // The lines of the guide. No network device: Incus then gives the container a namespace that has only lo.
    let hooks = "lxc.hook.version = 1
lxc.hook.start-host = /bin/sh -c 'vswitch attach --netns /proc/$LXC_PID/ns/net --name $LXC_NAME'
lxc.hook.post-stop = /bin/sh -c 'vswitch detach $LXC_NAME'";
    host.write("/tmp/hooks", hooks);
    for kind in ["true", "false"] {
        host.ok(&format!("incus launch busybox inc -c security.privileged={kind} -c raw.lxc=\"$(cat /tmp/hooks)\""));
        assert_eq!(host.vswitch("ps -q"), "inc");
        host.ok("incus exec inc -- ping -c 1 10.201.0.1");
        host.ok("incus delete -f inc");
        eventually("it is released", || host.endpoints().is_empty().then_some(()));
    }
}
