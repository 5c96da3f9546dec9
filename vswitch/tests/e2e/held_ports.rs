//! Other programs of the host cannot bind a published port, at once and for as long as it is
//! published. No port needs a socket.

use std::{
    fs,
    io::{Error, ErrorKind},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, bind, setsockopt, socket, sockopt::Ipv6V6Only},
    },
    unistd::Pid,
};
use serde_json::Value;

use crate::harness::{Answer, AtRest, Caller, Host, Netns, Site, Uplinks, addresses, ask, ask_tcp, eventually, get};

/// Binds a TCP socket to `::`, for IPv6 alone or for IPv4, too.
fn bind_all(netns: &Netns, port: u16, only_ipv6: bool) -> Result<OwnedFd, nix::Error> {
    netns.inside(|| {
        let socket = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, Ipv6V6Only, &only_ipv6)?;
        bind(socket.as_raw_fd(), &SockaddrIn6::from(std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)))?;
        Ok(socket)
    })
}

/// Returns those of the addresses at which a program in the namespace cannot bind the port.
#[track_caller]
fn refused<'a>(netns: &Netns, udp: bool, port: u16, at: &[&'a str]) -> Vec<&'a str> {
    let bound = |address: &str| {
        let at = SocketAddr::new(address.parse().unwrap(), port);
        netns.inside(|| if udp { UdpSocket::bind(at).map(drop) } else { TcpListener::bind(at).map(drop) })
    };
    let in_use = |address: &&&str| match bound(address) {
        Ok(()) => false,
        Err(error) if error.kind() == ErrorKind::AddrInUse => true,
        Err(error) => panic!("{address}:{port}: {error}"),
    };
    at.iter().filter(in_use).copied().collect()
}

/// Reports whether this kernel and machine hold ports without sockets.
fn has_hook() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = mounts.lines().any(|line| line.contains(" - cgroup2 "));
    if !found {
        eprintln!("no cgroup v2 is mounted here: ports are held by sockets, and not all of this is tested");
    }
    found
}

