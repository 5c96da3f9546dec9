//! Ports are held, and who holds one is told.

use std::net::{TcpListener, TcpStream, UdpSocket};

use vswitch::model::{PublishSpec, Published};
use vswitch::outside::{Holder, Reservations, ReserveError};

use crate::harness::{Netns, eventually};

fn spec(text: &str) -> PublishSpec {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Asserts that a port can be had; in a moment, because what another test starts has our sockets until it runs.
#[track_caller]
fn is_free<T>(bind: impl Fn() -> std::io::Result<T>) {
    eventually("the port is free", || bind().ok());
}

#[test]
fn a_port_that_is_reserved_is_nobody_elses_until_it_is_released() {
    let host = Netns::new("host");
    host.inside(|| {
        let reservations = Reservations::new();
        let tcp = reservations.reserve(&spec("8080:80"), &[]).expect("it is free");
        let udp = reservations.reserve(&spec("127.0.0.1:5353:53/udp"), &[]).expect("it is free");
        for address in ["0.0.0.0:8080", "127.0.0.1:8080", "[::]:8080", "[::1]:8080"] {
            // The standard library asks for SO_REUSEADDR.
            assert!(TcpListener::bind(address).is_err(), "{address}");
        }
        assert!(UdpSocket::bind("127.0.0.1:5353").is_err());
        assert!(UdpSocket::bind("127.0.0.2:5353").is_ok());
        assert!(TcpStream::connect("127.0.0.1:8080").is_err(), "nobody listens");
        let again = reservations.reserve(&spec("8080:81"), &[]);
        assert!(matches!(again, Err(ReserveError::Allocated { holder: Holder::Ourselves, .. })), "{again:?}");
        reservations.release(&tcp);
        reservations.release(&udp);
        is_free(|| TcpListener::bind("[::]:8080"));
        is_free(|| UdpSocket::bind("127.0.0.1:5353"));
    });
}

#[test]
fn a_process_that_has_the_port_is_named() {
    let host = Netns::new("host");
    host.inside(|| {
        let reservations = Reservations::new();
        let mine = std::fs::read_to_string("/proc/self/comm").expect("procfs");
        let has_it = format!("(process {}, pid {}, has it; ", mine.trim(), std::process::id());
        let refused = |text: &str, begin: &str| {
            let error = reservations.reserve(&spec(text), &[]).expect_err(text).to_string();
            assert!(error.starts_with(begin) && error.contains(&has_it), "{text}: {error}");
        };
        let _ipv4 = TcpListener::bind("127.0.0.1:8080").expect("it is free");
        refused("8080:80", "Bind for 0.0.0.0:8080 failed: port is already allocated ");
        refused("127.0.0.1:8080:80", "Bind for 127.0.0.1:8080 failed: port is already allocated ");
        let _ipv6 = TcpListener::bind("[::1]:8081").expect("it is free");
        refused("8081:80", "Bind for [::]:8081 failed: port is already allocated ");
        let _udp = UdpSocket::bind("0.0.0.0:8082").expect("it is free");
        refused("8082:80/udp", "Bind for 0.0.0.0:8082 failed: port is already allocated ");
        // What was bound before the failure is let go.
        is_free(|| TcpListener::bind("0.0.0.0:8081"));
        assert!(reservations.reserve(&spec("8082:80/tcp"), &[]).is_ok());
    });
}

#[test]
fn ports_are_chosen_where_none_is_named() {
    let host = Netns::new("host");
    host.inside(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").expect("root may");
        let reservations = Reservations::new();
        let _other = TcpListener::bind("0.0.0.0:40001").expect("it is free");
        let mut chosen: Vec<u16> =
            (0..3).map(|_| reservations.reserve(&spec("80"), &[]).expect("one is free")[0].host_port).collect();
        chosen.sort_unstable();
        assert_eq!(chosen, [40000, 40002, 40003]);
        let none = reservations.reserve(&spec("80"), &[]);
        assert!(matches!(none, Err(ReserveError::AllAllocated { .. })), "{none:?}");
        let _other = TcpListener::bind("0.0.0.0:9000").expect("it is free");
        let ranged = reservations.reserve(&spec("9000-9001:80"), &[]).expect("one is free");
        assert_eq!(ranged[0].host_port, 9001);
        let taken = [(Published { host_port: 9003, ..ranged[0] }, "web".to_owned())];
        let pair = reservations.reserve(&spec("9002-9003:80-81"), &taken).expect_err("one is taken");
        assert!(pair.to_string().contains("(endpoint web has it; "), "{pair}");
        // All or none.
        is_free(|| TcpListener::bind("0.0.0.0:9002"));
    });
}

#[test]
fn an_address_has_to_be_the_hosts() {
    let host = Netns::new("host");
    host.inside(|| {
        let reservations = Reservations::new();
        for address in ["192.0.2.77", "[2001:db8::77]"] {
            let error = reservations.reserve(&spec(&format!("{address}:8080:80")), &[]).expect_err(address);
            assert!(matches!(error, ReserveError::NoSuchAddress(_)), "{error:?}");
        }
        assert!(reservations.reserve(&spec("[::1]:8080:80"), &[]).is_ok());
        assert!(reservations.reserve(&spec("8080:80/sctp"), &[]).is_ok(), "with SCTP in the kernel or without");
    });
}

#[test]
fn connections_that_were_closed_keep_nobody_off() {
    let host = Netns::new("host");
    host.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:8080").expect("it is free");
        let client = TcpStream::connect("127.0.0.1:8080").expect("somebody listens");
        // The side that closes first waits for a minute.
        drop(listener.accept().expect("a connection"));
        drop((listener, client));
        std::thread::sleep(std::time::Duration::from_millis(50));
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("procfs");
        assert!(table.contains(":1F90 0100007F:"), "it is in TIME_WAIT: {table}");
        let reservations = Reservations::new();
        reservations.reserve(&spec("8080:80"), &[]).expect("nobody has it");
        assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "it is held nevertheless");
        assert!(TcpStream::connect("127.0.0.1:8080").is_err(), "nobody listens");
    });
}
