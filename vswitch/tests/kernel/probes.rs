//! Who has an address on a wire.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vswitch::kernel::netlink::Netlink;
use vswitch::kernel::netns::Netns;
use vswitch::kernel::packet;
use vswitch::kernel::probe::{self, Holder, ProbeError, ProbeOn};
use vswitch_common::Mac;

use crate::shared::{Namespace, ip, wire};

/// What is enough where nobody is to answer.
const SHORT: Duration = Duration::from_millis(600);
/// What is enough where somebody is: a device that has just come up may send nothing for a second.
const LONG: Duration = Duration::from_secs(5);

/// Asks in a namespace who has these addresses.
fn probed(netns: &Netns, on: ProbeOn, addresses: &[&str], patience: Duration) -> Result<Option<Holder>, ProbeError> {
    let addresses: Vec<_> = addresses.iter().map(|address| ip(address)).collect();
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(probe::holder(&on, &addresses, patience))
    };
    netns.enter(ask).expect("enter")
}

#[tokio::test]
async fn who_has_an_address_is_found_and_an_address_that_nobody_has_is_free() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, peer) = wire(&near, &far).await;
    let theirs = Netlink::open_in(&far).expect("a socket");
    for address in ["10.77.0.2/24", "fd77::2/64"] {
        theirs.add_address(peer, address.parse().expect("an address")).await.expect("add");
    }
    let mac = Mac([2, 0, 0, 0, 0, 2]);
    for address in ["10.77.0.2", "fd77::2"] {
        let begun = Instant::now();
        let found = probed(&near, on, &["10.77.0.9", "fd77::9", address], LONG).expect("ask");
        assert_eq!(found, Some(Holder { address: ip(address), mac }));
        println!("{address} is at {mac}: after {:?}", begun.elapsed());
    }
    let begun = Instant::now();
    assert_eq!(probed(&near, on, &["10.77.0.9", "fd77::9"], SHORT).expect("ask"), None);
    assert!(begun.elapsed() >= SHORT, "gave up early");
    // The asker's own address does not count, and nobody on another VLAN is asked.
    let ours = Netlink::open_in(&near).expect("a socket");
    ours.add_address(on.index, "10.77.0.1/24".parse().expect("an address")).await.expect("add");
    assert_eq!(probed(&near, on, &["10.77.0.1"], SHORT).expect("ask"), None);
    assert_eq!(probed(&near, ProbeOn { vlan: 30, ..on }, &["10.77.0.2", "fd77::2"], SHORT).expect("ask"), None);
    assert_eq!(probed(&near, on, &[], SHORT).expect("nothing to ask"), None);

    let missing = probed(&near, ProbeOn { index: 4_000_000, ..on }, &["10.77.0.2"], SHORT);
    assert!(matches!(missing, Err(ProbeError::Listen { index: 4_000_000, .. })), "{missing:?}");
    ours.set_down(on.index).await.expect("switch off");
    let down = probed(&near, on, &["10.77.0.2"], SHORT).expect_err("the interface is down");
    println!("{down}");
}

#[tokio::test]
async fn who_has_an_address_on_a_vlan_is_found_there_alone() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, peer) = wire(&near, &far).await;
    // The far end answers by hand, for which it needs no device of the VLAN: 10.77.0.2 is at 02:00:00:00:00:02.
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
        let found = |vlan, patience| probed(&near, ProbeOn { vlan, ..on }, &["10.77.0.2"], patience).expect("ask");
        let found = [found(30, LONG), found(31, SHORT), found(0, SHORT)];
        done.store(true, Ordering::Relaxed);
        assert_eq!(found, [Some(Holder { address: ip("10.77.0.2"), mac: Mac([2, 0, 0, 0, 0, 2]) }), None, None]);
    });
}
