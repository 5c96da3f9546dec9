//! etcd goes, in part or altogether, and comes back.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use vswitch::cluster::{Cluster, ClusterError, Released};

use crate::harness::{Etcd, PATIENCE, Seen, candidates, draft, endpoint, eventually, host, join, join_briefly};

#[tokio::test(flavor = "multi_thread")]
async fn one_member_of_three_is_not_missed() {
    let mut etcd = Etcd::start().await;
    let (one, two) = (join(&etcd, "one").await, join(&etcd, "two").await);
    assert_eq!(one.health().members, 3);
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let mut seen = Seen::from(&two).await;
    for member in 0..3 {
        etcd.stop_member(member);
        for number in 0..10 {
            let endpoint = endpoint(&blue, &format!("e{member}-{number}"));
            one.lease_address(blue.id, endpoint.id, candidates(0)).await.expect("leased");
            one.put_endpoint(endpoint).await.expect("announced");
        }
        seen.until("all are seen", |seen| seen.all.endpoints.len() == 10 * (member + 1)).await;
        etcd.start_all().await;
        // Until it has caught up, the next one would be one too many.
        eventually("the member is back", async || is_in_step(&etcd, member).await).await;
    }
    eventually("all is well", async || one.health().unreachable.is_none() && one.health().registered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_is_not_missed_for_long() {
    let etcd = Etcd::start().await;
    let (one, two) = (join(&etcd, "one").await, join(&etcd, "two").await);
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let mut seen = Seen::from(&two).await;
    etcd.hang_member(0);
    for number in 0..10 {
        let endpoint = endpoint(&blue, &format!("e{number}"));
        eventually("it is announced", async || one.put_endpoint(endpoint.clone()).await.is_ok()).await;
    }
    seen.until("all are seen", |seen| seen.all.endpoints.len() == 10 && seen.hosts() == ["one", "two"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_is_taken_back() {
    let etcd = Etcd::start().await;
    let (one, two) = (join_briefly(&etcd, "one").await, join(&etcd, "two").await);
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let mut given_up = 0_i64;
    for wait in 0..40 {
        let lease = one.lease_address(blue.id, endpoint(&blue, "web").id, candidates(0));
        given_up += i64::from(timeout(Duration::from_micros(250 * wait), lease).await.is_err());
    }
    assert!(given_up > 0, "some were given up");
    let kept = 40 - given_up;
    eventually("all that was given up is taken back", async || one.health().pending == 0).await;
    let mut client = etcd.client(None).await.expect("a client");
    // A request that was on its way may have come after what took it back; then it is found later.
    eventually("only what was not given up is left", async || {
        let all = etcd_client::GetOptions::new().with_prefix().with_count_only();
        let left = client.get(format!("/vswitch/addresses/{}/", blue.id), Some(all)).await.expect("an answer");
        left.count() == kept
    })
    .await;
    two.lease_address(blue.id, endpoint(&blue, "db").id, candidates(0)).await.expect("leased");
}

/// Whether a member answers for itself.
async fn is_in_step(etcd: &Etcd, member: usize) -> bool {
    let Ok(Ok(alone)) = timeout(PATIENCE, Cluster::connect(etcd.options_of(member), host("probe"))).await else {
        return false;
    };
    alone.leave().await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_changes_fail_clearly_and_releases_are_done_later() {
    let mut etcd = Etcd::start().await;
    let (one, two) = (join(&etcd, "one").await, join(&etcd, "two").await);
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let (web, db) = (endpoint(&blue, "web"), endpoint(&blue, "db"));
    let mut addresses = Vec::new();
    for endpoint in [&web, &db] {
        addresses.push(one.lease_address(blue.id, endpoint.id, candidates(0)).await.expect("leased"));
        one.put_endpoint(endpoint.clone()).await.expect("announced");
    }
    let mut seen = Seen::from(&two).await;
    assert_eq!(seen.endpoints(), ["db", "web"]);

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
    .expect("an answer in time");
    eprintln!("all three failed after {:?}", begin.elapsed());
    let error = network.expect_err("etcd is away");
    assert!(matches!(error, ClusterError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot reach etcd at {}: ", etcd.options())), "{text}");
    assert!(text.ends_with("(existing traffic goes on; this change needs it: to create a network)"), "{text}");
    assert!(
        address.expect_err("etcd is away").is_unreachable() && announced.expect_err("etcd is away").is_unreachable()
    );
    let outage = one.health().unreachable.expect("it is away");
    assert!(!outage.why.is_empty());

    let begin = Instant::now();
    assert_eq!(one.remove_endpoint(blue.id, web.id).await, Released::Later);
    assert_eq!(one.release_address(blue.id, web.id, addresses[0]).await, Released::Later);
    eprintln!("both releases were noted after {:?}: {text}", begin.elapsed());
    assert!(one.health().pending >= 2, "{:?}", one.health());
    // Who asks for it in vain is not in the way of that.
    let again = one.claim_address(blue.id, other.id, addresses[0]).await;
    assert!(again.expect_err("etcd is away").is_unreachable());

    etcd.start_all().await;
    eventually("the releases are done", async || one.health().pending == 0).await;
    seen.until("one endpoint is left", |seen| seen.endpoints() == ["db"] && seen.hosts() == ["one", "two"]).await;
    eventually("all is well", async || one.health().unreachable.is_none() && one.health().registered).await;
    let free = two.claim_address(blue.id, other.id, addresses[0]).await;
    assert_eq!(free, Ok(addresses[0]));
    let taken = two.claim_address(blue.id, other.id, addresses[1]).await;
    assert!(matches!(taken, Err(ClusterError::AddressTaken { .. })), "{taken:?}");
    one.create_network(draft("red", "10.9.1.0/24")).await.expect("nothing is left of the first try");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_can_start_before_etcd_does() {
    let mut etcd = Etcd::new(false);
    let error = Cluster::connect(etcd.options(), host("one")).await.expect_err("etcd is away");
    assert!(matches!(error, ClusterError::Unreachable { .. }), "{error:?}");
    let one = Cluster::start(etcd.options(), host("one")).await.expect("etcd is not needed");
    assert!(!one.health().registered);
    let watching = Seen::from(&one);
    let (mut seen, ()) = tokio::join!(watching, etcd.start_all());
    seen.until("it is registered", |seen| seen.hosts() == ["one"]).await;
    one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
}
