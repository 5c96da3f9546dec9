use proptest::prelude::*;

use super::*;

const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);

/// Returns an IGMP frame from 10.9.8.2 with correct checksums.
fn igmp_frame(tags: &[u8], message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let checksum = !(sum(0, &message) as u16);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0x46, 0xc0, 0, 0, 0, 0, 0x40, 0, 1, IGMP, 0, 0, 10, 9, 8, 2, 224, 0, 0, 22, 0x94, 4, 0, 0];
    let length = (packet.len() + message.len()) as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let checksum = !(sum(0, &packet) as u16);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&[1, 0, 0x5e, 0, 0, 22, 2, 0, 0, 0, 0, 2][..], tags, &[8, 0], &packet, &message].concat()
}

/// Returns an MLD frame with a correct checksum.
fn mld_frame(source: Ipv6Addr, hops: u8, message: &[u8]) -> Vec<u8> {
    let destination = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let checksum = !(sum(pseudo_header(source, destination, message.len()), &message) as u16);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let length = (8 + message.len()) as u16;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, hops]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    [&[0x33, 0x33, 0, 0, 0, 22, 2, 0, 0, 0, 0, 2, 0x86, 0xdd][..], &packet, &message].concat()
}

/// Returns an IGMPv3 or MLDv2 report. Each record is given by its type, group and number of
/// sources.
fn report(records: &[(u8, IpAddr, u8)]) -> Vec<u8> {
    let ipv6 = records[0].1.is_ipv6();
    let kind = if ipv6 { kind::MLD_V2_REPORT } else { kind::IGMP_V3_REPORT };
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, records.len() as u8];
    for (kind, group, sources) in records {
        // Each record has one word of auxiliary data, which the parser must skip.
        message.extend([*kind, 1, 0, *sources]);
        match group {
            IpAddr::V4(group) => message.extend(group.octets()),
            IpAddr::V6(group) => message.extend(group.octets()),
        }
        message.extend(std::iter::repeat_n(9, usize::from(*sources) * if ipv6 { 16 } else { 4 } + 4));
    }
    message
}

fn frame_of(message: &[u8], ipv6: bool) -> Vec<u8> {
    if ipv6 { mld_frame(SOURCE, 1, message) } else { igmp_frame(&[], message) }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn message_in(frame: &[u8]) -> Result<Message, ParseError> {
    parse(frame).map(|received| received.message)
}

#[test]
fn messages_of_old_versions_have_one_record() {
    let igmp = |kind, code| igmp_frame(&[], &[kind, code, 0, 0, 239, 1, 2, 3]);
    let single = |group: &str, change| Ok(Message::Report(vec![Record { group: address(group), change }]));
    assert_eq!(message_in(&igmp(0x12, 0)), single("239.1.2.3", Change::Join));
    assert_eq!(message_in(&igmp(0x16, 0)), single("239.1.2.3", Change::Join));
    assert_eq!(message_in(&igmp(0x17, 0)), single("239.1.2.3", Change::Leave));
    assert_eq!(parse(&igmp(0x16, 0)).map(|received| received.source), Ok(address("10.9.8.2")));

    let group: Ipv6Addr = "ff15::1234".parse().expect("an address");
    let mld = |kind| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &group.octets()].concat();
    assert_eq!(message_in(&mld_frame(SOURCE, 1, &mld(131))), single("ff15::1234", Change::Join));
    assert_eq!(message_in(&mld_frame(SOURCE, 1, &mld(132))), single("ff15::1234", Change::Leave));
}

#[test]
fn queries_of_all_versions_have_a_response_time() {
    let query = |message: &[u8], ipv6| match message_in(&frame_of(message, ipv6)) {
        Ok(Message::Query(question)) => question,
        other => panic!("{message:?}: {other:?}"),
    };
    let v1 = query(&[0x11, 0, 0, 0, 0, 0, 0, 0], false);
    assert_eq!((v1.group, v1.response.as_secs()), (None, 10));
    let v2 = query(&[0x11, 10, 0, 0, 239, 1, 2, 3], false);
    assert_eq!((v2.group, v2.response.as_secs()), (Some(address("239.1.2.3")), 1));
    // Floating point code 0xff: (16 + 15) << (7 + 3) tenths of a second.
    let v3 = query(&[0x11, 0xff, 0, 0, 239, 1, 2, 3, 8 | 2, 125, 0, 1, 10, 0, 0, 9], false);
    assert_eq!((v3.response.as_millis(), v3.suppress, v3.sources), ((31 << 10) * 100, true, true));
    let zeros = [0; 16];
    let v1 = query(&[&[130, 0, 0, 0, 0x27, 0x10, 0, 0][..], &zeros].concat(), true);
    assert_eq!((v1.group, v1.response.as_secs()), (None, 10));
    let v2 = query(&[&[130, 0, 0, 0, 0x80, 1, 0, 0][..], &zeros, &[2, 125, 0, 0]].concat(), true);
    assert_eq!((v2.group, v2.response.as_millis()), (None, 0x1001 << 3));
    // Invalid queries: with sources but no group, with a unicast group, and with the lengths that
    // the standards exclude.
    for (message, ipv6) in [
        (&[0x11, 0, 0, 0, 0, 0, 0, 0, 2, 125, 0, 1, 10, 0, 0, 9][..], false),
        (&[0x11, 0, 0, 0, 10, 0, 0, 1], false),
        (&[0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0], false),
        (&[&[130, 0, 0, 0, 0, 0, 0, 0][..], &zeros, &[2, 125]].concat(), true),
    ] {
        assert_eq!(message_in(&frame_of(message, ipv6)), Err(ParseError::Invalid), "{message:?}");
    }
}

