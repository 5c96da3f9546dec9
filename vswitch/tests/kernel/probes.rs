//! Tests of the probes for addresses that are in use on a wire.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vswitch::kernel::netlink::Netlink;
use vswitch::kernel::netns::Netns;
use vswitch::kernel::packet;
use vswitch::kernel::probe::{self, Holder, ProbeError, ProbeOn};
use vswitch_common::Mac;

use crate::shared::{Namespace, ip, veth_between};

/// Waiting time of probes that expect no answer.
const SHORT: Duration = Duration::from_millis(600);
/// Waiting time of probes that expect an answer. A device that was just switched on may send
/// nothing for a second.
const LONG: Duration = Duration::from_secs(5);

/// Probes for addresses from a namespace.
fn find_holder(
    netns: &Netns,
    on: ProbeOn,
    addresses: &[&str],
    timeout: Duration,
) -> Result<Option<Holder>, ProbeError> {
    let addresses: Vec<_> = addresses.iter().map(|address| ip(address)).collect();
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(probe::find_holder(&on, &addresses, timeout))
    };
    netns.enter(ask).expect("enter")
}

#[tokio::test]
async fn a_used_address_is_found_and_an_unused_address_is_free() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, peer) = veth_between(&near, &far).await;
    let far_netlink = Netlink::open_in(&far).expect("a socket");
    for address in ["10.77.0.2/24", "fd77::2/64"] {
        far_netlink.add_address(peer, address.parse().expect("an address")).await.expect("add");
    }
    let mac = Mac([2, 0, 0, 0, 0, 2]);
    for address in ["10.77.0.2", "fd77::2"] {
        let begun = Instant::now();
        let found = find_holder(&near, on, &["10.77.0.9", "fd77::9", address], LONG).expect("ask");
        assert_eq!(found, Some(Holder { address: ip(address), mac }));
        println!("{address} is at {mac}: after {:?}", begun.elapsed());
    }
    let begun = Instant::now();
    assert_eq!(find_holder(&near, on, &["10.77.0.9", "fd77::9"], SHORT).expect("ask"), None);
    assert!(begun.elapsed() >= SHORT, "gave up early");
    // The probing host's own address is not found, and stations on another VLAN are not probed.
    let netlink = Netlink::open_in(&near).expect("a socket");
    netlink.add_address(on.index, "10.77.0.1/24".parse().expect("an address")).await.expect("add");
    assert_eq!(find_holder(&near, on, &["10.77.0.1"], SHORT).expect("ask"), None);
    assert_eq!(find_holder(&near, ProbeOn { vlan: 30, ..on }, &["10.77.0.2", "fd77::2"], SHORT).expect("ask"), None);
    assert_eq!(find_holder(&near, on, &[], SHORT).expect("nothing to ask"), None);

    let missing = find_holder(&near, ProbeOn { index: 4_000_000, ..on }, &["10.77.0.2"], SHORT);
    assert!(matches!(missing, Err(ProbeError::Listen { index: 4_000_000, .. })), "{missing:?}");
    netlink.set_down(on.index).await.expect("switch off");
    let down = find_holder(&near, on, &["10.77.0.2"], SHORT).expect_err("the interface is down");
    println!("{down}");
}

#[tokio::test]
async fn an_address_is_found_only_on_its_vlan() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, peer) = veth_between(&near, &far).await;
    // The far end sends a prepared ARP reply, which needs no VLAN device: 10.77.0.2 is at
    // 02:00:00:00:00:02.
    let mut reply = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 30, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
    reply.extend([2, 0, 0, 0, 0, 2, 10, 77, 0, 2, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let answer = || {
                while !done.load(Ordering::Relaxed) {
                    packet::send(peer, &reply).expect("send");
                    std::thread::sleep(Duration::from_millis(20));
                }
            };
            far.enter(answer).expect("enter");
        });
        let found = |vlan, timeout| find_holder(&near, ProbeOn { vlan, ..on }, &["10.77.0.2"], timeout).expect("ask");
        let found = [found(30, LONG), found(31, SHORT), found(0, SHORT)];
        done.store(true, Ordering::Relaxed);
        assert_eq!(found, [Some(Holder { address: ip("10.77.0.2"), mac: Mac([2, 0, 0, 0, 0, 2]) }), None, None]);
    });
}
