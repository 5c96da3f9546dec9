//! Users and certificates of etcd.

use std::fs;
use std::path::PathBuf;

use vswitch::cluster::{Cluster, ClusterError, Options};

use crate::harness::{Etcd, Observer, connect, draft, eventually, host};

fn user_options(etcd: &Etcd, password: &str) -> Options {
    let file = etcd.directory().join(format!("password-{password}"));
    fs::write(&file, format!("{password}\n")).expect("written");
    etcd.options().with_user("vswitch".to_owned(), file)
}

async fn connect_error(options: Options) -> ClusterError {
    Cluster::connect(options, host("one")).await.expect_err("a refusal")
}

#[tokio::test(flavor = "multi_thread")]
async fn users_need_the_password_and_a_role() {
    let mut etcd = Etcd::start().await;
    etcd.need_users().await;
    for options in [
        etcd.options(),
        user_options(&etcd, "wrong"),
        user_options(&etcd, "secret").with_prefix("/other").expect("valid"),
    ] {
        let error = connect_error(options).await;
        assert!(matches!(error, ClusterError::Auth { .. }), "{error:?}");
        eprintln!("{error}");
    }
    let missing = etcd.options().with_user("vswitch".to_owned(), PathBuf::from("/nonexistent"));
    assert!(matches!(connect_error(missing).await, ClusterError::File { .. }));

    let one = connect(user_options(&etcd, "secret"), host("one")).await;
    let mut observer = Observer::from(&one).await;
    one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    observer.until("the network is reported", |observer| observer.snapshot.networks.len() == 1).await;
    // A restarted etcd knows none of the old tokens.
    etcd.stop_all();
    etcd.start_all().await;
    eventually("the host is registered and can create a network", async || {
        one.health().registered && one.create_network(draft("red", "10.9.1.0/24")).await.is_ok()
    })
    .await;
    observer.until("the network is reported", |observer| observer.snapshot.networks.len() == 2).await;
    assert_eq!(observer.hosts(), ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_on_both_sides() {
    let etcd = Etcd::with_tls().await;
    let files = etcd.certificates();
    let (client, key) = (Some(files.client.clone()), Some(files.client_key.clone()));
    let valid = etcd.options().with_tls(Some(files.authority.clone()), client.clone(), key.clone()).expect("valid");
    let one = connect(valid, host("one")).await;
    let mut observer = Observer::from(&one).await;
    one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    observer.until("the network is reported", |observer| observer.snapshot.networks.len() == 1).await;

    let wrong_authority = etcd.options().with_tls(Some(files.stranger.clone()), client.clone(), key.clone());
    let system_authorities = etcd.options().with_tls(None, client, key);
    let no_certificate = etcd.options().with_tls(Some(files.authority.clone()), None, None);
    for options in [wrong_authority, system_authorities] {
        let error = connect_error(options.expect("valid")).await;
        eprintln!("{error}");
        assert!(matches!(error, ClusterError::Tls { .. }), "{error:?}");
    }
    let error = connect_error(no_certificate.expect("valid")).await;
    eprintln!("{error}");
    let hinted = matches!(&error, ClusterError::Unreachable { message, .. } if message.contains("client certificate"));
    assert!(hinted || matches!(error, ClusterError::Tls { .. }), "{error:?}");
    let error = connect_error(etcd.options()).await;
    eprintln!("{error}");
    assert!(matches!(error, ClusterError::Unreachable { .. }), "{error:?}");
    let not_pem = etcd.options().with_tls(Some("/etc/hostname".into()), None, None).expect("valid");
    let error = connect_error(not_pem).await;
    assert!(matches!(error, ClusterError::File { .. }), "{error:?}");
}
