//! `engine install`, `engine remove` and `engine ls`: what they write, and what they leave alone.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::Host;

/// Returns all files and folders below a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

#[test]
fn what_an_engine_needs_is_written_and_taken_away_again() {
    let host = Host::up(&[]);
    let root = tempfile::tempdir().expect("a folder");
    for folder in ["usr/bin", "usr/lib/cni", "etc"] {
        fs::create_dir_all(root.path().join(folder)).expect("made");
    }
    fs::write(root.path().join("usr/bin/dockerd"), "").expect("written");
    let before = below(root.path());
    let directory = root.path().to_str().expect("text");
    let engine = |words: &[&str]| host.ok(&[&["engine"], words, &["--root", directory]].concat());
    for (name, file, text) in [
        (
            "docker",
            "etc/docker/plugins/vswitch.spec",
            format!("unix://{}/docker.sock\n", host.run_directory().display()),
        ),
        (
            "podman",
            "usr/local/lib/netavark/vswitch",
            format!("--instance {} plugin netavark \"$@\"\n", host.instance()),
        ),
        ("cni", "usr/lib/cni/vswitch", format!("--instance {} plugin cni\n", host.instance())),
    ] {
        assert!(engine(&["install", name]).contains(&format!("wrote {directory}/{file}")));
        let written = fs::read_to_string(root.path().join(file)).expect("it was written");
        assert!(written.ends_with(&text), "{written}");
        assert!(engine(&["install", name]).contains(&format!("unchanged {directory}/{file}")), "{name}");
    }
    let listed: Vec<Value> = host.json(&["engine", "ls", "--root", directory]);
    let docker = listed.iter().find(|row| row["engine"] == "docker").expect("listed");
    assert_eq!(
        (&docker["programs"][0], &docker["installed"], &docker["works"]),
        (&"dockerd".into(), &true.into(), &true.into())
    );
    // The sample configuration is the operator's to change.
    let sample = root.path().join("etc/cni/net.d/99-vswitch.conflist");
    fs::write(&sample, "{}").expect("written");
    engine(&["remove", "docker"]);
    engine(&["remove", "podman"]);
    assert!(engine(&["remove", "cni"]).contains("it was changed"));
    fs::remove_dir_all(root.path().join("etc/cni")).expect("removed");
    fs::remove_dir_all(root.path().join("var")).expect("removed");
    assert_eq!(below(root.path()), before);
    let listed: Vec<Value> = host.json(&["engine", "ls", "--root", directory]);
    assert!(listed.iter().all(|row| row["installed"] == false), "{listed:#?}");
}

#[test]
fn a_file_that_vswitch_did_not_write_stays() {
    let host = Host::up(&[]);
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("etc/docker/plugins/vswitch.spec");
    fs::create_dir_all(file.parent().expect("a folder")).expect("made");
    fs::write(&file, "unix:///elsewhere\n").expect("written");
    let directory = root.path().to_str().expect("text");
    let before = below(root.path());
    let message = host.fails(1, &["engine", "install", "docker", "--root", directory]);
    assert!(message.contains("vswitch did not write it"), "{message}");
    host.ok(&["engine", "remove", "docker", "--root", directory]);
    assert_eq!(below(root.path()), before);
    // Neither does a link, nor a file with the same text go away with the others.
    fs::remove_file(&file).expect("removed");
    std::os::unix::fs::symlink("/nowhere", &file).expect("linked");
    host.fails(1, &["engine", "install", "docker", "--root", directory]);
    assert!(file.is_symlink());
    fs::remove_file(&file).expect("removed");
    fs::write(&file, format!("unix://{}/docker.sock\n", host.run_directory().display())).expect("written");
    assert!(host.ok(&["engine", "install", "docker", "--root", directory]).contains("unchanged"));
    host.ok(&["engine", "remove", "docker", "--root", directory]);
    assert!(file.is_file());
    // All or none: the second file cannot be written.
    fs::create_dir_all(root.path().join("etc/cni")).expect("made");
    fs::write(root.path().join("etc/cni/net.d"), "").expect("written");
    let before = below(root.path());
    host.fails(1, &["engine", "install", "cni", "--root", directory]);
    assert_eq!(below(root.path()), before);
    let message = host.fails(1, &["engine", "ls", "--root", "/nowhere"]);
    assert!(message.contains("/nowhere is no directory"), "{message}");
}

#[test]
fn endpoints_are_filtered_in_dockers_words() {
    let host = Host::up(&[]);
    let [one, two] = ["one", "two"].map(crate::harness::Netns::new);
    host.attach(&one, &["--name", "one", "--label", "tier=front"]);
    host.attach(&two, &["--name", "two"]);
    for (filter, names) in [
        ("name=on", "one\n"),
        ("label=tier", "one\n"),
        ("label=tier=back", ""),
        ("network=bridge", "one\ntwo\n"),
        ("owner=", "one\ntwo\n"),
        ("owner=docker", ""),
    ] {
        assert_eq!(host.ok(&["ps", "-q", "--filter", filter]), names, "{filter}");
    }
    assert!(host.fails(1, &["ps", "--filter", "colour=red"]).contains("invalid filter"));
}
