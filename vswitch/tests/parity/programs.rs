//! Programs are loaded when they are needed, and kept by the next daemon if they are the same.

use std::collections::BTreeMap;
use std::fs;

use aya::programs::{ProgramInfo, SchedClassifier, loaded_links};
use vswitch::datapath::{Datapath, Mode, Options, PortRules, PortSpec, Xdp};
use vswitch_common::Mac;
use vswitch_common::tables::{MARK_PUBLISHED, NetworkNumber, PortKind};

use crate::shared::{Sandbox, veth};

fn add_container(datapath: &Datapath, device: &str) -> u32 {
    let ifindex = veth(device);
    let spec = PortSpec {
        ifindex,
        egress_ifindex: ifindex,
        device: device.to_owned(),
        network: NetworkNumber(1),
        kind: PortKind::Container,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        xdp: Xdp::Off,
        xdp_egress: false,
        addresses: Vec::new(),
        mtu: 0,
        rules: PortRules::default(),
    };
    datapath.add_port(&spec).expect("add a port");
    ifindex
}

/// The ids of the programs that are pinned, by generation and name.
fn pinned(sandbox: &Sandbox) -> BTreeMap<String, u32> {
    let generations = fs::read_dir(sandbox.bpffs.join("programs")).expect("read it").flatten();
    let pins = generations.flat_map(|directory| fs::read_dir(directory.path()).expect("read it").flatten());
    pins.map(|pin| {
        let info = ProgramInfo::from_pin(pin.path()).expect("a pinned program");
        (pin.path().strip_prefix(&sandbox.bpffs).expect("it is below").display().to_string(), info.id())
    })
    .collect()
}

fn names(pinned: &BTreeMap<String, u32>) -> Vec<&str> {
    pinned.keys().filter_map(|path| path.rsplit('/').next()).collect()
}

#[test]
fn this_kernel_takes_all_programs() {
    let sandbox = Sandbox::new();
    let datapath = sandbox.datapath();
    assert!(pinned(&sandbox).is_empty(), "nothing needs a program yet");
    datapath.load_all().expect("load all programs");
    assert_eq!(pinned(&sandbox).len(), 25, "{:?}", pinned(&sandbox));
}

#[test]
fn a_port_loads_its_own_programs_alone_and_the_next_daemon_keeps_them() {
    let sandbox = Sandbox::new();
    let datapath = sandbox.datapath();
    add_container(&datapath, "p1");
    let first = pinned(&sandbox);
    let expected = ["carry", "from_container", "group_from_container", "guarded_group_from_container"];
    assert_eq!(names(&first), expected);
    drop(datapath);

    let datapath = sandbox.datapath();
    assert!(datapath.taken_over());
    assert_eq!(pinned(&sandbox), first, "verified again");
    add_container(&datapath, "p2");
    assert_eq!(pinned(&sandbox), first, "a second port of the kind needs no more");
}

#[test]
fn a_program_that_cannot_be_replaced_stays_on_its_device() {
    let sandbox = Sandbox::new();
    let datapath = sandbox.datapath();
    let container = add_container(&datapath, "r1");
    let links = sandbox.bpffs.join("links");
    let pin = links.join(format!("{container}-from_container"));
    if !pin.exists() {
        println!("this kernel has no tcx: there are no links to replace");
        return;
    }
    // A link whose program the kernel does not replace by a classifier stands in for one that it refuses
    // to update, for example for want of memory.
    let uplink = veth("r2");
    let spec = PortSpec {
        ifindex: uplink,
        egress_ifindex: uplink,
        device: "r2".to_owned(),
        network: NetworkNumber(2),
        kind: PortKind::Uplink,
        mac: Mac([2, 0, 0, 0, 0, 2]),
        xdp: Xdp::Native,
        xdp_egress: false,
        addresses: Vec::new(),
        mtu: 0,
        rules: PortRules::default(),
    };
    datapath.add_port(&spec).expect("add an uplink");
    fs::rename(links.join(format!("{uplink}-from_uplink_xdp")), &pin).expect("exchange the link");
    let again = PortSpec {
        ifindex: container,
        egress_ifindex: container,
        device: "r1".to_owned(),
        kind: PortKind::Container,
        ..spec
    };
    let again = PortSpec { network: NetworkNumber(1), xdp: Xdp::Off, ..again };
    let error = datapath.add_port(&again).expect_err("the program cannot be replaced").to_string();
    assert!(error.contains("the earlier program stays") && error.lines().count() == 1, "{error}");
    assert!(
        datapath.ports().expect("the ports").iter().any(|(_, port)| port.ifindex == container),
        "it is a port still"
    );
    drop(datapath);
    let options = Options {
        directory: sandbox.bpffs.clone(),
        mode: Mode::Auto,
        fdb_size: 4096,
        published_mark: MARK_PUBLISHED,
        cluster: false,
    };
    let error = Datapath::open(options).expect_err("the program cannot be replaced").to_string();
    assert!(error.contains("the earlier program stays"), "{error}");
    assert!(pin.exists(), "the link is gone, and its device is without a program");
}

#[test]
fn programs_of_another_version_are_replaced_where_they_run() {
    let sandbox = Sandbox::new();
    let datapath = sandbox.datapath();
    let ifindex = add_container(&datapath, "q1");
    let program = |datapath: &Datapath| {
        let pin = datapath.program_pin(PortKind::Container);
        SchedClassifier::from_pin(pin).expect("the program").info().expect("its information").id()
    };
    let before = program(&datapath);
    drop(datapath);

    // As another version's look: pins in a directory of another name, and those of 0.1 beside it.
    let programs = sandbox.bpffs.join("programs");
    let generation = fs::read_dir(&programs).expect("read it").flatten().next().expect("one generation").path();
    fs::rename(generation, programs.join("other")).expect("rename it");
    fs::rename(programs.join("other/carry"), programs.join("carry")).expect("move it");

    let datapath = sandbox.datapath();
    assert!(datapath.taken_over());
    let after = program(&datapath);
    assert_ne!(after, before);
    assert!(
        !programs.join("other").exists() && !programs.join("carry").exists(),
        "the old ones are not pinned any more"
    );
    if sandbox.bpffs.join(format!("links/{ifindex}-from_container")).exists() {
        // A kernel with tcx: the link that is pinned has the new program now.
        let of_new = loaded_links().filter_map(Result::ok).filter(|link| link.program_id() == after).count();
        assert_eq!(of_new, 1, "the link has the new program");
    }
}
