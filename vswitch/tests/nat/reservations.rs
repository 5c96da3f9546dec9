//! Host ports are reserved, and the holder of a port is reported.

use std::net::{TcpListener, TcpStream, UdpSocket};

use vswitch::model::{PublishSpec, Published};
use vswitch::nat::{Holder, Reservations, ReserveError};

use crate::harness::{Netns, eventually};

fn spec(text: &str) -> PublishSpec {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Waits until a port can be bound. A child that another test starts holds our sockets until its
/// exec.
#[track_caller]
fn await_free<T>(bind: impl Fn() -> std::io::Result<T>) {
    eventually("the port is free", || bind().ok());
}

#[test]
fn a_reserved_port_cannot_be_bound_until_it_is_released() {
    let host = Netns::new("host");
    host.inside(|| {
        let reservations = Reservations::new();
        let tcp = reservations.reserve(&[spec("8080:80")], &[]).expect("the port is free");
        let udp = reservations.reserve(&[spec("127.0.0.1:5353:53/udp")], &[]).expect("the port is free");
        for address in ["0.0.0.0:8080", "127.0.0.1:8080", "[::]:8080", "[::1]:8080"] {
            // The standard library sets SO_REUSEADDR.
            assert!(TcpListener::bind(address).is_err(), "{address}");
        }
        assert!(UdpSocket::bind("127.0.0.1:5353").is_err());
        assert!(UdpSocket::bind("127.0.0.2:5353").is_ok());
        assert!(TcpStream::connect("127.0.0.1:8080").is_err(), "no server listens");
        let again = reservations.reserve(&[spec("8080:81")], &[]);
        assert!(matches!(again, Err(ReserveError::Allocated { holder: Holder::Ourselves, .. })), "{again:?}");
        reservations.release(&tcp);
        reservations.release(&udp);
        await_free(|| TcpListener::bind("[::]:8080"));
        await_free(|| UdpSocket::bind("127.0.0.1:5353"));
    });
}

#[test]
fn the_process_that_holds_a_port_is_named() {
    let host = Netns::new("host");
    host.inside(|| {
        let reservations = Reservations::new();
        let mine = std::fs::read_to_string("/proc/self/comm").expect("procfs");
        let has_it = format!("(process {}, pid {}, has it; ", mine.trim(), std::process::id());
        let refused = |text: &str, begin: &str| {
            let error = reservations.reserve(&[spec(text)], &[]).expect_err(text).to_string();
            assert!(error.starts_with(begin) && error.contains(&has_it), "{text}: {error}");
        };
        let _ipv4 = TcpListener::bind("127.0.0.1:8080").expect("the port is free");
        refused("8080:80", "Bind for 0.0.0.0:8080 failed: port is already allocated ");
        refused("127.0.0.1:8080:80", "Bind for 127.0.0.1:8080 failed: port is already allocated ");
        let _ipv6 = TcpListener::bind("[::1]:8081").expect("the port is free");
        refused("8081:80", "Bind for [::]:8081 failed: port is already allocated ");
        let _udp = UdpSocket::bind("0.0.0.0:8082").expect("the port is free");
        refused("8082:80/udp", "Bind for 0.0.0.0:8082 failed: port is already allocated ");
        // A failed reservation releases the ports that it had bound.
        await_free(|| TcpListener::bind("0.0.0.0:8081"));
        assert!(reservations.reserve(&[spec("8082:80/tcp")], &[]).is_ok());
    });
}

#[test]
fn ports_are_chosen_automatically() {
    let host = Netns::new("host");
    host.inside(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").expect("root can write the setting");
        let reservations = Reservations::new();
        let _other = TcpListener::bind("0.0.0.0:40001").expect("the port is free");
        let mut chosen: Vec<u16> =
            (0..3).map(|_| reservations.reserve(&[spec("80")], &[]).expect("a port is free")[0].host_port).collect();
        chosen.sort_unstable();
        assert_eq!(chosen, [40000, 40002, 40003]);
        let none = reservations.reserve(&[spec("80")], &[]);
        assert!(matches!(none, Err(ReserveError::AllAllocated { .. })), "{none:?}");
        let _other = TcpListener::bind("0.0.0.0:9000").expect("the port is free");
        let ranged = reservations.reserve(&[spec("9000-9001:80")], &[]).expect("a port is free");
        assert_eq!(ranged[0].host_port, 9001);
        let taken = [(Published { host_port: 9003, ..ranged[0] }, "web".to_owned())];
        let pair = reservations.reserve(&[spec("9002-9003:80-81")], &taken).expect_err("one is taken");
        assert!(pair.to_string().contains("(endpoint web has it; "), "{pair}");
        // All ports of a range are reserved, or none.
        await_free(|| TcpListener::bind("0.0.0.0:9002"));
    });
}

#[test]
fn ports_are_reserved_only_at_addresses_of_the_host() {
    let host = Netns::new("host");
    host.inside(|| {
        let reservations = Reservations::new();
        for address in ["192.0.2.77", "[2001:db8::77]"] {
            let error = reservations.reserve(&[spec(&format!("{address}:8080:80"))], &[]).expect_err(address);
            assert!(matches!(error, ReserveError::NoSuchAddress(_)), "{error:?}");
        }
        assert!(reservations.reserve(&[spec("[::]:8080:80")], &[]).is_ok());
        assert!(reservations.reserve(&[spec("8080:80/sctp")], &[]).is_ok(), "whether or not the kernel has SCTP");
    });
}

#[test]
fn closed_connections_do_not_block_a_port() {
    let host = Netns::new("host");
    host.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:8080").expect("the port is free");
        let client = TcpStream::connect("127.0.0.1:8080").expect("a server listens");
        // The side that closes first stays in TIME_WAIT for a minute.
        drop(listener.accept().expect("a connection"));
        drop((listener, client));
        std::thread::sleep(std::time::Duration::from_millis(50));
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("procfs");
        assert!(table.contains(":1F90 0100007F:"), "the connection is in TIME_WAIT: {table}");
        let reservations = Reservations::new();
        reservations.reserve(&[spec("8080:80")], &[]).expect("the port is free");
        assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "the port is reserved");
        assert!(TcpStream::connect("127.0.0.1:8080").is_err(), "no server listens");
    });
}