#[test]
fn records_are_parsed_as_joins_and_leaves() {
    for group in ["239.1.2.3", "ff15::1234"].map(address) {
        let cases = [
            (1, 0, Some(Change::Leave)),
            (1, 2, Some(Change::Join)),
            (2, 0, Some(Change::Join)),
            (2, 3, Some(Change::Join)),
            (3, 0, Some(Change::Leave)),
            (3, 1, Some(Change::Join)),
            (4, 0, Some(Change::Join)),
            (5, 1, Some(Change::Join)),
            (5, 0, None),
            (6, 1, Some(Change::Fewer)),
            (7, 1, None),
        ];
        let message = report(&cases.map(|(kind, sources, _)| (kind, group, sources)));
        let expected = cases.iter().filter_map(|(.., change)| Some(Record { group, change: (*change)? }));
        assert_eq!(message_in(&frame_of(&message, group.is_ipv6())), Ok(Message::Report(expected.collect())));
    }
    let none = report(&[(2, address("10.0.0.1"), 0)]);
    assert_eq!(message_in(&frame_of(&none, false)), Ok(Message::Report(Vec::new())));
}

#[test]
fn vlan_tags_are_skipped() {
    let message = [0x16, 0, 0, 0, 239, 1, 2, 3];
    let expected = message_in(&igmp_frame(&[], &message));
    assert!(expected.is_ok());
    for tags in [&[0x81, 0, 0, 30][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 30]] {
        assert_eq!(message_in(&igmp_frame(tags, &message)), expected);
    }
}

#[test]
fn invalid_frames_are_ignored() {
    let good = igmp_frame(&[], &[0x16, 0, 0, 0, 239, 1, 2, 3]);
    let mut header = good.clone();
    header[26] ^= 1;
    assert_eq!(parse(&header), Err(ParseError::Checksum));
    let mut body = good.clone();
    body[45] ^= 1;
    assert_eq!(parse(&body), Err(ParseError::Checksum));
    // Ethernet padding is ignored.
    assert_eq!(parse(&[&good[..], &[0xaa; 14]].concat()), parse(&good));
    for length in 0..good.len() {
        assert!(parse(&good[..length]).is_err(), "{length} bytes");
    }

    let mld = [&[131, 0, 0, 0, 0, 0, 0, 0, 0xff, 0x15][..], &[7; 14]].concat();
    assert!(parse(&mld_frame(SOURCE, 1, &mld)).is_ok());
    assert!(parse(&mld_frame(Ipv6Addr::UNSPECIFIED, 1, &mld)).is_ok());
    let far = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
    for (source, hops) in [(SOURCE, 64), (far, 1)] {
        assert_eq!(parse(&mld_frame(source, hops, &mld)), Err(ParseError::Invalid));
    }
    let mut echo = mld.clone();
    echo[0] = 128;
    assert_eq!(parse(&mld_frame(SOURCE, 1, &echo)), Err(ParseError::OtherProtocol));
}

#[test]
fn a_report_with_a_count_beyond_its_length_is_ignored() {
    let mut message = report(&[(2, address("239.1.2.3"), 0)]);
    message[6..8].fill(0xff);
    assert_eq!(message_in(&frame_of(&message, false)), Err(ParseError::Truncated));
    let mut message = report(&[(2, address("ff15::1234"), 0)]);
    message[10..12].fill(0xff);
    assert_eq!(message_in(&frame_of(&message, true)), Err(ParseError::Truncated));
}

proptest! {
    #[test]
    fn arbitrary_frames_never_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn arbitrary_messages_never_cause_a_panic(
        ipv6 in any::<bool>(),
        kind in prop::sample::select(vec![0x11_u8, 0x12, 0x16, 0x17, 0x22, 130, 131, 132, 143]),
        rest in proptest::collection::vec(any::<u8>(), 3..200),
    ) {
        let _ = parse(&frame_of(&[&[kind][..], &rest].concat(), ipv6));
    }

    #[test]
    fn all_records_of_a_report_are_parsed(
        ipv6 in any::<bool>(),
        records in proptest::collection::vec((1_u8..7, any::<u16>(), 0_u8..6), 1..20),
    ) {
        let group = |number: u16| match ipv6 {
            false => IpAddr::from([239, 1, (number >> 8) as u8, number as u8]),
            true => IpAddr::from([0xff15, 0, 0, 0, 0, 0, 0, number]),
        };
        let records: Vec<_> = records.iter().map(|(kind, number, sources)| (*kind, group(*number), *sources)).collect();
        let expected = records.iter().filter_map(|(kind, group, sources)| {
            Some(Record { group: *group, change: record_change(*kind, *sources != 0)? })
        });
        prop_assert_eq!(message_in(&frame_of(&report(&records), ipv6)), Ok(Message::Report(expected.collect())));
    }
}
