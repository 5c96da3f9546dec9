//! Users and certificates.

use std::fs;
use std::path::PathBuf;

use vswitch::cluster::{Cluster, ClusterError, Options};

use crate::harness::{Etcd, Seen, connect, draft, eventually, host};

fn as_user(etcd: &Etcd, password: &str) -> Options {
    let file = etcd.directory().join(format!("password-{password}"));
    fs::write(&file, format!("{password}\n")).expect("written");
    etcd.options().with_user("vswitch".to_owned(), file)
}

async fn refused(options: Options) -> ClusterError {
    Cluster::connect(options, host("one")).await.expect_err("refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn users_need_the_right_password_and_a_role() {
    let mut etcd = Etcd::start().await;
    etcd.need_users().await;
    for options in
        [etcd.options(), as_user(&etcd, "wrong"), as_user(&etcd, "secret").with_prefix("/other").expect("valid")]
    {
        let error = refused(options).await;
        assert!(matches!(error, ClusterError::Auth { .. }), "{error:?}");
        eprintln!("{error}");
    }
    let missing = etcd.options().with_user("vswitch".to_owned(), PathBuf::from("/nonexistent"));
    assert!(matches!(refused(missing).await, ClusterError::File { .. }));

    let one = connect(as_user(&etcd, "secret"), host("one")).await;
    let mut seen = Seen::from(&one).await;
    one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    seen.until("the network is seen", |seen| seen.all.networks.len() == 1).await;
    // etcd forgets all tokens when it is started anew.
    etcd.stop_all();
    etcd.start_all().await;
    eventually("all is well", async || {
        one.health().registered && one.create_network(draft("red", "10.9.1.0/24")).await.is_ok()
    })
    .await;
    seen.until("the network is seen", |seen| seen.all.networks.len() == 2).await;
    assert_eq!(seen.hosts(), ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_on_both_sides() {
    let etcd = Etcd::with_tls().await;
    let files = etcd.certificates();
    let (client, key) = (Some(files.client.clone()), Some(files.client_key.clone()));
    let valid = etcd.options().with_tls(Some(files.authority.clone()), client.clone(), key.clone()).expect("valid");
    let one = connect(valid, host("one")).await;
    let mut seen = Seen::from(&one).await;
    one.create_network(draft("blue", "10.9.0.0/24")).await.expect("created");
    seen.until("the network is seen", |seen| seen.all.networks.len() == 1).await;

    let wrong_authority = etcd.options().with_tls(Some(files.stranger.clone()), client.clone(), key.clone());
    let systems_authorities = etcd.options().with_tls(None, client, key);
    let no_certificate = etcd.options().with_tls(Some(files.authority.clone()), None, None);
    for options in [wrong_authority, systems_authorities] {
        let error = refused(options.expect("valid")).await;
        eprintln!("{error}");
        assert!(matches!(error, ClusterError::Tls { .. }), "{error:?}");
    }
    let error = refused(no_certificate.expect("valid")).await;
    eprintln!("{error}");
    let hinted = matches!(&error, ClusterError::Unreachable { message, .. } if message.contains("client certificate"));
    assert!(hinted || matches!(error, ClusterError::Tls { .. }), "{error:?}");
    let error = refused(etcd.options()).await;
    eprintln!("{error}");
    assert!(matches!(error, ClusterError::Unreachable { .. }), "{error:?}");
    let no_pem = etcd.options().with_tls(Some("/etc/hostname".into()), None, None).expect("valid");
    let error = refused(no_pem).await;
    assert!(matches!(error, ClusterError::File { .. }), "{error:?}");
}