fn notes(host: &Host) -> Vec<String> {
    let status: Value = host.json(&["status"]);
    status["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap().to_owned()).collect()
}

fn open_files(process: Pid) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Returns the memory of a process in KiB.
fn memory(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";
const ALL: [&str; 6] = ["0.0.0.0", "127.0.0.1", "192.0.2.1", "::", "::1", "2001:db8:1::1"];

#[test]
fn a_published_port_is_refused_at_its_addresses_and_free_elsewhere() {
    if !has_hook() {
        return;
    }
    let Uplinks { host, outside, .. } = &Uplinks::up();
    let web = Netns::new("web");
    host.netns.set("net/ipv4/ip_local_port_range", "40000 40003");
    host.netns.set(RESERVED, "1234,40002");
    let flags = "--network front --name web -p 8080:80 -p 8080:80/udp -p 127.0.0.1:8081:80 -p [2001:db8:1::1]:8082:80 \
                 -p 0.0.0.0:8083:80 -p [::]:8084:80 -p 192.0.2.1:8085:80 -p 198.51.100.1:8085:81 -p 80";
    let at_web = host.attach(&web, &flags.split_whitespace().collect::<Vec<_>>());
    let chosen = at_web.published.iter().find(|port| port.host_port >= 40000).unwrap().host_port;
    let daemon_holds_no_socket = || {
        // 9 ports would be 12 sockets.
        let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", host.daemon().unwrap())).unwrap();
        assert!(!sockets.contains(":1F90 "), "{sockets}");
    };
    let assert_held = || {
        let host = &*host.netns;
        assert_eq!(refused(host, false, 8080, &ALL), ALL);
        assert_eq!(refused(host, true, 8080, &ALL), ALL);
        assert_eq!(refused(host, false, chosen, &ALL), ALL);
        assert_eq!(refused(host, true, chosen, &ALL), [""; 0]);
        // The standard library binds :: for both families.
        assert_eq!(refused(host, false, 8081, &ALL), ["0.0.0.0", "127.0.0.1", "::"]);
        assert_eq!(refused(host, false, 8082, &ALL), ["::", "2001:db8:1::1"]);
        assert_eq!(refused(host, false, 8083, &ALL), ["0.0.0.0", "127.0.0.1", "192.0.2.1", "::"]);
        assert_eq!(refused(host, false, 8084, &ALL), ["::", "::1", "2001:db8:1::1"]);
        assert_eq!(refused(host, false, 8085, &ALL), ["0.0.0.0", "192.0.2.1", "::"]);
        assert_eq!(refused(host, false, 8085, &["198.51.100.1"]), ["198.51.100.1"]);
        for (port, only_ipv6) in [(8080, nix::Error::EADDRINUSE), (8082, nix::Error::EADDRINUSE)] {
            assert_eq!(bind_all(host, port, true).map(drop), Err(only_ipv6), "{port}");
        }
        for port in [8081, 8083, 8085] {
            bind_all(host, port, true).unwrap_or_else(|error| panic!("[::]:{port} for IPv6 alone: {error}"));
            assert_eq!(bind_all(host, port, false).map(drop), Err(nix::Error::EADDRINUSE), "{port}");
        }
        assert_eq!(refused(host, false, 9999, &ALL), [""; 0]);
        // The kernel chooses none of the ports. All others of the range are chosen.
        let found: Vec<TcpListener> =
            std::iter::from_fn(|| host.inside(|| TcpListener::bind("0.0.0.0:0")).ok()).take(5).collect();
        let mut ports: Vec<u16> = found.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        ports.sort_unstable();
        let expected: Vec<u16> = [40000, 40001, 40003].into_iter().filter(|port| *port != chosen).collect();
        assert_eq!(ports, expected);
    };
    assert_held();
    daemon_holds_no_socket();
    // Other namespaces are not concerned, nor is what the container itself does.
    for netns in [&web, outside] {
        assert_eq!(refused(netns, false, 8080, &["0.0.0.0", "::"]), [""; 0]);
    }
    let _site = Site::open(&web, 80, "web");
    assert_eq!(get(outside, addresses(Uplinks::HOST)[0], 8080).site, "web");

    // A dead daemon holds the ports, and the next one takes them over.
    host.kill_daemon();
    assert_held();
    host.start(&[]);
    assert_held();
    daemon_holds_no_socket();
    assert_eq!(notes(host), [""; 0]);
    // A port that is released is free, and so is the rest with the switch.
    host.ok(&["detach", "web"]);
    for port in [8080, 8081, 8082, 8083, 8084, 8085, chosen] {
        assert_eq!(refused(&host.netns, false, port, &ALL), [""; 0], "{port}");
    }
    assert_eq!(host.netns.setting(RESERVED), "1234,40002");
    host.attach(&web, &["--network", "front", "--name", "web", "-p", "8080:80", "-p", "40000:80"]);
    assert_eq!(host.netns.setting(RESERVED), "1234,40000,40002");
    host.kill_daemon();
    host.stop(&[]);
    assert_eq!(refused(&host.netns, false, 8080, &ALL), [""; 0]);
    assert_eq!(host.netns.setting(RESERVED), "1234,40002");
}

#[test]
fn ten_thousand_ports_need_no_open_files() {
    if !has_hook() {
        return;
    }
    let Uplinks { host, outside, .. } = &Uplinks::up();
    let [web, small] = ["web", "small"].map(Netns::new);
    let attach_small = || {
        host.attach(&small, &["--network", "front", "--name", "small", "-p", "8080:80"]);
        host.ok(&["detach", "small"]);
    };
    attach_small();
    let daemon = host.daemon().unwrap();
    let (files, before) = (open_files(daemon), memory(daemon));
    let started = std::time::Instant::now();
    let range = "10000-19999:10000-19999";
    let at_web = host.attach(&web, &["--network", "front", "--name", "web", "-p", range]);
    let took = started.elapsed();
    assert_eq!(at_web.published.len(), 10_000);
    eprintln!("10,000 ports: {took:?}, {} KiB", memory(daemon).saturating_sub(before));
    assert!(open_files(daemon) < files + 20, "{} open files, before {files}", open_files(daemon));
    for port in [10_000, 15_000, 19_999] {
        assert_eq!(refused(&host.netns, false, port, &ALL), ALL, "{port}");
    }
    let _sites = [10_000, 19_999].map(|port| Site::open(&web, port, &port.to_string()));
    for port in [10_000, 19_999] {
        assert_eq!(get(outside, addresses(Uplinks::HOST)[0], port).site, port.to_string());
    }
    attach_small();
    // One port of a range that is in use refuses the range as a whole.
    let _process = host.netns.inside(|| TcpListener::bind("127.0.0.1:29999")).unwrap();
    AtRest::new(host, &[&small]).refuses(
        &["attach", "--netns", &small.path_argument(), "--network", "back", "-p", "20000-29999:20000-29999"],
        &["29999", "port is already allocated", &std::process::id().to_string()],
    );
    assert_eq!(refused(&host.netns, false, 20_000, &ALL), [""; 0]);
    host.kill_daemon();
    host.start(&[]);
    assert_eq!(refused(&host.netns, false, 15_000, &ALL), ALL);
    host.ok(&["detach", "web"]);
    assert_eq!(refused(&host.netns, false, 15_000, &ALL), [""; 0]);
}

#[test]
fn a_port_that_cannot_be_held_at_up_is_in_status_and_held_later() {
    let Uplinks { host, .. } = &Uplinks::up();
    let [web, other] = ["web", "other"].map(Netns::new);
    let flags = ["--network", "front", "--name", "web", "-p", "8080-8082:80-82", "-p", "8080:80/udp"];
    host.attach(&web, &flags);
    host.attach(&other, &["--network", "back", "--name", "other", "-p", "198.51.100.1:9090:80"]);
    host.stop(&[]);
    let processes = [8081, 8082].map(|port| host.netns.inside(|| TcpListener::bind(("127.0.0.1", port))).unwrap());
    host.netns.ip("address del 198.51.100.1/24 dev up1");
    host.start(&[]);
    let pid = format!("pid {}", std::process::id());
    let taken = |notes: &[String]| {
        notes.iter().any(|note| {
            ["endpoint web", "8081->81/tcp", "1 more", &pid, "as soon as it is free"]
                .iter()
                .all(|part| note.contains(part))
        })
    };
    let absent = |notes: &[String]| {
        notes.iter().any(|note| {
            ["198.51.100.1:9090->80/tcp", "none of this host's addresses", "ip address add"]
                .iter()
                .all(|part| note.contains(part))
        })
    };
    eventually("both are in status", || Some(notes(host)).filter(|notes| taken(notes) && absent(notes)));
    // What can be held is held.
    assert_eq!(refused(&host.netns, false, 8080, &["127.0.0.1"]), ["127.0.0.1"]);
    drop(processes);
    eventually("the ports are held", || {
        let held = |port| refused(&host.netns, false, port, &["192.0.2.1"]).len() == 1;
        (held(8081) && held(8082)).then_some(())
    });
    eventually("the note is gone", || (!taken(&notes(host))).then_some(()));
    host.netns.ip("address add 198.51.100.1/24 dev up1");
    eventually("nothing is left to say", || notes(host).is_empty().then_some(()));
    assert_eq!(refused(&host.netns, false, 9090, &["0.0.0.0", "198.51.100.1"]), ["0.0.0.0", "198.51.100.1"]);
    // An address that goes away while the daemon runs.
    host.netns.ip("address del 198.51.100.1/24 dev up1");
    eventually("the address is missed", || absent(&notes(host)).then_some(()));
    host.ok(&["detach", "other"]);
    assert_eq!(notes(host), [""; 0]);
}

#[test]
fn the_port_of_dns_can_be_published_beside_our_own_name_servers() {
    let Uplinks { host, outside, .. } = &Uplinks::up();
    let [dns, client] = ["dns", "client"].map(Netns::new);
    let _site = Site::open(&dns, 53, "dns");
    let flags = ["--network", "front", "--name", "dns", "-p", "53:53", "-p", "53:53/udp"];
    let at_dns = host.attach(&dns, &flags);
    host.attach(&client, &["--network", "back", "--name", "client"]);
    let assert_works = || {
        for near in addresses(Uplinks::HOST) {
            for from in [outside, &*host.netns, &client] {
                assert_eq!(get(from, near, 53).site, "dns", "{near} from {}", from.name());
                assert_eq!(Caller::new(from, near, 53).call().site, "dns", "{near} from {} by UDP", from.name());
            }
        }
        // The gateways still answer the names of endpoints.
        for server in [IpAddr::from(at_dns.gateway.unwrap()), at_dns.gateway6.unwrap().into()] {
            for from in [&dns, &*host.netns] {
                assert_eq!(ask(from, server, "dns", "A"), Answer::of(&[&at_dns.ipv4]), "{server}");
                assert_eq!(ask_tcp(from, server, "dns", "A"), Answer::of(&[&at_dns.ipv4]), "{server} by TCP");
            }
        }
    };
    assert_works();
    // A network that is made later has a name server, too.
    host.ok(&["network", "create", "--subnet", "10.129.0.0/24", "later"]);
    assert_eq!(notes(host), [""; 0]);
    let later = Netns::new("later");
    let at_later = host.attach(&later, &["--network", "later", "--name", "late"]);
    assert_eq!(ask(&later, at_later.gateway.unwrap(), "late", "A"), Answer::of(&[&at_later.ipv4]));
    host.kill_daemon();
    host.start(&[]);
    assert_works();
    host.stop(&[]);
    host.start(&[]);
    assert_works();
    assert_eq!(notes(host), [""; 0]);
    assert_eq!(refused(&host.netns, true, 53, &["0.0.0.0", "192.0.2.1", "::1"]), ["0.0.0.0", "192.0.2.1", "::1"]);
    host.ok(&["detach", "dns"]);
    // Another resolver of the host still keeps the port.
    let _resolver = host.netns.inside(|| UdpSocket::bind("127.0.0.53:53")).unwrap();
    let line = host.fails(1, &["attach", "--netns", &dns.path_argument(), "-p", "53:53/udp"]);
    assert!(line.contains("port is already allocated") && line.contains(&std::process::id().to_string()), "{line}");
}

#[test]
fn addresses_at_which_nothing_reaches_a_port_are_refused() {
    let Uplinks { host, .. } = &Uplinks::up();
    let web = Netns::new("web");
    let at_rest = AtRest::new(host, &[&web]);
    let path = web.path_argument();
    for (port, reason) in
        [("[::1]:8085:80", "127.0.0.1"), ("[::1]::80/udp", "127.0.0.1"), ("[fe80::1]:8085:80", "link-local")]
    {
        at_rest.refuses(&["attach", "--netns", &path, "--network", "front", "-p", port], &["can be published", reason]);
    }
}

#[test]
fn without_cgroups_each_port_is_held_by_a_socket() {
    let host = Host::without_cgroups();
    host.start(&[]);
    let [web, many] = ["web", "many"].map(Netns::new);
    assert_eq!(notes(&host), [""; 0]);
    host.attach(&web, &["--name", "web", "-p", "8080:80", "-p", "127.0.0.1:8081:80/udp"]);
    let held = || {
        assert_eq!(refused(&host.netns, false, 8080, &["0.0.0.0", "::1"]), ["0.0.0.0", "::1"]);
        assert_eq!(refused(&host.netns, true, 8081, &["0.0.0.0", "127.0.0.1"]), ["0.0.0.0", "127.0.0.1"]);
    };
    held();
    let [note] = &notes(&host)[..] else { panic!("{:?}", notes(&host)) };
    for part in ["a socket each", "cgroup v2", "mount"] {
        assert!(note.contains(part), "{note}");
    }
    // The sockets leave some of the open files to everything else.
    let daemon = host.daemon().unwrap();
    limit_open_files(daemon, 1024);
    let line = host.fails(1, &["attach", "--netns", &many.path_argument(), "-p", "10000-10999:10000-10999"]);
    assert!(line.contains("1024 files open") && line.contains("cgroup v2"), "{line}");
    host.attach(&many, &["--name", "many", "-p", "10000:80"]);
    host.kill_daemon();
    eventually("its sockets are gone", || refused(&host.netns, false, 8080, &["0.0.0.0"]).is_empty().then_some(()));
    host.start(&[]);
    held();
    kill(host.daemon().unwrap(), Signal::SIGTERM).unwrap();
    eventually("the daemon has ended", || host.daemon().is_none().then_some(()));
    host.start(&[]);
    held();
}

fn limit_open_files(process: Pid, files: u64) {
    let limit = libc::rlimit { rlim_cur: files, rlim_max: files };
    // SAFETY: `limit` outlives the call.
    let answer =
        unsafe { libc::prlimit(process.as_raw(), libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(answer, 0, "{}", Error::last_os_error());
}
