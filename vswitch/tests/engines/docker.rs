//! Docker's remote network driver and IPAM driver, with the real Docker.

use serde_json::{Value, json};

use crate::harness::{Docker, Host, eventually, roots};

/// Creates a network with our driver and our addresses.
const CREATE: &str = "network create -d vswitch --ipam-driver vswitch";

/// Starts a host whose Docker sees vswitch. `options` are dockerd's.
fn with_plugin(host: &Host) {
    host.vswitch_up();
    host.vswitch("engine install docker");
}

/// Returns the endpoint with this name and network.
#[track_caller]
fn endpoint(host: &Host, name: &str, network: &str) -> Value {
    let found = host.endpoints().into_iter().find(|one| one["name"] == name && one["network"] == network);
    found.unwrap_or_else(|| panic!("{name} in {network}: {:#?}", host.endpoints()))
}

/// Waits until Docker's events have told the name of a container.
#[track_caller]
fn named(host: &Host, name: &str, network: &str) -> Value {
    eventually("the name is known", || {
        host.endpoints().into_iter().find(|one| one["name"] == name && one["network"] == network)
    })
}

/// Starts a container that answers on port 80 with its name.
#[track_caller]
fn web(docker: &Docker<'_>, name: &str, flags: &str) {
    let serve = format!("sh -c 'mkdir -p /www; echo {name} > /www/index.html; exec httpd -f -p 80 -h /www'");
    docker.ok(&format!("run -d --name {name} {flags} busybox {serve}"));
}

/// Reads what a server says.
#[track_caller]
fn get(host: &Host, from: &str, url: &str) -> String {
    host.settles(&format!("{from} curl -sf --max-time 2 {url}"))
}

/// Returns the addresses that Docker has leased.
fn leases(host: &Host) -> Vec<Value> {
    host.json("curl -s --unix-socket /run/vswitch/default/api.sock http://vswitch/v1/ipam/pools")
}

