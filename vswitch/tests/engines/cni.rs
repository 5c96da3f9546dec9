//! CNI: the verbs of the specification by hand, and containerd's client.

use serde_json::Value;

use crate::harness::{Host, eventually};

/// A network with a subnet of its own.
const CONF: &str = r#"{"cniVersion":"1.0.0","name":"vsnet","type":"vswitch","subnet":"10.9.0.0/24"}"#;

/// Starts a host with the plugin and three namespaces.
fn with_plugin(role: &str) -> Option<Host> {
    let host = Host::start(role)?;
    host.vswitch_up();
    host.vswitch("engine install cni");
    host.ok("for i in 1 2 3; do ip netns add p$i; done");
    Some(host)
}

/// Runs the plugin as a runtime does. Returns whether it succeeded, and its answer.
#[track_caller]
fn cni(host: &Host, command: &str, container: &str, netns: &str, ifname: &str, conf: &str) -> (bool, Value) {
    let outcome = host.run(&format!(
        "CNI_COMMAND={command} CNI_CONTAINERID={container} CNI_NETNS={netns} CNI_IFNAME={ifname} \
         CNI_PATH=/usr/lib/cni /usr/lib/cni/vswitch <<< '{conf}'"
    ));
    (outcome.code == Some(0), serde_json::from_str(&outcome.stdout).unwrap_or_default())
}

#[track_caller]
fn add(host: &Host, container: &str, netns: &str, ifname: &str, conf: &str) -> Value {
    let (ok, result) = cni(host, "ADD", container, netns, ifname, conf);
    assert!(ok, "{result}");
    result
}

/// Runs a command that must fail, and returns the code.
#[track_caller]
fn code(host: &Host, command: &str, container: &str, netns: &str, ifname: &str, conf: &str) -> u64 {
    let (ok, answer) = cni(host, command, container, netns, ifname, conf);
    assert!(!ok && answer["msg"].is_string(), "{answer}");
    answer["code"].as_u64().expect("a code")
}

#[test]
fn c01_the_verbs_are_those_of_the_specification() {
    let Some(host) = with_plugin("c01") else { return };
    let result = add(&host, "c1", "/run/netns/p1", "eth0", CONF);
    assert_eq!(result["ips"][0]["address"], "10.9.0.2/24");
    host.ok("ip netns exec p1 ping -c 1 10.9.0.1");
    assert_eq!(code(&host, "ADD", "c1", "/run/netns/p1", "eth0", CONF), 100);
    let checked = |result: &Value| {
        let conf = CONF.replace("\"subnet\"", &format!("\"prevResult\":{result},\"subnet\""));
        cni(&host, "CHECK", "c1", "/run/netns/p1", "eth0", &conf)
    };
    assert!(checked(&result).0);
    assert!(!checked(&serde_json::json!({"ips": [{"address": "10.9.0.77/24"}]})).0);
    for netns in ["/run/netns/p1", "", "/run/netns/vanished"] {
        assert!(cni(&host, "DEL", "c1", netns, "eth0", CONF).0, "{netns}");
    }
    assert_eq!(code(&host, "CHECK", "c1", "/run/netns/p1", "eth0", CONF), 3);
    assert_eq!(host.vswitch("network ls -q").lines().count(), 3, "the network went with its last endpoint");
    // Each version of the specification has its own form of the result.
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let conf = CONF.replace("1.0.0", version);
        let result = add(&host, "c1", "/run/netns/p1", "eth0", &conf);
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["version"].is_string(), version.starts_with('0'), "{result}");
        assert!(cni(&host, "DEL", "c1", "", "eth0", &conf).0);
    }
    assert_eq!(code(&host, "ADD", "c1", "/run/netns/p1", "eth0", &CONF.replace("1.0.0", "9.0.0")), 1);
    assert_eq!(code(&host, "ADD", "\"\"", "/run/netns/p1", "eth0", CONF), 4);
    let limited = CONF.replace("\"subnet\"", "\"runtimeConfig\":{\"bandwidth\":{\"ingressRate\":1}},\"subnet\"");
    assert_eq!(code(&host, "ADD", "c1", "/run/netns/p1", "eth0", &limited), 2);
    // Addresses by another plugin.
    let host_local =
        r#"{"cniVersion":"1.0.0","name":"hl","type":"vswitch","ipam":{"type":"host-local","subnet":"10.8.0.0/24"}}"#;
    assert_eq!(add(&host, "c2", "/run/netns/p2", "eth0", host_local)["ips"][0]["address"], "10.8.0.2/24");
    host.ok("ip netns exec p2 ping -c 1 10.8.0.1");
    assert!(cni(&host, "DEL", "c2", "/run/netns/p2", "eth0", host_local).0);
    assert!(!host.ok("ls /var/lib/cni/networks/hl").contains("10.8.0.2"));
}

