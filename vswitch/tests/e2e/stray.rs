//! Segments that belong to no connection, or lie outside of its window: they leave no network with
//! a private address, and they end no healthy connection.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use crate::harness::packets::{icmpv6, ipv4};
use crate::harness::segments::{ACK, FIN, RST, SYN, Segment, addresses_in, send_out_of_window};
use crate::harness::{Attached, Frame, Host, Mac, Netns, PATIENCE, RawPort, Uplinks, addresses, ping};

/// Returns the MAC address of the device with the gateway address of an endpoint.
fn gateway_mac(host: &Host, endpoint: &Attached) -> Mac {
    let gateway = endpoint.gateway.expect("it has a gateway");
    let devices = host.netns.devices();
    let device = devices.iter().find(|device| host.netns.addresses(device).contains(&gateway));
    host.netns.mac(device.expect("a device has the gateway address"))
}

/// An echo reply without a request: conntrack calls it INVALID.
fn echo_reply(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination, 1, &[0, 0, 0xff, 0xff, 0, 0, 0, 0]),
        (IpAddr::V6(source), IpAddr::V6(destination)) => icmpv6(source, destination, &[129, 0, 0, 0, 0, 0, 0, 0]),
        mixed => panic!("{mixed:?} are of two families"),
    }
}

#[test]
fn stray_segments_do_not_leave_with_a_private_address() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let web = Netns::new("web");
    let at_web = host.attach(&web, &["--network", "front", "-p", "8080:80"]);
    // The source address of the internal network leads outside by the gateway of the other one.
    host.ok(&["network", "create", "--internal", "--subnet", "10.124.0.0/24", "--subnet", "fd00:124::/64", "inside"]);
    host.ok(&["network", "connect", "inside", web.name()]);
    let inside = host.ps().into_iter().find(|endpoint| endpoint.network == "inside").expect("it is connected");
    let gateway = gateway_mac(host, &at_web);
    let [from_web, at_outside] = [RawPort::open(&web, "eth0"), RawPort::open(outside, "eth0")];
    let ours: [[IpAddr; 2]; 2] = [&at_web, &inside].map(|at| [at.ipv4.into(), at.ipv6.unwrap().into()]);
    for (family, far) in addresses(Uplinks::OUTSIDE).into_iter().enumerate() {
        for (own, port) in [(ours[0][family], 80), (ours[0][family], 40000), (ours[1][family], 40000)] {
            for flags in [RST, RST | ACK, FIN, SYN | ACK, FIN | SYN, 0] {
                let segment = Segment {
                    source: SocketAddr::new(own, port),
                    destination: SocketAddr::new(far, 5555),
                    sequence: 1,
                    acknowledgment: 1,
                    flags,
                };
                from_web.send(&Frame::raw(gateway, at_web.mac, &segment.packet()));
            }
            from_web.send(&Frame::raw(gateway, at_web.mac, &echo_reply(own, far)));
        }
        // A ping takes the same way behind them.
        ping(&web, far);
    }
    let mut masqueraded = 0;
    for frame in at_outside.pending() {
        let Some((source, _)) = addresses_in(&frame.0) else { continue };
        masqueraded += usize::from(addresses(Uplinks::HOST).contains(&source));
        assert!(!ours.concat().contains(&source), "it left with {source}: {frame:02x?}");
    }
    assert!(masqueraded >= 2, "the pings left with the host's addresses");
    // UDP without an entry and segments within a connection are masqueraded as before.
    let later = Segment {
        source: SocketAddr::new(at_web.ipv4.into(), 40001),
        destination: SocketAddr::new(addresses(Uplinks::OUTSIDE)[0], 5555),
        sequence: 1,
        acknowledgment: 1,
        flags: ACK,
    };
    from_web.send(&Frame::raw(gateway, at_web.mac, &later.packet()));
    let host_address = addresses(Uplinks::HOST)[0];
    at_outside.expect_such("the segment with the host's address", |frame| {
        Segment::of(frame).is_some_and(|seen| seen.destination == later.destination && seen.source.ip() == host_address)
    });
}

