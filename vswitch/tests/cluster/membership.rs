//! Hosts that join, leave and die, and their claims.

use std::net::IpAddr;

use vswitch::cluster::{ClusterError, Host, Update};

use crate::harness::{
    Etcd, Observer, SHORT_LEASE, candidates, connect, draft, endpoint, eventually, host, join, join_with_short_lease,
    short_lease_options,
};

#[tokio::test(flavor = "multi_thread")]
async fn claims_end_when_a_host_dies_or_leaves() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let two = join_with_short_lease(&etcd, "two").await;
    let mut observer = Observer::from(&one).await;
    assert_eq!(observer.hosts(), ["one", "two"]);
    let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let (db, requested) = (endpoint(&network, "db"), IpAddr::from([10, 9, 0, 2]));
    let leased = two.lease_address(network.id, db.id, candidates(0)).await.expect("leased");
    assert_eq!(leased, requested);
    two.put_endpoint(db.clone()).await.expect("announced");
    observer.until("the endpoint is reported", |observer| observer.endpoints() == ["db"]).await;
    assert_eq!(one.health().hosts, 2);

    let web = endpoint(&network, "web");
    let taken = one.claim_address(network.id, web.id, requested).await;
    let owner = "endpoint db on host two (192.0.2.1)".to_owned();
    assert_eq!(taken, Err(ClusterError::AddressTaken { address: requested, owner }));

    // Longer than the lease, which the host must keep alive.
    tokio::time::sleep(SHORT_LEASE * 2).await;
    assert_eq!(observer.endpoints(), ["db"]);
    assert!(two.health().registered && one.health().registered);
    drop(two);
    observer.until("the host is gone", |observer| observer.hosts() == ["one"] && observer.endpoints().is_empty()).await;
    let leased = one.claim_address(network.id, web.id, requested).await;
    assert_eq!(leased, Ok(requested));

    let three = join(&etcd, "three").await;
    observer.until("another host is reported", |observer| observer.hosts() == ["one", "three"]).await;
    three.leave().await.expect("etcd answers");
    observer.until("the host has left", |observer| observer.hosts() == ["one"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_announced_again_after_the_lease_was_lost() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let two = join(&etcd, "two").await;
    let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let endpoints: Vec<_> = (0..50).map(|number| endpoint(&network, &format!("e{number}"))).collect();
    let mut addresses = Vec::new();
    for endpoint in &endpoints {
        addresses.push(two.lease_address(network.id, endpoint.id, candidates(0)).await.expect("leased"));
        two.put_endpoint(endpoint.clone()).await.expect("announced");
    }
    let mut observer = Observer::from(&one).await;
    assert_eq!(observer.snapshot.endpoints.len(), 50);

    let lease = etcd.lease_of("two").await;
    let mut client = etcd.client(None).await.expect("a client");
    client.lease_revoke(lease).await.expect("revoked");
    let gone = |update: Update| matches!(update, Update::EndpointGone { .. });
    while !gone(observer.next().await) {}
    observer
        .until("all endpoints are back", |observer| {
            observer.hosts() == ["one", "two"] && observer.snapshot.endpoints.len() == 50
        })
        .await;
    assert_ne!(etcd.lease_of("two").await, lease);
    let web = endpoint(&network, "web");
    for address in addresses {
        let taken = one.claim_address(network.id, web.id, address).await;
        assert!(matches!(taken, Err(ClusterError::AddressTaken { .. })), "{taken:?}");
    }
    assert!(two.health().conflicts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_another_host_took_meanwhile_becomes_a_conflict() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let two = join(&etcd, "two").await;
    let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let (ours, theirs) = (endpoint(&network, "web"), endpoint(&network, "web"));
    two.put_endpoint(theirs.clone()).await.expect("announced");
    let address = two.lease_address(network.id, theirs.id, candidates(0)).await.expect("leased");

    // As if a third host had claimed both keys after the lease was lost.
    let mut client = etcd.client(None).await.expect("a client");
    let other = format!("{0}/{0}", "ab".repeat(32));
    for key in [format!("names/{}/web", network.id), format!("addresses/{}/{address}", network.id)] {
        client.put(format!("/vswitch/{key}"), other.as_str(), None).await.expect("put");
    }
    client.lease_revoke(etcd.lease_of("two").await).await.expect("revoked");
    let conflict = async |what: &str| {
        eventually(what, async || matches!(two.health().conflicts.as_slice(), [only] if only.contains(what))).await;
    };
    conflict(&address.to_string()).await;
    let taken = one.put_endpoint(ours).await;
    assert!(matches!(taken, Err(ClusterError::EndpointTaken { .. })), "{taken:?}");

    // The endpoint is announced when both keys are free again. An earlier announcement would show
    // two endpoints at one address.
    client.delete(format!("/vswitch/names/{}/web", network.id), None).await.expect("deleted");
    tokio::time::sleep(SHORT_LEASE).await;
    assert_eq!(Observer::from(&one).await.endpoints(), Vec::<&str>::new());
    let name = format!("/vswitch/names/{}/web", network.id);
    client.put(name.as_str(), other.as_str(), None).await.expect("put");
    client.delete(format!("/vswitch/addresses/{}/{address}", network.id), None).await.expect("deleted");
    conflict("the name of endpoint web").await;
    client.delete(name, None).await.expect("deleted");
    let mut observer = Observer::from(&one).await;
    observer.until("the endpoint is back", |observer| observer.endpoints() == ["web"]).await;
    eventually("no conflict is left", async || two.health().conflicts.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_daemon_takes_over_its_claims() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let me = host("two");
    let before = connect(short_lease_options(&etcd), me.clone()).await;
    let mut observer = Observer::from(&one).await;
    let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let web = endpoint(&network, "web");
    let address = before.lease_address(network.id, web.id, candidates(0)).await.expect("leased");
    before.put_endpoint(web.clone()).await.expect("announced");
    drop(before);

    let after = connect(short_lease_options(&etcd), me.clone()).await;
    let again = after.claim_address(network.id, web.id, address).await;
    assert_eq!(again, Ok(address));
    after.put_endpoint(web.clone()).await.expect("announced");
    after.update_host(Host { public_key: Some("key".to_owned()), ..me.clone() }).await.expect("updated");
    // The first lease has expired by then. A key that is still attached to it would disappear.
    tokio::time::sleep(SHORT_LEASE * 3).await;
    let changed =
        |observer: &Observer| observer.snapshot.hosts.get(&me.id).is_some_and(|host| host.public_key.is_some());
    observer.until("the public key is reported", changed).await;
    assert_eq!((observer.hosts(), observer.endpoints()), (vec!["one", "two"], vec!["web"]));
    let late = tokio::time::timeout(std::time::Duration::from_secs(1), observer.next()).await;
    assert!(late.is_err(), "no further update: {late:?}");
    let taken = one.claim_address(network.id, endpoint(&network, "db").id, address).await;
    assert!(matches!(taken, Err(ClusterError::AddressTaken { .. })), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_stays_with_its_endpoint_while_the_host_has_no_lease() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let (web, db) = (endpoint(&network, "web"), endpoint(&network, "db"));
    let address = one.lease_address(network.id, web.id, candidates(0)).await.expect("leased");
    one.put_endpoint(web.clone()).await.expect("announced");
    let lease = etcd.lease_of("one").await;
    let mut client = etcd.client(None).await.expect("a client");
    client.lease_revoke(lease).await.expect("revoked");
    let taken = one.claim_address(network.id, db.id, address).await;
    assert!(matches!(taken, Err(ClusterError::AddressTaken { .. })), "{taken:?}");
    assert_eq!(one.lease_address(network.id, db.id, candidates(0)).await.ok(), candidates(0).nth(1));
    eventually("the endpoint is announced again", async || {
        let key = format!("/vswitch/endpoints/{}/{}", network.id, web.id);
        client.get(key, None).await.expect("an answer").kvs().len() == 1
    })
    .await;
    assert_eq!(one.health().conflicts, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_left_by_a_late_request_are_deleted() {
    let etcd = Etcd::start().await;
    let one = join_with_short_lease(&etcd, "one").await;
    let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let web = endpoint(&network, "web");
    let address = one.lease_address(network.id, web.id, candidates(0)).await.expect("leased");
    one.put_endpoint(web.clone()).await.expect("announced");
    let lease = etcd.lease_of("one").await;
    let mut client = etcd.client(None).await.expect("a client");
    let options = || Some(etcd_client::PutOptions::new().with_lease(lease));
    let stray = format!("/vswitch/addresses/{}/10.9.0.99", network.id);
    client.put(stray.as_str(), "late", options()).await.expect("put");
    client.put("/vswitch/kind/of/tomorrow", "x", options()).await.expect("put");
    eventually("the stray key is deleted", async || {
        client.get(stray.as_str(), None).await.expect("an answer").kvs().is_empty()
    })
    .await;
    for kept in
        ["kind/of/tomorrow", &format!("addresses/{}/{address}", network.id), &format!("names/{}/web", network.id)]
    {
        let found = client.get(format!("/vswitch/{kept}"), None).await.expect("an answer");
        assert_eq!(found.kvs().len(), 1, "{kept}");
    }
}
