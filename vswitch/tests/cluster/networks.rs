//! Networks: unique names, VNIs and subnets, also when several hosts claim them at the same moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use vswitch::cluster::{ClusterError, Vni};

use crate::harness::{Etcd, Observer, candidates, draft, endpoint, join};

fn vni(number: u32) -> Vni {
    Vni::try_from(number).expect("a VNI")
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_vnis_are_unique_when_three_hosts_create_networks_at_once() {
    let etcd = Etcd::start().await;
    let hosts = [join(&etcd, "one").await, join(&etcd, "two").await, join(&etcd, "three").await].map(Arc::new);
    let mut tries = JoinSet::new();
    for (number, host) in hosts.iter().enumerate() {
        for name in 0..10 {
            let (host, third) = (host.clone(), number * 10 + name);
            let draft = draft(&format!("n{name}"), &format!("10.9.{third}.0/24"));
            tries.spawn(async move { host.create_network(draft).await });
        }
    }
    let tries = tries.join_all().await;
    let created: Vec<_> = tries.iter().flatten().collect();
    let names: BTreeSet<_> = created.iter().map(|network| network.name.clone()).collect();
    let vnis: BTreeSet<_> = created.iter().map(|network| network.vni.number()).collect();
    assert_eq!((created.len(), names.len()), (10, 10));
    assert_eq!(vnis, (4096..4106).collect(), "the lowest VNIs, without gaps");
    for failed in tries.iter().filter_map(|network| network.as_ref().err()) {
        assert!(matches!(failed, ClusterError::NameTaken(_)), "{failed}");
    }
    let observer = Observer::from(&hosts[2]).await;
    assert_eq!(observer.snapshot.networks.len(), 10);
    assert!(created.iter().all(|network| observer.snapshot.networks.get(&network.name) == Some(network)));
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_names_vnis_and_subnets_are_assigned_or_refused() {
    let etcd = Etcd::start().await;
    let (one, two) = (join(&etcd, "one").await, join(&etcd, "two").await);
    let mut blue = draft("blue", "10.9.0.0/24");
    blue.vni = Some(vni(4097));
    let blue = one.create_network(blue).await.expect("created");
    assert_eq!(blue.vni, vni(4097));
    assert_eq!(two.create_network(draft("red", "10.9.1.0/24")).await.expect("created").vni, vni(4096));
    assert_eq!(two.create_network(draft("green", "10.9.2.0/24")).await.expect("created").vni, vni(4098));

    let mut same_vni = draft("grey", "10.9.3.0/24");
    same_vni.vni = Some(vni(4097));
    let error = two.create_network(same_vni).await.expect_err("taken").to_string();
    assert_eq!(error, "VNI 4097 is already in use by network blue of the cluster (choose another, or leave it out)");
    let error = two.create_network(draft("blue", "10.9.3.0/24")).await.expect_err("taken").to_string();
    assert_eq!(error, "network with name blue already exists in the cluster (choose another name)");
    let error = two.create_network(draft("grey", "10.9.0.128/25")).await.expect_err("taken");
    assert!(matches!(error, ClusterError::SubnetTaken { .. }), "{error}");

    two.remove_network(&blue.name, blue.id).await.expect("removed");
    assert_eq!(two.remove_network(&blue.name, blue.id).await, Err(ClusterError::NetworkNotFound(blue.name.clone())));
    let again = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    assert_eq!(again.vni, vni(4097), "the VNI is free again");
    let late = one.put_endpoint(endpoint(&blue, "web")).await;
    assert_eq!(late, Err(ClusterError::NetworkGone(blue.id)), "the new network of the same name has another id");
    let removed = two.remove_network(&blue.name, blue.id).await;
    assert_eq!(removed, Err(ClusterError::NetworkNotFound(blue.name.clone())), "the new network stays");
    one.remove_network(&again.name, again.id).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_with_endpoints_on_any_host_is_not_removed() {
    let etcd = Etcd::start().await;
    let (one, two) = (join(&etcd, "one").await, join(&etcd, "two").await);
    let blue = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    let web = endpoint(&blue, "web");
    two.put_endpoint(web.clone()).await.expect("announced");
    let error = one.remove_network(&blue.name, blue.id).await.expect_err("in use").to_string();
    assert_eq!(error, "network blue has active endpoints: web on host two (192.0.2.1) (detach them first)");

    let error = one.put_endpoint(endpoint(&blue, "web")).await.expect_err("taken").to_string();
    assert!(
        error.starts_with("endpoint with name web already exists in that network, on host two (192.0.2.1)"),
        "{error}"
    );
    let mut renamed = web.clone();
    renamed.name = "shop".parse().expect("a name");
    two.put_endpoint(renamed.clone()).await.expect("renamed");
    let new = endpoint(&blue, "web");
    one.put_endpoint(new.clone()).await.expect("the name is free");
    one.remove_endpoint(blue.id, new.id).await;
    two.remove_endpoint(blue.id, web.id).await;
    one.remove_network(&blue.name, blue.id).await.expect("removed");
    let mut client = etcd.client(None).await.expect("a client");
    let all = etcd_client::GetOptions::new().with_prefix().with_keys_only();
    let remaining = client.get("/vswitch/", Some(all)).await.expect("an answer");
    let remaining: Vec<_> =
        remaining.kvs().iter().map(|found| String::from_utf8_lossy(found.key()).into_owned()).collect();
    assert!(remaining.iter().all(|key| key.starts_with("/vswitch/hosts/")), "{remaining:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_attach_and_removal_do_not_both_succeed() {
    let etcd = Etcd::start().await;
    let (one, two) = (join(&etcd, "one").await, join(&etcd, "two").await);
    for round in 0..30 {
        let network = one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
        let web = endpoint(&network, "web");
        let attach = async {
            two.lease_address(network.id, web.id, candidates(0)).await?;
            two.put_endpoint(web.clone()).await
        };
        let removal = async {
            // The delay grows, so that the removal comes before, during and after the attach.
            tokio::time::sleep(std::time::Duration::from_micros(300 * round)).await;
            one.remove_network(&network.name, network.id).await
        };
        let (attached, removed) = tokio::join!(attach, removal);
        match (&attached, &removed) {
            (Ok(()), Err(ClusterError::NetworkInUse { .. })) => {
                two.remove_endpoint(network.id, web.id).await;
                one.remove_network(&network.name, network.id).await.expect("removed");
            }
            (Err(ClusterError::NetworkGone(id)), Ok(())) => assert_eq!(*id, network.id),
            both => panic!("round {round}: {both:?}"),
        }
    }
}