/// A connection whose server sends back what it receives.
struct Echo {
    client: TcpStream,
    server: TcpStream,
}

impl Echo {
    fn open(from: &Netns, to: SocketAddr, listener: &TcpListener) -> Self {
        let client = from.inside(|| TcpStream::connect_timeout(&to, PATIENCE));
        let client = client.unwrap_or_else(|error| panic!("{to} from {}: {error}", from.name()));
        let (server, _) = listener.accept().expect("the connection");
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        }
        Self { client, server }
    }

    /// Carries a byte both ways.
    fn carry(&mut self, when: &str) {
        for (from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            let (mut from, mut to) = (from, to);
            from.write_all(b"!").unwrap_or_else(|error| panic!("{when}: sending: {error}"));
            to.read_exact(&mut [0]).unwrap_or_else(|error| panic!("{when}: receiving: {error}"));
        }
    }

    fn ends(stream: &TcpStream) -> (SocketAddr, SocketAddr) {
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        (canonical(stream.local_addr().expect("an address")), canonical(stream.peer_addr().expect("an address")))
    }
}

fn listen(netns: &Netns, port: u16) -> TcpListener {
    netns.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).expect("listening")
}

#[test]
fn a_segment_outside_of_the_window_ends_no_connection() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let [web, neighbor, other] = ["web", "neighbor", "other"].map(Netns::new);
    let at_web = host.attach(&web, &["--network", "front", "-p", "8080:80"]);
    host.attach(&neighbor, &["--network", "front"]);
    host.attach(&other, &["--network", "back"]);
    let [out, published] = [listen(outside, 80), listen(&web, 80)];
    let gateways: [IpAddr; 2] = [at_web.gateway.unwrap().into(), at_web.gateway6.unwrap().into()];
    for (family, gateway) in gateways.into_iter().enumerate() {
        let [near, far] = [Uplinks::HOST, Uplinks::OUTSIDE].map(|texts| addresses(texts)[family]);
        let localhost = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))).filter(|_| family == 0);
        let cases = [
            Some((&web, SocketAddr::new(far, 80), &out, outside, "masqueraded")),
            Some((outside, SocketAddr::new(near, 8080), &published, &web, "published, from outside")),
            Some((&other, SocketAddr::new(gateway, 8080), &published, &web, "published, from another network")),
            Some((&neighbor, SocketAddr::new(near, 8080), &published, &web, "published, from a neighbor")),
            Some((&*host.netns, SocketAddr::new(near, 8080), &published, &web, "published, from the host")),
            localhost.map(|at| (&*host.netns, at, &published, &web, "published, from 127.0.0.1")),
        ];
        for (from, to, listener, server, case) in cases.into_iter().flatten() {
            let at_client = (!std::ptr::eq(from, &*host.netns)).then(|| RawPort::open(from, "eth0"));
            let at_server = RawPort::open(server, "eth0");
            let mut echo = Echo::open(from, to, listener);
            echo.carry(case);
            if let Some(port) = &at_client {
                let (own, far) = Echo::ends(&echo.client);
                send_out_of_window(port, own, far);
                // An answer to the segment is sent before the answer to the ping.
                ping(from, far.ip());
                echo.carry(&format!("{case}: after a segment of the client, {own} to {far}"));
            }
            let (own, far) = Echo::ends(&echo.server);
            echo.carry(case);
            send_out_of_window(&at_server, own, far);
            ping(server, if server.name() == outside.name() { far.ip() } else { gateway });
            echo.carry(&format!("{case}: after a segment of the server, {own} to {far}"));
        }
    }
    // A port without a listener still refuses at once.
    let closed = SocketAddr::new(addresses(Uplinks::HOST)[0], 8081);
    let refused = outside.inside(|| TcpStream::connect_timeout(&closed, PATIENCE)).expect_err("nothing listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
