//! Outages of one or all members of etcd.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use vswitch::cluster::{Cluster, ClusterError, Released};

use crate::harness::{
    Etcd, Observer, PATIENCE, candidates, draft, endpoint, eventually, host, join, join_with_short_lease,
};

#[tokio::test(flavor = "multi_thread")]
async fn one_stopped_member_of_three_has_no_effect() {
    let mut etcd = Etcd::start_three().await;
    let (one, two) = (join(&etcd, "one").await, join(&etcd, "two").await);
    assert_eq!(one.health().members, 3);
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let mut observer = Observer::from(&two).await;
    for member in 0..3 {
        etcd.stop_member(member);
        for number in 0..10 {
            let endpoint = endpoint(&blue, &format!("e{member}-{number}"));
            one.lease_address(blue.id, endpoint.id, candidates(0)).await.expect("leased");
            one.put_endpoint(endpoint).await.expect("announced");
        }
        observer
            .until("all endpoints are reported", |observer| observer.snapshot.endpoints.len() == 10 * (member + 1))
            .await;
        etcd.start_all().await;
        // A second member must not stop before this one has caught up.
        eventually("the member answers", async || answers_alone(&etcd, member).await).await;
    }
    eventually("the host is registered", async || one.health().unreachable.is_none() && one.health().registered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_member_delays_requests_only_briefly() {
    let etcd = Etcd::start_three().await;
    let (one, two) = (join(&etcd, "one").await, join(&etcd, "two").await);
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let mut observer = Observer::from(&two).await;
    etcd.hang_member(0);
    for number in 0..10 {
        let endpoint = endpoint(&blue, &format!("e{number}"));
        eventually("the endpoint is announced", async || one.put_endpoint(endpoint.clone()).await.is_ok()).await;
    }
    observer
        .until("all endpoints are reported", |observer| {
            observer.snapshot.endpoints.len() == 10 && observer.hosts() == ["one", "two"]
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_dropped_requests_are_released() {
    let etcd = Etcd::start().await;
    let (one, two) = (join_with_short_lease(&etcd, "one").await, join(&etcd, "two").await);
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let mut dropped = 0_i64;
    for wait in 0..40 {
        let lease = one.lease_address(blue.id, endpoint(&blue, "web").id, candidates(0));
        dropped += i64::from(timeout(Duration::from_micros(250 * wait), lease).await.is_err());
    }
    assert!(dropped > 0, "some requests were dropped");
    let kept = 40 - dropped;
    eventually("all releases are done", async || one.health().pending == 0).await;
    let mut client = etcd.client(None).await.expect("a client");
    // A claim that was still in progress may arrive after its release. The next sweep deletes it.
    eventually("only the leased addresses are left", async || {
        let all = etcd_client::GetOptions::new().with_prefix().with_count_only();
        let remaining = client.get(format!("/vswitch/addresses/{}/", blue.id), Some(all)).await.expect("an answer");
        remaining.count() == kept
    })
    .await;
    two.lease_address(blue.id, endpoint(&blue, "db").id, candidates(0)).await.expect("leased");
}

/// Reports whether a member answers on its own.
async fn answers_alone(etcd: &Etcd, member: usize) -> bool {
    let Ok(Ok(alone)) = timeout(PATIENCE, Cluster::connect(etcd.options_of(member), host("probe"))).await else {
        return false;
    };
    alone.leave().await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_changes_fail_and_releases_are_queued() {
    let mut etcd = Etcd::start().await;
    let (one, two) = (join(&etcd, "one").await, join(&etcd, "two").await);
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let (web, db) = (endpoint(&blue, "web"), endpoint(&blue, "db"));
    let mut addresses = Vec::new();
    for endpoint in [&web, &db] {
        addresses.push(one.lease_address(blue.id, endpoint.id, candidates(0)).await.expect("leased"));
        one.put_endpoint(endpoint.clone()).await.expect("announced");
    }
    let mut observer = Observer::from(&two).await;
    assert_eq!(observer.endpoints(), ["db", "web"]);

    etcd.stop_all();
    let begin = Instant::now();
    let other = endpoint(&blue, "other");
    let (network, address, announced) = timeout(PATIENCE, async {
        tokio::join!(
            one.create_network(draft("red", "10.9.1.0/24")),
            one.lease_address(blue.id, other.id, candidates(0)),
            one.put_endpoint(other.clone()),
        )
    })
    .await
    .expect("answers in time");
    eprintln!("all three failed after {:?}", begin.elapsed());
    let error = network.expect_err("etcd is unreachable");
    assert!(matches!(error, ClusterError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot reach etcd at {}: ", etcd.options())), "{text}");
    assert!(text.ends_with("(existing traffic goes on; etcd is needed to create a network)"), "{text}");
    assert!(
        address.expect_err("etcd is unreachable").is_unreachable()
            && announced.expect_err("etcd is unreachable").is_unreachable()
    );
    let outage = one.health().unreachable.expect("an outage");
    assert!(!outage.reason.is_empty());

    let begin = Instant::now();
    assert_eq!(one.remove_endpoint(blue.id, web.id).await, Released::Later);
    assert_eq!(one.release_address(blue.id, web.id, addresses[0]).await, Released::Later);
    eprintln!("both releases were queued after {:?}: {text}", begin.elapsed());
    assert!(one.health().pending >= 2, "{:?}", one.health());
    // A failed claim must not cancel the pending release.
    let repeated = one.claim_address(blue.id, other.id, addresses[0]).await;
    assert!(repeated.expect_err("etcd is unreachable").is_unreachable());

    etcd.start_all().await;
    eventually("the releases are done", async || one.health().pending == 0).await;
    observer
        .until("one endpoint is left", |observer| observer.endpoints() == ["db"] && observer.hosts() == ["one", "two"])
        .await;
    eventually("the host is registered", async || one.health().unreachable.is_none() && one.health().registered).await;
    let free = two.claim_address(blue.id, other.id, addresses[0]).await;
    assert_eq!(free, Ok(addresses[0]));
    let taken = two.claim_address(blue.id, other.id, addresses[1]).await;
    assert!(matches!(taken, Err(ClusterError::AddressTaken { .. })), "{taken:?}");
    one.create_network(draft("red", "10.9.1.0/24")).await.expect("the first attempt left nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_can_start_before_etcd() {
    let mut etcd = Etcd::new(false);
    let error = Cluster::connect(etcd.options(), host("one")).await.expect_err("etcd is unreachable");
    assert!(matches!(error, ClusterError::Unreachable { .. }), "{error:?}");
    let one = Cluster::start(etcd.options(), host("one")).await.expect("a start without etcd");
    assert!(!one.health().registered);
    let watching = Observer::from(&one);
    let (mut observer, ()) = tokio::join!(watching, etcd.start_all());
    observer.until("the host is registered", |observer| observer.hosts() == ["one"]).await;
    one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
}
