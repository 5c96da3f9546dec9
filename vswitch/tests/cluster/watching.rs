//! What a host sees of the others, through all that can break.

use vswitch::cluster::{ClusterError, Snapshot};

use crate::harness::{Etcd, Seen, connect, draft, endpoint, eventually, host, join};

#[tokio::test(flavor = "multi_thread")]
async fn after_compaction_all_is_told_anew() {
    let mut etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    // Through one member alone, which will be away.
    let two = connect(etcd.options_of(0), host("two")).await;
    let old = one.create_network(draft("old", "10.9.0.0/24")).await.expect("created");
    let mut seen = Seen::from(&two).await;
    assert_eq!(seen.all.networks.len(), 1);

    etcd.stop_member(0);
    one.remove_network(&old.name, old.id).await.expect("removed");
    let new = one.create_network(draft("new", "10.9.1.0/24")).await.expect("created");
    one.put_endpoint(endpoint(&new, "web")).await.expect("announced");
    let mut client = etcd.client(None).await.expect("a client");
    let now = client.get("/", None).await.expect("an answer").header().expect("a header").revision();
    client.compact(now, None).await.expect("compacted");
    etcd.start_all().await;

    seen.until("all is told anew", |seen| seen.resyncs == 2).await;
    assert!(seen.all.networks.contains_key(&new.name) && !seen.all.networks.contains_key(&old.name));
    assert_eq!(seen.endpoints(), ["web"]);
    // And it goes on from there.
    one.put_endpoint(endpoint(&new, "db")).await.expect("announced");
    seen.until("another endpoint is seen", |seen| seen.endpoints() == ["db", "web"]).await;
    seen.until("this host is registered again", |seen| seen.hosts() == ["one", "two"]).await;
    assert_eq!(seen.resyncs, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_costs_nothing_where_nothing_is_forgotten() {
    let mut etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let two = connect(etcd.options_of(0), host("two")).await;
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let mut seen = Seen::from(&two).await;
    etcd.stop_member(0);
    for number in 0..5 {
        one.put_endpoint(endpoint(&blue, &format!("e{number}"))).await.expect("announced");
    }
    etcd.start_all().await;
    seen.until("what came meanwhile is seen", |seen| seen.all.endpoints.len() == 5).await;
    assert_eq!(seen.resyncs, 1, "each of them as an event");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_has_lost_everything_is_noticed() {
    let mut etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let web = endpoint(&blue, "web");
    one.put_endpoint(web.clone()).await.expect("announced");
    let mut seen = Seen::from(&one).await;
    etcd.stop_all();
    etcd.forget();
    etcd.start_all().await;
    seen.until("all is told anew", |seen| seen.resyncs > 1 && seen.all.networks.is_empty()).await;
    seen.until("this host is registered again", |seen| seen.hosts() == ["one"]).await;
    eventually("that the network is gone is said", async || one.health().conflicts.len() == 1).await;
    assert_eq!(one.put_endpoint(web).await, Err(ClusterError::NetworkGone(blue.id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read_are_left_out() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let mut client = etcd.client(None).await.expect("a client");
    client.put("/vswitch/networks/odd", "{", None).await.expect("put");
    client.put("/vswitch/new/kind/of/key", "x", None).await.expect("put");
    let mut seen = Seen::from(&one).await;
    assert_eq!(seen.all, Snapshot { hosts: seen.all.hosts.clone(), ..Snapshot::default() });
    client.put("/vswitch/networks/odd", "[]", None).await.expect("put");
    let error = one.create_network(draft("odd", "10.9.0.0/24")).await.expect_err("the name is taken");
    assert!(matches!(error, ClusterError::NameTaken(_)), "{error}");
    one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    seen.until("what can be read is seen", |seen| seen.all.networks.len() == 1).await;
}
