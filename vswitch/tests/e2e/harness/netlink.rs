//! Reads the state of a namespace over one netlink socket. This is faster than running `ip`, which
//! matters on emulated processors.

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage},
    tc::{TcAttribute, TcMessage},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::Netns;

/// Returns all devices with their names.
pub fn links(netns: &Netns) -> Vec<(String, LinkMessage)> {
    let answers = dump(netns, RouteNetlinkMessage::GetLink(LinkMessage::default()));
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    let name = |link: &LinkMessage| {
        link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
    };
    links.map(|link| (name(&link).expect("a device has a name"), link)).collect()
}

/// Returns all settings of a namespace, one per line: devices, queueing disciplines, addresses and
/// routes.
pub fn settings(netns: &Netns) -> Vec<String> {
    let mut lines: Vec<String> = links(netns).iter().map(|(name, link)| device(name, link)).collect();
    for answer in dump(netns, RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())) {
        if let RouteNetlinkMessage::NewQueueDiscipline(discipline) = answer {
            // Instances without tcx attach their programs to `clsact`.
            let kind = discipline.attributes.iter().find(|attribute| matches!(attribute, TcAttribute::Kind(_)));
            lines.push(format!("qdisc on {}: {kind:?}", discipline.header.index));
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = AddressMessage::default();
        request.header.family = family;
        for answer in dump(netns, RouteNetlinkMessage::GetAddress(request)) {
            if let RouteNetlinkMessage::NewAddress(address) = answer
                && address.header.scope != AddressScope::Link
            {
                let (header, attributes) = (address.header, address.attributes);
                let own = |attribute: &&AddressAttribute| match family {
                    AddressFamily::Inet => matches!(attribute, AddressAttribute::Local(_)),
                    _ => matches!(attribute, AddressAttribute::Address(_)),
                };
                let local = attributes.iter().find(own);
                lines.push(format!("address on {}: {local:?}/{}", header.index, header.prefix_len));
            }
        }
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        for answer in dump(netns, RouteNetlinkMessage::GetRoute(request)) {
            if let RouteNetlinkMessage::NewRoute(mut route) = answer
                // The kernel creates the IPv6 link-local routes at a time of its own.
                && (family == AddressFamily::Inet || is_routed(&route))
            {
                route.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
                lines.push(format!("route {:?} {:?}", route.header, route.attributes));
            }
        }
    }
    lines
}

/// Reports whether an IPv6 route is in the main table and is not a link-local one.
fn is_routed(route: &RouteMessage) -> bool {
    let link_local = route.attributes.iter().any(|attribute| {
        matches!(attribute, RouteAttribute::Destination(RouteAddress::Inet6(to)) if to.is_unicast_link_local())
    });
    route.header.table == RouteHeader::RT_TABLE_MAIN && !link_local
}

/// Describes the settings of a device, without its counters.
fn device(name: &str, link: &LinkMessage) -> String {
    use LinkAttribute::{Address, GroMaxSize, GsoMaxSize, IfAlias, Mtu, OperState, Promiscuity, TxQueueLen, Xdp};
    let set = link.attributes.iter().filter(|attribute| {
        matches!(
            attribute,
            Address(_)
                | GroMaxSize(_)
                | GsoMaxSize(_)
                | IfAlias(_)
                | Mtu(_)
                | OperState(_)
                | Promiscuity(_)
                | TxQueueLen(_)
                | Xdp(_)
        )
    });
    format!("device {} {name}: {:?} {:?}", link.header.index, link.header.flags, set.collect::<Vec<_>>())
}

/// Sends a dump request, and returns all answers.
fn dump(netns: &Netns, request: RouteNetlinkMessage) -> Vec<RouteNetlinkMessage> {
    let socket = netns.inside(|| Socket::new(NETLINK_ROUTE)).expect("a netlink socket");
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(request));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).expect("sending a request");

    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().expect("the kernel's answer");
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).expect("a netlink message");
            match message.payload {
                NetlinkPayload::Done(_) => return answers,
                NetlinkPayload::Error(error) => panic!("dumping: {error}"),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
            // Messages begin at multiples of four bytes (NLMSG_ALIGN).
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