/// Adds a machine `lan` at a wire of its own: 192.0.2.9 beside the host's 192.0.2.1.
fn with_lan(host: &Host) {
    host.ok("ip netns add lan
        ip link add eth1 type veth peer eth0 netns lan
        ip addr add 192.0.2.1/24 dev eth1; ip link set eth1 up
        ip -n lan addr add 192.0.2.9/24 dev eth0; ip -n lan link set eth0 up; ip -n lan link set lo up");
}

#[test]
fn d01_networks_are_created_as_asked_and_nothing_is_left_of_them() {
    let Some(host) = Host::start("d01") else { return };
    with_plugin(&host);
    let docker = host.docker();
    let devices = host.ok("ls /sys/class/net");
    docker.ok(&format!("{CREATE} plain"));
    docker.ok(&format!(
        "{CREATE} --subnet 10.44.0.0/24 --ip-range 10.44.0.128/25 --gateway 10.44.0.1 --aux-address router=10.44.0.129 \
         --ipv6 --subnet fd44::/64 -o mtu=1400 full"
    ));
    docker.ok(&format!("{CREATE} --internal inner"));
    docker.ok("network create -d vswitch --subnet 10.45.0.0/24 own");
    docker.ok("run --rm --network own busybox ping -c 1 10.45.0.1");
    docker.ok("run -d --name one --network full busybox sleep 1000");
    let one = named(&host, "one", "full");
    assert_eq!((&one["ipv4"], &one["mtu"]), (&json!("10.44.0.128"), &json!(1400)));
    docker.ok("run -d --name two --network full busybox sleep 1000");
    assert_eq!(named(&host, "two", "full")["ipv4"], "10.44.0.130", "the auxiliary address is left out");
    docker.ok("exec one ping -c 1 fd44::1");
    assert!(!docker.ok("run --rm --network inner busybox ip route").contains("default"));
    docker.ok("rm -f one two");
    docker.ok("network rm plain full inner own");
    assert_eq!((leases(&host), host.ok("ls /sys/class/net")), (Vec::new(), devices));
    assert_eq!(host.vswitch("network ls -q").lines().count(), 3);
}

#[test]
fn d02_a_refused_network_is_named_and_leaves_nothing() {
    let Some(host) = Host::start("d02") else { return };
    with_plugin(&host);
    let docker = host.docker();
    let refused = docker.fails(&format!("{CREATE} -o nonsense=1 bad"));
    assert!(refused.contains("unknown option `nonsense=1`"), "{refused}");
    docker.ok(&format!("{CREATE} --subnet 10.44.0.0/24 there"));
    let refused = docker.fails(&format!("{CREATE} --subnet 10.44.0.0/25 overlap"));
    assert!(refused.contains("10.44.0.0/25") && refused.contains("10.44.0.0/24"), "{refused}");
    docker.ok("network rm there");
    assert_eq!((leases(&host), host.vswitch("network ls -q").lines().count()), (Vec::new(), 3));
}

#[test]
fn d03_names_are_found_as_with_dockers_bridge() {
    let Some(host) = Host::start("d03") else { return };
    with_plugin(&host);
    let docker = host.docker();
    docker.ok(&format!("{CREATE} --ipv6 front"));
    docker.ok("run -d --name one --network front busybox sleep 1000");
    docker.ok("run -d --name two --network front --network-alias bee --hostname bhost busybox sleep 1000");
    let two = named(&host, "two", "front");
    for name in ["two", "bee", "bhost", "two.front"] {
        docker.exec("one", &format!("ping -c 1 -4 {name}"));
        docker.exec("one", &format!("ping -c 1 -6 {name}"));
    }
    let reverse = docker.exec("one", &format!("nslookup {}", two["ipv4"].as_str().expect("an address")));
    assert!(reverse.contains("two.front"), "{reverse}");
    // Ours knows the same, by Docker's names, for endpoints that were attached by hand.
    host.ok("ip netns add hand; vswitch attach --netns /run/netns/hand --network front");
    eventually("the alias is known", || {
        let two: Value = host.json("vswitch inspect two --format json");
        two["aliases"].as_array()?.contains(&json!("bee")).then_some(())
    });
    host.ok("ip netns exec hand getent hosts two; ip netns exec hand getent hosts bee");
}

#[test]
fn d04_published_ports_are_reached_from_everywhere() {
    let Some(host) = Host::start("d04") else { return };
    with_plugin(&host);
    with_lan(&host);
    let docker = host.docker();
    docker.ok(&format!("{CREATE} front"));
    docker.ok(&format!("{CREATE} other"));
    web(&docker, "web", "--network front -p 8080:80 -p 127.0.0.1:8081:80 -p 9000-9001:9000-9001/udp -p 80");
    docker.ok("run -d --name client --network other busybox sleep 1000");
    let published = named(&host, "web", "front")["published"].as_array().expect("a list").clone();
    assert_eq!(published.len(), 5, "{published:#?}");
    let is_random = |port: &&Value| ![8080, 8081].contains(&port["host_port"].as_u64().unwrap_or_default());
    let random = published.iter().filter(|port| port["protocol"] == "tcp").find(is_random).expect("a random port");
    for port in [8080, random["host_port"].as_u64().expect("a port")] {
        assert_eq!(get(&host, "ip netns exec lan", &format!("http://192.0.2.1:{port}/")), "web");
        assert_eq!(get(&host, "", &format!("http://127.0.0.1:{port}/")), "web");
    }
    assert_eq!(get(&host, "", "http://127.0.0.1:8081/"), "web");
    assert_ne!(host.run("ip netns exec lan curl -sf --max-time 1 http://192.0.2.1:8081/").code, Some(0));
    for container in ["client", "web"] {
        assert_eq!(docker.exec(container, "wget -qO- -T 3 http://192.0.2.1:8080/"), "web");
    }
    assert!(host.vswitch("ps").contains("8080->80/tcp"));
    docker.ok("rm -f web client");
    assert_ne!(host.run("curl -sf --max-time 1 http://127.0.0.1:8080/").code, Some(0));
}

#[test]
fn d05_a_port_is_published_once() {
    let Some(host) = Host::start("d05") else { return };
    with_plugin(&host);
    let docker = host.docker();
    docker.ok(&format!("{CREATE} front"));
    web(&docker, "web", "--network front -p 8080:80");
    named(&host, "web", "front");
    let refused = docker.fails("run -d --name late --network front -p 8080:80 busybox sleep 1000");
    assert!(refused.contains("port is already allocated (endpoint web has it"), "{refused}");
    docker.ok("rm -f late");
    assert_eq!((host.endpoints().len(), get(&host, "", "http://127.0.0.1:8080/")), (1, "web".to_owned()));
}

#[test]
fn d06_a_container_in_two_networks_publishes_once_and_follows_its_default_route() {
    let Some(host) = Host::start("d06") else { return };
    with_plugin(&host);
    let docker = host.docker();
    for network in ["bb", "aa"] {
        docker.ok(&format!("{CREATE} {network}"));
    }
    web(&docker, "web", "--network bb -p 8080:80");
    let publishes = |network: &str| {
        let web = endpoint(&host, "web", network);
        !web["published"].as_array().expect("a list").is_empty()
    };
    named(&host, "web", "bb");
    assert!(publishes("bb"));
    docker.ok("network connect aa web");
    named(&host, "web", "aa");
    eventually("the port is published once", || (publishes("aa") != publishes("bb")).then_some(()));
    assert_eq!(get(&host, "", "http://127.0.0.1:8080/"), "web");
    let (first, second) = if publishes("aa") { ("aa", "bb") } else { ("bb", "aa") };
    docker.ok(&format!("network disconnect {first} web"));
    eventually("the other network publishes", || publishes(second).then_some(()));
    assert_eq!(get(&host, "", "http://127.0.0.1:8080/"), "web");
    docker.ok(&format!("network connect {first} web"));
    docker.ok("restart -t 0 web");
    eventually("both are back", || (host.endpoints().len() == 2).then_some(()));
    assert_eq!(get(&host, "", "http://127.0.0.1:8080/"), "web");
}

#[test]
fn d07_networks_are_connected_and_disconnected_while_traffic_flows() {
    let Some(host) = Host::start("d07") else { return };
    with_plugin(&host);
    let docker = host.docker();
    for network in ["front", "back"] {
        docker.ok(&format!("{CREATE} {network}"));
    }
    docker.ok("run -d --name one --network front busybox sleep 1000");
    docker.ok("run -d --name two --network front busybox sleep 1000");
    let peer = named(&host, "two", "front")["ipv4"].as_str().expect("an address").to_owned();
    docker.ok(&format!("exec -d one sh -c 'ping -i 0.1 -c 60 {peer} > /ping'"));
    for _ in 0..2 {
        docker.ok("network connect back one");
        let interfaces = || docker.exec("one", "ip address").matches(": eth").count();
        assert_eq!(interfaces(), 2);
        docker.ok("network disconnect back one");
        assert_eq!(interfaces(), 1);
    }
    let counted = eventually("the traffic ends", || {
        let text = docker.exec("one", "cat /ping");
        text.contains("packets transmitted").then_some(text)
    });
    assert!(counted.contains(" 0% packet loss"), "{counted}");
}

#[test]
fn d08_containers_live_on_without_dockerd() {
    let Some(host) = Host::start("d08") else { return };
    with_plugin(&host);
    let docker = Docker::start(&host, "--live-restore");
    docker.ok(&format!("{CREATE} front"));
    docker.ok("run -d --name one --network front busybox sleep 1000");
    web(&docker, "web", "--network front -p 8080:80");
    let peer = named(&host, "web", "front")["ipv4"].as_str().expect("an address").to_owned();
    docker.ok(&format!("exec -d one sh -c 'ping -i 0.1 -c 100 {peer} > /ping'"));
    docker.stop();
    docker.start_again();
    docker.kill();
    docker.start_again();
    let counted = eventually("the traffic ends", || {
        let text = docker.exec("one", "cat /ping");
        text.contains("packets transmitted").then_some(text)
    });
    assert!(counted.contains(" 0% packet loss"), "{counted}");
    docker.exec("one", "ping -c 1 web");
    assert_eq!(get(&host, "", "http://127.0.0.1:8080/"), "web");
    docker.ok("rm -f web");
    assert_ne!(host.run("curl -sf --max-time 1 http://127.0.0.1:8080/").code, Some(0));
    assert_eq!(host.endpoints().len(), 1);
}

#[test]
fn d09_after_a_power_cut_there_are_no_ghosts() {
    let Some(host) = Host::start("d09") else { return };
    with_plugin(&host);
    let docker = host.docker();
    docker.ok(&format!("{CREATE} front"));
    docker.ok("run -d --name once --network front busybox sleep 1000");
    web(&docker, "always", "--network front -p 8080:80 --restart=always");
    named(&host, "always", "front");
    docker.kill();
    host.kill_vswitch();
    host.ok(
        "pkill -KILL -f [c]ontainerd-shim; pkill -KILL -x sleep; pkill -KILL -x httpd; sleep 0.5; umount -l /run/docker/netns/*; rm -rf /run/docker",
    );
    host.vswitch_up();
    docker.start_again();
    eventually("the container is back", || {
        (docker.ok("inspect -f '{{.State.Running}}' always") == "true").then_some(())
    });
    assert_eq!(get(&host, "", "http://127.0.0.1:8080/"), "always");
    eventually("nothing else is left", || (host.endpoints().len() == 1).then_some(()));
    docker.ok("start once");
    docker.exec("once", "ping -c 1 always");
}

#[test]
fn d10_a_docker_that_starts_first_waits_at_the_socket() {
    let Some(host) = Host::start("d10") else { return };
    with_plugin(&host);
    let docker = host.docker();
    docker.ok(&format!("{CREATE} front"));
    web(&docker, "always", "--network front -p 8080:80 --restart=always");
    docker.stop();
    host.vswitch("down");
    // The service manager opens the socket, and starts the daemon late.
    host.write("/etc/docker/plugins/vswitch.spec", "unix:///run/vswitch-docker.sock\n");
    host.write("/tmp/manager.pl", MANAGER);
    host.daemon("manager", "perl /tmp/manager.pl");
    host.settles("test -S /run/vswitch-docker.sock");
    docker.spawn();
    host.ok("sleep 5; touch /tmp/go");
    docker.wait();
    assert_eq!(get(&host, "", "http://127.0.0.1:8080/"), "always");
}

/// Passes a listening socket to the daemon as systemd does, once a file is there.
const MANAGER: &str = r#"
use IO::Socket::UNIX;
my $socket = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => "/run/vswitch-docker.sock", Listen => 64) or die $!;
sleep 1 until -e "/tmp/go";
use POSIX; POSIX::dup2(fileno($socket), 3);
$^F = 10; open(my $kept, "<&=", 3); fcntl($kept, 2, 0);
($ENV{LISTEN_PID}, $ENV{LISTEN_FDS}, $ENV{LISTEN_FDNAMES}) = ($$, 1, "docker");
exec "vswitch", "up", "--foreground";
"#;

