//! Updates of a watcher, through failures of etcd.

use vswitch::cluster::{ClusterError, Snapshot};

use crate::harness::{Etcd, Observer, connect, draft, endpoint, eventually, host, join};

#[tokio::test(flavor = "multi_thread")]
async fn after_compaction_a_new_snapshot_is_reported() {
    let mut etcd = Etcd::start_three().await;
    let one = join(&etcd, "one").await;
    // Connects through one member only, which will be stopped.
    let two = connect(etcd.options_of(0), host("two")).await;
    let old = one.create_network(draft("old", "10.9.0.0/24")).await.expect("created");
    let mut observer = Observer::from(&two).await;
    assert_eq!(observer.snapshot.networks.len(), 1);

    etcd.stop_member(0);
    one.remove_network(&old.name, old.id).await.expect("removed");
    let new = one.create_network(draft("new", "10.9.1.0/24")).await.expect("created");
    one.put_endpoint(endpoint(&new, "web")).await.expect("announced");
    let mut client = etcd.client(None).await.expect("a client");
    let now = client.get("/", None).await.expect("an answer").header().expect("a header").revision();
    client.compact(now, None).await.expect("compacted");
    etcd.start_all().await;

    observer.until("a new snapshot is reported", |observer| observer.resyncs == 2).await;
    assert!(observer.snapshot.networks.contains_key(&new.name) && !observer.snapshot.networks.contains_key(&old.name));
    assert_eq!(observer.endpoints(), ["web"]);
    // The watcher continues from there.
    one.put_endpoint(endpoint(&new, "db")).await.expect("announced");
    observer.until("another endpoint is reported", |observer| observer.endpoints() == ["db", "web"]).await;
    observer.until("this host is registered again", |observer| observer.hosts() == ["one", "two"]).await;
    assert_eq!(observer.resyncs, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_resumed_without_a_new_snapshot() {
    let mut etcd = Etcd::start_three().await;
    let one = join(&etcd, "one").await;
    let two = connect(etcd.options_of(0), host("two")).await;
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let mut observer = Observer::from(&two).await;
    etcd.stop_member(0);
    for number in 0..5 {
        one.put_endpoint(endpoint(&blue, &format!("e{number}"))).await.expect("announced");
    }
    etcd.start_all().await;
    observer.until("the missed changes are reported", |observer| observer.snapshot.endpoints.len() == 5).await;
    assert_eq!(observer.resyncs, 1, "the changes come as events");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_with_deleted_data_is_detected() {
    let mut etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let web = endpoint(&blue, "web");
    one.put_endpoint(web.clone()).await.expect("announced");
    let mut observer = Observer::from(&one).await;
    etcd.stop_all();
    etcd.delete_data();
    etcd.start_all().await;
    observer
        .until("a new snapshot is reported", |observer| observer.resyncs > 1 && observer.snapshot.networks.is_empty())
        .await;
    observer.until("this host is registered again", |observer| observer.hosts() == ["one"]).await;
    eventually("the lost network is a conflict", async || one.health().conflicts.len() == 1).await;
    assert_eq!(one.put_endpoint(web).await, Err(ClusterError::NetworkGone(blue.id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_records_are_ignored() {
    let etcd = Etcd::start().await;
    let one = join(&etcd, "one").await;
    let mut client = etcd.client(None).await.expect("a client");
    client.put("/vswitch/networks/odd", "{", None).await.expect("put");
    client.put("/vswitch/new/kind/of/key", "x", None).await.expect("put");
    let mut observer = Observer::from(&one).await;
    assert_eq!(observer.snapshot, Snapshot { hosts: observer.snapshot.hosts.clone(), ..Snapshot::default() });
    client.put("/vswitch/networks/odd", "[]", None).await.expect("put");
    let error = one.create_network(draft("odd", "10.9.0.0/24")).await.expect_err("the name is taken");
    assert!(matches!(error, ClusterError::NameTaken(_)), "{error}");
    one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    observer.until("the readable network is reported", |observer| observer.snapshot.networks.len() == 1).await;
}