#[test]
fn c02_without_a_daemon_the_runtime_is_told_to_try_again() {
    let Some(host) = with_plugin("c02") else { return };
    assert!(cni(&host, "STATUS", "\"\"", "\"\"", "\"\"", CONF).0);
    host.vswitch("down");
    assert_eq!(code(&host, "STATUS", "\"\"", "\"\"", "\"\"", CONF), 50);
    assert_eq!(code(&host, "ADD", "c1", "/run/netns/p1", "eth0", CONF), 11);
}

#[test]
fn c03_garbage_is_collected() {
    let Some(host) = with_plugin("c03") else { return };
    for (container, netns) in [("c1", "p1"), ("c2", "p2"), ("c3", "p3")] {
        add(&host, container, &format!("/run/netns/{netns}"), "eth0", CONF);
    }
    let valid = r#""cni.dev/valid-attachments":[{"containerID":"c2","ifname":"eth0"}],"subnet""#;
    assert!(cni(&host, "GC", "\"\"", "\"\"", "\"\"", &CONF.replace("\"subnet\"", valid).replace("1.0.0", "1.1.0")).0);
    let left: Vec<Value> = host.endpoints().iter().map(|endpoint| endpoint["container"].clone()).collect();
    assert_eq!(left, ["c2"]);
}

#[test]
fn c05_containerd_starts_containers_and_their_end_is_noticed() {
    let Some(host) = with_plugin("c05") else { return };
    // A runtime takes the first configuration by name.
    host.ok("find /etc/cni/net.d -type f ! -name '*vswitch*' -delete; mkdir -p /opt/cni /run/containerd; ln -s /usr/lib/cni /opt/cni/bin");
    host.daemon("containerd", "containerd");
    host.settles("ctr version");
    let rootfs = "/usr/share/vswitch/busybox";
    host.ok(&format!("ctr run -d --cni --rootfs {rootfs} one /bin/sleep 1000"));
    let address = host.endpoints()[0]["ipv4"].as_str().expect("an address").to_owned();
    host.ok(&format!("ctr run --rm --cni --rootfs {rootfs} two /bin/ping -c 1 {address}"));
    // A detached task is never deleted: its namespace ends.
    host.ok("ctr task kill -s KILL one; sleep 0.5; ctr task rm one || true; ctr container rm one");
    eventually("the endpoint is released", || host.endpoints().is_empty().then_some(()));
}

#[test]
fn c06_a_container_has_two_interfaces_in_one_network() {
    let Some(host) = with_plugin("c06") else { return };
    add(&host, "c2", "/run/netns/p2", "eth0", CONF);
    for ifname in ["eth0", "net1"] {
        let result = add(&host, "c1", "/run/netns/p1", ifname, CONF);
        let address = result["ips"][0]["address"].as_str().and_then(|address| address.split('/').next());
        host.ok(&format!("ip netns exec p2 ping -c 1 {}", address.expect("an address")));
    }
    assert!(cni(&host, "DEL", "c1", "/run/netns/p1", "net1", CONF).0);
    assert!(host.ok("ip -n p1 link").contains("eth0") && !host.ok("ip -n p1 link").contains("net1"));
}

/// Returns the configuration of a chained plugin, with the result of the plugins before it.
fn chained(kind: &str, own: &str, result: &Value) -> String {
    format!(r#"{{"cniVersion":"1.0.0","name":"vsnet","type":"{kind}",{own}"prevResult":{result}}}"#)
}

#[test]
fn c07_plugins_of_the_project_follow_in_the_list() {
    let Some(host) = with_plugin("c07") else { return };
    let result = add(&host, "c1", "/run/netns/p1", "eth0", CONF);
    host.daemon("web", "ip netns exec p1 busybox httpd -f -p 80 -h /usr/share/vswitch");
    let ports =
        r#""runtimeConfig":{"portMappings":[{"hostPort":8088,"containerPort":80,"protocol":"tcp"}]},"snat":true,"#;
    let plugins = [("firewall", ""), ("portmap", ports)];
    let run = |command: &str, kind: &str, own: &str| {
        let conf = chained(kind, own, &result);
        host.ok(&format!(
            "CNI_COMMAND={command} CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/p1 CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni \
             /usr/lib/cni/{kind} <<< '{conf}'"
        ));
    };
    for (kind, own) in plugins {
        run("ADD", kind, own);
    }
    host.settles("curl -s --max-time 2 -o /dev/null http://127.0.0.1:8088/");
    run("ADD", "tuning", r#""sysctl":{"net.ipv4.conf.IFNAME.arp_notify":"1"},"#);
    assert_eq!(host.ok("ip netns exec p1 sysctl -n net.ipv4.conf.eth0.arp_notify"), "1");
    for (kind, own) in plugins {
        run("DEL", kind, own);
    }
    let late = chained("vswitch", r#""subnet":"10.9.0.0/24","#, &result);
    assert_eq!(code(&host, "ADD", "c2", "/run/netns/p2", "eth0", &late), 7, "vswitch is the first of the list");
}