#[test]
fn d11_what_docker_forgets_is_gone_after_a_minute() {
    let Some(host) = Host::start("d11") else { return };
    with_plugin(&host);
    let docker = host.docker();
    docker.ok(&format!("{CREATE} front"));
    let id = docker.ok("network inspect -f '{{.Id}}' front");
    let plugin = |method: &str, body: &Value| -> Value {
        let body = body.to_string();
        host.json(&format!("curl -s --unix-socket /run/vswitch/default/docker.sock -d '{body}' http://d/{method}"))
    };
    let pool = leases(&host)[0]["id"].clone();
    let leased = plugin("IpamDriver.RequestAddress", &json!({"PoolID": pool, "Address": "", "Options": null}));
    let address = leased["Address"].as_str().expect("an address").to_owned();
    let endpoint = json!({"NetworkID": id, "EndpointID": "ab".repeat(32),
        "Interface": {"Address": address, "AddressIPv6": "", "MacAddress": ""}, "Options": {}});
    assert!(plugin("NetworkDriver.CreateEndpoint", &endpoint)["Interface"]["MacAddress"].is_string());
    // Docker dies here. Its retry has no body.
    assert_eq!(plugin("IpamDriver.ReleaseAddress", &json!({})), json!({}));
    assert_eq!(host.endpoints().len(), 1);
    eventually("the endpoint is gone", || host.endpoints().is_empty().then_some(()));
    eventually("the address is free", || {
        (leases(&host)[0]["addresses"].as_array().expect("a list").len() == 1).then_some(())
    });
    assert!(!host.ok("ls /sys/class/net").contains("vsabab"));
    docker.ok("network rm front");
}

