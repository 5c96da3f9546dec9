//! UDP flows follow a published port to another container.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use vswitch::kernel::conntrack::{Flows, forget_now};
use vswitch::model::Protocol::{Tcp, Udp};

use crate::harness::PATIENCE;
use crate::scene::{A1, A2, Daemon, Scene, UPLINK, forward};
use crate::services::{assert_client_address, retry_interrupted, serve};

#[test]
fn a_udp_flow_follows_the_port_to_the_new_container() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    for family in 0..2 {
        // Each round has a port of its own, because a child that another test starts holds our
        // sockets for a moment.
        let check_replacement = |flows: Flows, port: u16| {
            let server = |netns: &crate::harness::Netns| {
                let any: IpAddr = if family == 0 { [0; 4].into() } else { [0_u16; 8].into() };
                let socket = netns.inside(|| UdpSocket::bind((any, port))).expect("a free port");
                socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
                socket
            };
            let forward_to = |container: [&str; 2]| vec![forward(Udp, None, 5353, container[family], port)];
            let (old, new) = (server(&scene.a1), server(&scene.a2));
            let any = if family == 0 { "0.0.0.0:0" } else { "[::]:0" };
            let client = scene.client.inside(|| UdpSocket::bind(any)).expect("a port");
            let mut buffer = [0; 8];
            daemon.apply(scene.wanted(&[forward_to(A1)]));
            let send = || client.send_to(b"hello", (UPLINK[family], 5353)).expect("sending");
            send();
            retry_interrupted(|| old.recv(&mut buffer)).expect("the first container receives the datagram");
            daemon.apply(scene.wanted(&[forward_to(A2)]));
            send();
            retry_interrupted(|| old.recv(&mut buffer)).expect("the flow still leads to the first container");
            assert_eq!(scene.host.inside(|| forget_now(&[flows])).expect("the flows are deleted"), 1, "{flows:?}");
            send();
            retry_interrupted(|| new.recv(&mut buffer)).expect("the flow leads to the second container");
            old.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
            assert!(retry_interrupted(|| old.recv(&mut buffer)).is_err());
            // Removes the flow before the next round.
            let address = A2[family].parse().expect("an address");
            assert_eq!(
                scene.host.inside(|| forget_now(&[Flows::AnsweredBy(address)])).expect("the flows are deleted"),
                1
            );
        };
        let first = if family == 0 { 40 } else { 60 };
        let port = |address| Flows::ToPort { protocol: Udp.number(), port: 5353, address };
        check_replacement(port(None), first);
        check_replacement(port(Some(UPLINK[family].parse().expect("an address"))), first + 1);
        check_replacement(Flows::AnsweredBy(A1[family].parse().expect("an address")), first + 2);
    }
}

#[test]
fn flows_that_do_not_match_are_kept() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.a1, Udp, 53);
    daemon.apply(scene.wanted(&[vec![forward(Udp, None, 5353, A1[0], 53)]]));
    let forget = |flows| scene.host.inside(|| forget_now(&[flows])).expect("the flows are deleted");
    assert_eq!(forget(Flows::ToPort { protocol: Udp.number(), port: 5353, address: None }), 0);
    assert_client_address(&scene.client, Udp, UPLINK[0], 5353, crate::scene::CLIENT[0]);
    assert_eq!(forget(Flows::ToPort { protocol: Tcp.number(), port: 5353, address: None }), 0);
    assert_eq!(forget(Flows::ToPort { protocol: Udp.number(), port: 53, address: None }), 0);
    let other = Some("192.0.2.200".parse().expect("an address"));
    assert_eq!(forget(Flows::ToPort { protocol: Udp.number(), port: 5353, address: other }), 0);
    assert_eq!(forget(Flows::ToPort { protocol: Udp.number(), port: 5353, address: None }), 1);
}
