//! Addresses: each is leased only once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::task::JoinSet;
use vswitch::cluster::{ClusterError, Released};
use vswitch::model::{EndpointId, NetworkId};

use crate::harness::{Etcd, candidates, draft, endpoint, join};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_concurrent_requests_from_three_hosts_get_different_addresses() {
    let etcd = Etcd::start().await;
    let hosts = [join(&etcd, "one").await, join(&etcd, "two").await, join(&etcd, "three").await].map(Arc::new);
    let network = hosts[0].create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let before = hosts[0].health().revision;
    let mut leases = JoinSet::new();
    for number in 0..200 {
        let (host, id) = (hosts[number % 3].clone(), network.id);
        let endpoint = EndpointId::random().expect("random bytes");
        leases.spawn(async move { (host.lease_address(id, endpoint, candidates(0)).await, host, endpoint) });
    }
    let all = leases.join_all().await;
    let leased: BTreeSet<IpAddr> = all.iter().map(|(address, ..)| address.clone().expect("leased")).collect();
    assert_eq!(leased.len(), 200);
    // The lowest addresses, without gaps.
    assert_eq!(leased, candidates(0).take(200).collect());
    // One revision per lease, or two if an answer was lost. A failed claim must not write.
    let after = hosts.iter().map(|host| host.health().revision).max().expect("three");
    assert!((200..=400).contains(&(after - before)), "{}", after - before);

    let mut rest = JoinSet::new();
    for number in 0..60 {
        let (host, id) = (hosts[number % 3].clone(), network.id);
        let endpoint = EndpointId::random().expect("random bytes");
        rest.spawn(async move { host.lease_address(id, endpoint, candidates(0)).await });
    }
    let rest = rest.join_all().await;
    assert_eq!(rest.iter().filter(|lease| lease.is_ok()).count(), 53);
    let full = rest.iter().filter(|lease| **lease == Err(ClusterError::Full { tried: 253 })).count();
    assert_eq!(full, 7);

    let (address, host, endpoint) = &all[0];
    let address = address.clone().expect("leased");
    let other_endpoint = EndpointId::random().expect("random bytes");
    host.release_address(network.id, other_endpoint, address).await;
    assert!(
        host.lease_address(network.id, other_endpoint, candidates(0)).await.is_err(),
        "the release by another endpoint has no effect"
    );
    assert_eq!(host.release_address(network.id, *endpoint, address).await, Released::Done);
    assert_eq!(hosts[1].lease_address(network.id, other_endpoint, candidates(0)).await, Ok(address));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requested_address_is_leased_or_its_owner_is_named() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let two = join(&etcd, "two").await;
    let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let (web, db) = (endpoint(&network, "web"), endpoint(&network, "db"));
    let nine = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(one.claim_address(network.id, web.id, nine).await, Ok(nine));
    assert_eq!(one.claim_address(network.id, web.id, nine).await, Ok(nine), "the endpoint already has the address");
    one.put_endpoint(web.clone()).await.expect("announced");
    let taken = two.claim_address(network.id, db.id, nine).await.expect_err("taken");
    assert_eq!(
        taken.to_string(),
        "address fd00::9 is already in use by endpoint web on host one (192.0.2.1) (choose another, or leave it out)"
    );
    let only = two.lease_address(network.id, db.id, std::iter::once(nine)).await;
    assert_eq!(only, Err(ClusterError::Full { tried: 1 }), "the only candidate is taken");
    // With a choice, the next address is leased.
    let next = (9..).map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]));
    let ten = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 10]);
    assert_eq!(two.lease_address(network.id, db.id, next).await, Ok(ten));
    let no_network = NetworkId::from_bytes([9; 32]);
    assert_eq!(one.lease_address(no_network, web.id, candidates(0)).await, Err(ClusterError::NetworkGone(no_network)));
    assert_eq!(one.lease_address(network.id, web.id, std::iter::empty()).await, Err(ClusterError::Full { tried: 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_free_address_is_found_behind_thousands_of_leases() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let network = one.create_network(draft("blue", "10.9.0.0/16")).await.expect("created");
    let all = || (2_u32..65534).map(|host| IpAddr::from([10, 9, host.to_be_bytes()[2], host.to_be_bytes()[3]]));
    let mut client = etcd.client(None).await.expect("a client");
    let owner = format!("{0}/{0}", "ab".repeat(32));
    let taken: Vec<_> = all().take(3000).collect();
    for batch in taken.chunks(100) {
        let key = |address: &IpAddr| format!("/vswitch/addresses/{}/{address}", network.id);
        let puts: Vec<_> =
            batch.iter().map(|address| etcd_client::TxnOp::put(key(address), owner.as_str(), None)).collect();
        client.txn(etcd_client::Txn::new().and_then(puts)).await.expect("put");
    }
    let web = endpoint(&network, "web");
    assert_eq!(one.lease_address(network.id, web.id, all()).await.ok(), all().nth(3000));
}