#[test]
fn d12_a_daemon_that_is_killed_right_after_a_start_takes_everything_over() {
    let Some(host) = Host::start("d12") else { return };
    with_plugin(&host);
    let docker = host.docker();
    docker.ok(&format!("{CREATE} front"));
    docker.ok("run -d --name one --network front busybox sleep 1000");
    web(&docker, "web", "--network front -p 8080:80");
    host.kill_vswitch();
    docker.exec("one", "ping -c 1 web");
    assert!(host.vswitch("up").contains("2 endpoints taken over"));
    assert_eq!(get(&host, "", "http://127.0.0.1:8080/"), "web");
    docker.ok("rm -f one web");
    assert!(host.endpoints().is_empty());
}

#[test]
fn d13_running_containers_get_their_interfaces_back() {
    let Some(host) = Host::start("d13") else { return };
    with_plugin(&host);
    let docker = host.docker();
    docker.ok(&format!("{CREATE} --ipv6 front"));
    docker.ok("run -d --name one --network front busybox sleep 1000");
    web(&docker, "web", "--network front -p 8080:80");
    named(&host, "web", "front");
    let ends =
        |text: String| text.split_whitespace().map(str::to_owned).filter(|word| word.contains(':')).collect::<Vec<_>>();
    let before = ends(docker.exec("web", "ip link show eth0"));
    eventually("the name of the interface is known", || {
        (endpoint(&host, "web", "front")["ifname"] == "eth0").then_some(())
    });
    host.vswitch("down");
    assert!(!docker.exec("web", "ip address").contains("eth0"));
    host.vswitch("up");
    docker.exec("one", "ping -c 1 web");
    assert_eq!(get(&host, "", "http://127.0.0.1:8080/"), "web");
    let mac = |ends: &[String]| ends.iter().find(|word| word.matches(':').count() == 5).cloned();
    assert_eq!(mac(&ends(docker.exec("web", "ip link show eth0"))), mac(&before));
    docker.ok("restart -t 0 web");
    docker.ok("rm -f one web");
    docker.ok("network rm front");
}

