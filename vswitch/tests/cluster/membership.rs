//! Who is there, and what becomes of those who die.

use std::net::IpAddr;

use vswitch::cluster::{ClusterError, Host, Update};

use crate::harness::{
    BRIEF, Etcd, Seen, brief, candidates, connect, draft, endpoint, eventually, host, join, join_briefly,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_loses_all_it_had_and_one_that_leaves_at_once() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let two = join_briefly(&etcd, "two").await;
    let mut seen = Seen::from(&one).await;
    assert_eq!(seen.hosts(), ["one", "two"]);
    let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let (db, asked) = (endpoint(&network, "db"), IpAddr::from([10, 9, 0, 2]));
    let given = two.lease_address(network.id, db.id, candidates(0)).await.expect("leased");
    assert_eq!(given, asked);
    two.put_endpoint(db.clone()).await.expect("announced");
    seen.until("the endpoint is seen", |seen| seen.endpoints() == ["db"]).await;
    assert_eq!(one.health().hosts, 2);

    let web = endpoint(&network, "web");
    let taken = one.claim_address(network.id, web.id, asked).await;
    let owner = "endpoint db on host two (192.0.2.1)".to_owned();
    assert_eq!(taken, Err(ClusterError::AddressTaken { address: asked, owner }));

    // Longer than the lease: it is kept alive.
    tokio::time::sleep(BRIEF * 2).await;
    assert_eq!(seen.endpoints(), ["db"]);
    assert!(two.health().registered && one.health().registered);
    drop(two);
    seen.until("it is gone", |seen| seen.hosts() == ["one"] && seen.endpoints().is_empty()).await;
    let given = one.claim_address(network.id, web.id, asked).await;
    assert_eq!(given, Ok(asked));

    let three = join(&etcd, "three").await;
    seen.until("another host is seen", |seen| seen.hosts() == ["one", "three"]).await;
    three.leave().await.expect("etcd is there");
    seen.until("it has left", |seen| seen.hosts() == ["one"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_has_is_announced_again_when_its_lease_was_lost() {
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
    let mut seen = Seen::from(&one).await;
    assert_eq!(seen.all.endpoints.len(), 50);

    let lease = etcd.lease_of("two").await;
    let mut client = etcd.client(None).await.expect("a client");
    client.lease_revoke(lease).await.expect("revoked");
    let gone = |update: Update| matches!(update, Update::EndpointGone { .. });
    while !gone(seen.next().await) {}
    seen.until("all is back", |seen| seen.hosts() == ["one", "two"] && seen.all.endpoints.len() == 50).await;
    assert_ne!(etcd.lease_of("two").await, lease);
    let web = endpoint(&network, "web");
    for address in addresses {
        let taken = one.claim_address(network.id, web.id, address).await;
        assert!(matches!(taken, Err(ClusterError::AddressTaken { .. })), "{taken:?}");
    }
    assert!(two.health().conflicts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_took_meanwhile_is_not_taken_from_it() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let two = join(&etcd, "two").await;
    let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let (ours, theirs) = (endpoint(&network, "web"), endpoint(&network, "web"));
    two.put_endpoint(theirs.clone()).await.expect("announced");
    let address = two.lease_address(network.id, theirs.id, candidates(0)).await.expect("leased");

    // As if a third host had been faster than this one when its lease was lost.
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

    // When both are free again, it is announced after all: not before, or there would be two at one address.
    client.delete(format!("/vswitch/names/{}/web", network.id), None).await.expect("deleted");
    tokio::time::sleep(BRIEF).await;
    assert_eq!(Seen::from(&one).await.endpoints(), Vec::<&str>::new());
    let name = format!("/vswitch/names/{}/web", network.id);
    client.put(name.as_str(), other.as_str(), None).await.expect("put");
    client.delete(format!("/vswitch/addresses/{}/{address}", network.id), None).await.expect("deleted");
    conflict("the name of endpoint web").await;
    client.delete(name, None).await.expect("deleted");
    let mut seen = Seen::from(&one).await;
    seen.until("the endpoint is back", |seen| seen.endpoints() == ["web"]).await;
    assert!(two.health().conflicts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_again_takes_over_what_it_had() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let me = host("two");
    let before = connect(brief(&etcd), me.clone()).await;
    let mut seen = Seen::from(&one).await;
    let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let web = endpoint(&network, "web");
    let address = before.lease_address(network.id, web.id, candidates(0)).await.expect("leased");
    before.put_endpoint(web.clone()).await.expect("announced");
    drop(before);

    let after = connect(brief(&etcd), me.clone()).await;
    let again = after.claim_address(network.id, web.id, address).await;
    assert_eq!(again, Ok(address));
    after.put_endpoint(web.clone()).await.expect("announced");
    after.update_host(Host { public_key: Some("key".to_owned()), ..me.clone() }).await.expect("updated");
    // The lease of the first has ended by then; were anything still on it, it would go.
    tokio::time::sleep(BRIEF * 3).await;
    let changed = |seen: &Seen| seen.all.hosts.get(&me.id).is_some_and(|host| host.public_key.is_some());
    seen.until("the key is seen", changed).await;
    assert_eq!((seen.hosts(), seen.endpoints()), (vec!["one", "two"], vec!["web"]));
    let late = tokio::time::timeout(std::time::Duration::from_secs(1), seen.next()).await;
    assert!(late.is_err(), "nothing went: {late:?}");
    let mine = one.claim_address(network.id, endpoint(&network, "db").id, address).await;
    assert!(matches!(mine, Err(ClusterError::AddressTaken { .. })), "{mine:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_here_has_no_other_gets_while_the_host_has_no_lease() {
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
    eventually("it is announced again", async || {
        let key = format!("/vswitch/endpoints/{}/{}", network.id, web.id);
        client.get(key, None).await.expect("an answer").kvs().len() == 1
    })
    .await;
    assert_eq!(one.health().conflicts, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_late_request_leaves_is_found_and_deleted() {
    let etcd = Etcd::start().await;
    let one = join_briefly(&etcd, "one").await;
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
    eventually("the stray is gone", async || {
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
