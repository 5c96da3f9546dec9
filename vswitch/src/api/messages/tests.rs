//! Tests the names and positions of the JSON fields that scripts read.

use vswitch_common::tables::PortCounters;
use vswitch_common::verdict::DropReason;

use super::*;

#[test]
fn an_attach_request_needs_the_namespace_only() {
    let request: AttachRequest = serde_json::from_str(r#"{"netns":"/run/netns/web"}"#).expect("a request");
    assert_eq!((request.netns, request.network), ("/run/netns/web".into(), None));
}

#[test]
fn counters_name_every_drop_reason() {
    let mut counters = PortCounters { rx_frames: 3, ..PortCounters::default() };
    counters.drops[DropReason::SourceSpoofed as usize] = 2;
    let view = Counters::from(&counters);
    assert_eq!((view.rx_frames, view.drops["source_spoofed"], view.drops.len()), (3, 2, DropReason::ALL.len()));
}

#[test]
fn details_are_one_flat_document() {
    let view = EndpointView {
        id: EndpointId::from_bytes([1; 32]),
        name: "web".to_owned(),
        network: "bridge".to_owned(),
        ifname: Some("eth0".to_owned()),
        mac: Some("02:00:00:00:00:01".to_owned()),
        ipv4: Some([10, 201, 0, 2].into()),
        ipv6: None,
        gateway: Some([10, 201, 0, 1].into()),
        gateway6: None,
        nameservers: vec![IpAddr::from([10, 201, 0, 1])],
        mtu: Some(1500),
        netns: "/run/netns/web".into(),
        published: Vec::new(),
        options: BTreeMap::new(),
        vlan: 0,
        trunk: Vec::new(),
        hostname: None,
        aliases: vec!["www".to_owned()],
        labels: BTreeMap::new(),
        owner: String::new(),
        key: None,
        container: None,
    };
    let details = EndpointDetails {
        networks: vec![view.clone()],
        endpoint: view,
        created: OffsetDateTime::UNIX_EPOCH,
        device: Some("vp1".to_owned()),
        hooks: None,
        counters: Some(Counters::from(&PortCounters::default())),
    };
    let json = serde_json::to_value(&details).expect("JSON");
    assert_eq!(json["ipv4"], "10.201.0.2");
    assert_eq!(json["ipv6"], serde_json::Value::Null);
    assert_eq!((&json["aliases"][0], &json["owner"]), (&"www".into(), &"".into()));
    assert_eq!(json["counters"]["rx_frames"], 0);
    assert_eq!(serde_json::from_value::<EndpointDetails>(json).expect("the same"), details);
}