/// What compose starts: names, an alias, a fixed address, an internal network.
const COMPOSE: &str = r#"
version: "3.7"
services:
  web:
    image: busybox
    command: sh -c 'mkdir -p /www; echo web > /www/index.html; exec httpd -f -p 80 -h /www'
    ports: ["8080:80"]
    networks: { front: { aliases: [www] }, back: {} }
  db:
    image: busybox
    command: sleep 1000
    networks: { back: { ipv4_address: 10.46.0.50 } }
  worker:
    image: busybox
    command: sleep 1000
    networks: [back]
networks:
  front: { driver: vswitch, ipam: { driver: vswitch } }
  back: { driver: vswitch, internal: true, driver_opts: { mtu: "1400" }, ipam: { driver: vswitch, config: [{ subnet: 10.46.0.0/24 }] } }
"#;

/// Starts, scales, restarts and ends a project.
fn check_compose(host: &Host, compose: &str) {
    with_plugin(host);
    let docker = host.docker();
    host.write("/tmp/p/docker-compose.yml", COMPOSE);
    let compose = |words: &str| host.ok(&format!("cd /tmp/p; {compose} {words}"));
    compose("up -d --scale worker=3");
    eventually("all are attached", || (host.endpoints().len() == 6).then_some(()));
    assert_eq!(get(host, "", "http://127.0.0.1:8080/"), "web");
    let worker = docker.ok("ps -q --filter name=worker").lines().next().expect("a worker").to_owned();
    for name in ["db", "web", "10.46.0.50"] {
        docker.exec(&worker, &format!("ping -c 1 {name}"));
    }
    compose("restart -t 0");
    assert_eq!(get(host, "", "http://127.0.0.1:8080/"), "web");
    compose("down -t 0");
    assert_eq!((host.endpoints().len(), leases(host)), (0, Vec::new()));
}

#[test]
fn d14_compose_2_starts_scales_and_ends_a_project() {
    let Some(host) = Host::start("d14") else { return };
    check_compose(&host, "docker compose");
}

#[test]
fn d14_compose_1_starts_scales_and_ends_a_project_on_docker_20() {
    let Some(host) = Host::on(&roots::BOOKWORM, "d14b") else { return };
    check_compose(&host, "docker-compose");
}

#[test]
fn d15_every_kind_of_network_works() {
    let Some(host) = Host::start("d15") else { return };
    with_plugin(&host);
    with_lan(&host);
    let docker = host.docker();
    for driver in ["macvlan", "ipvlan"] {
        docker.ok(&format!(
            "{CREATE} -o driver={driver} -o parent=eth1 --subnet 192.0.2.0/24 --gateway 192.0.2.9 --ip-range 192.0.2.64/26 {driver}"
        ));
        docker.ok(&format!("run --rm --network {driver} busybox ping -c 2 -W 3 192.0.2.9"));
        docker.ok(&format!("network rm {driver}"));
    }
    // The other host is an instance in a namespace of its own.
    let overlay = "-o vni=77 --subnet 10.47.0.0/24";
    docker.ok(&format!("{CREATE} -o driver=overlay {overlay} --gateway 10.47.0.1 over"));
    host.vswitch("peer add 192.0.2.9");
    host.ok(&format!(
        "ip netns add far
        ip netns exec lan vswitch --instance far up
        ip netns exec lan vswitch --instance far network create -d overlay {overlay} over
        ip netns exec lan vswitch --instance far peer add 192.0.2.1
        ip netns exec lan vswitch --instance far attach --netns /run/netns/far --network over --ip 10.47.0.200"
    ));
    docker.ok("run --rm --network over busybox ping -c 2 -W 3 10.47.0.200");
    host.ok("ip netns exec lan vswitch --instance far down --purge");
}

#[test]
fn d16_a_renamed_container_has_its_name_here_too() {
    let Some(host) = Host::start("d16") else { return };
    with_plugin(&host);
    let docker = host.docker();
    docker.ok(&format!("{CREATE} front"));
    web(&docker, "web", "--network front -p 8080:80");
    named(&host, "web", "front");
    docker.ok("rename web shop");
    named(&host, "shop", "front");
    assert_eq!(host.vswitch("ps -q --filter owner=docker"), "shop");
    assert!(host.vswitch("engine ls").contains("docker"));
}

#[test]
fn fifty_containers_start_at_once() {
    let Some(host) = Host::start("fifty") else { return };
    with_plugin(&host);
    let docker = host.docker();
    docker.ok(&format!("{CREATE} front"));
    host.ok("for i in $(seq 50); do docker run -d --name c$i --network front busybox sleep 1000 & done; wait");
    eventually("all are attached", || (host.endpoints().len() == 50).then_some(()));
    docker.exec("c1", "ping -c 1 c50");
    host.ok("docker rm -f $(docker ps -q)");
    docker.ok("network rm front");
    assert_eq!((host.endpoints().len(), leases(&host)), (0, Vec::new()));
}
