//! Answers: the results of the switch translated into the API's messages.

use std::net::IpAddr;

use vswitch_common::tables::VlanKey;

use crate::api::{
    AllVlans, ClusterView, Counters, ElsewhereView, EndpointDetails, EndpointView, ErrorBody, FdbChange, FrameMessage,
    FrameView, HooksView, InterfaceView, KeptNetwork, MulticastGroupView, NetworkDetails, NetworkView, PeerView,
    PortHealth, PortView, Pruned, StationView, Status, SubnetView, TraceFrame, TraceProgram, TraceStep, TraceVerdict,
    TraceView, TrunkVlan, UplinkView, VerdictView,
};
use crate::datapath::Mode;
use crate::model::{TrunkVlans, Vni};
use crate::switch::{self, SwitchError};

impl From<&SwitchError> for ErrorBody {
    fn from(error: &SwitchError) -> Self {
        Self::new(error.code(), &error.to_string())
    }
}

/// Returns the name of a mode, as `up --datapath` takes it.
pub(super) const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Tc => "tc",
        Mode::Xdp => "xdp",
    }
}

/// Returns the VLAN id of a key, and whether it is that of a service tag.
const fn vlan_id(vlan: VlanKey) -> (u16, bool) {
    (vlan.0 & !VlanKey::SERVICE, vlan.0 & VlanKey::SERVICE != 0)
}

impl From<&switch::EndpointInfo> for EndpointView {
    fn from(switch::EndpointInfo { endpoint, network }: &switch::EndpointInfo) -> Self {
        let address = endpoint.address.as_ref();
        let gateway = |ipv6| switch::gateway(network, endpoint, address?, ipv6);
        Self {
            id: endpoint.id,
            name: endpoint.name.to_string(),
            network: network.name.to_string(),
            ifname: address.map(|address| address.ifname.to_string()),
            mac: address.map(|address| address.mac.to_string()),
            ipv4: address.and_then(|address| address.ipv4),
            ipv6: address.and_then(|address| address.ipv6),
            gateway: gateway(false).and_then(|gateway| match gateway {
                IpAddr::V4(gateway) => Some(gateway),
                IpAddr::V6(_) => None,
            }),
            gateway6: gateway(true).and_then(|gateway| match gateway {
                IpAddr::V4(_) => None,
                IpAddr::V6(gateway) => Some(gateway),
            }),
            nameservers: switch::nameservers(network, endpoint),
            mtu: address.map(|address| address.mtu),
            netns: endpoint.netns.path.clone(),
            published: endpoint.published.clone(),
            options: endpoint.options.clone(),
            vlan: endpoint.port.vlan.map_or(0, |vlan| vlan.get()),
            trunk: match &endpoint.port.trunk {
                TrunkVlans::None => Vec::new(),
                TrunkVlans::Listed(vlans) => vlans.iter().map(|vlan| TrunkVlan::Id(*vlan)).collect(),
                TrunkVlans::All => vec![TrunkVlan::All(AllVlans::All)],
            },
            hostname: endpoint.hostname.clone(),
            aliases: endpoint.aliases.clone(),
            labels: endpoint.labels.clone(),
            owner: endpoint.owner().to_owned(),
            key: endpoint.engine.as_ref().map(|engine| engine.id.key().to_owned()),
            container: endpoint.engine.as_ref().map(|engine| engine.container.clone()),
        }
    }
}

/// Returns the view of an endpoint, or `None` if the details hold no network, which the switch
/// never returns.
pub(super) fn endpoint_details(details: switch::EndpointDetails) -> Option<EndpointDetails> {
    let networks: Vec<EndpointView> = details.networks.iter().map(EndpointView::from).collect();
    let record = details.networks.into_iter().next()?.endpoint;
    Some(EndpointDetails {
        endpoint: networks.first()?.clone(),
        networks,
        created: record.created,
        device: details.device,
        hooks: details.hooks,
        counters: details.counters.as_ref().map(Counters::from),
    })
}

impl From<switch::NetworkInfo> for NetworkView {
    fn from(switch::NetworkInfo { network, endpoints }: switch::NetworkInfo) -> Self {
        let driver = network.driver();
        let subnets = network.subnets.into_iter().map(|config| SubnetView {
            subnet: config.subnet,
            gateway: config.gateway,
            ip_range: config.ip_range,
            aux_addresses: config.auxiliary,
        });
        Self {
            id: network.id,
            name: network.name.to_string(),
            driver,
            subnets: subnets.collect(),
            internal: network.internal,
            options: network.options,
            labels: network.labels,
            endpoints,
            created: network.created,
            owner: network.engine.as_ref().map(|engine| engine.owner.clone()).unwrap_or_default(),
            external_id: network.engine.map(|engine| engine.external_id),
        }
    }
}

impl From<switch::NetworkDetails> for NetworkDetails {
    fn from(details: switch::NetworkDetails) -> Self {
        let record = &details.network.network;
        let interface = details.interface.map(UplinkView::from);
        let (uplink, parent) = if record.parent().is_some() { (None, interface) } else { (interface, None) };
        Self {
            vni: record.overlay().and_then(|overlay| overlay.vni).map(Vni::number),
            network: details.network.into(),
            mtu: details.mtu,
            host_device: details.host_device,
            uplink,
            parent,
            attached: details.attached,
            elsewhere: details.elsewhere.into_iter().map(ElsewhereView::from).collect(),
        }
    }
}

impl From<switch::InterfaceInfo> for UplinkView {
    fn from(switch::InterfaceInfo { interface, present, hooks }: switch::InterfaceInfo) -> Self {
        Self { interface, present, hooks }
    }
}

impl From<switch::RemoteEndpoint> for ElsewhereView {
    fn from(endpoint: switch::RemoteEndpoint) -> Self {
        Self {
            name: endpoint.name.to_string(),
            host: endpoint.host,
            address: endpoint.address,
            mac: endpoint.mac.to_string(),
            ipv4: endpoint.ipv4,
            ipv6: endpoint.ipv6,
        }
    }
}

impl From<switch::Pruned> for Pruned {
    fn from(switch::Pruned { deleted, kept }: switch::Pruned) -> Self {
        let kept = kept.iter().map(|(network, error)| KeptNetwork { network: network.clone(), error: error.into() });
        Self { deleted, kept: kept.collect() }
    }
}

impl From<switch::PeerInfo> for PeerView {
    fn from(peer: switch::PeerInfo) -> Self {
        Self {
            address: peer.address,
            host: peer.host,
            state: peer.state,
            interface: peer.interface,
            last_seen_seconds: peer.last_seen.map(|ago| ago.as_secs()),
            networks: peer.networks,
            public_key: peer.public_key.map(|key| key.to_string()),
            last_handshake_seconds: peer.last_handshake.map(|ago| ago.as_secs()),
            rx_bytes: peer.counters.rx_bytes,
            tx_bytes: peer.counters.tx_bytes,
            rx_frames: peer.counters.rx_frames,
            tx_frames: peer.counters.tx_frames,
            drops: peer.counters.drops.iter().sum(),
            added: peer.added,
        }
    }
}

impl From<switch::Status> for Status {
    fn from(status: switch::Status) -> Self {
        let interfaces = status.interfaces.into_iter();
        let interfaces =
            interfaces.map(|(interface, networks)| InterfaceView { interface: interface.into(), networks });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: status.instance,
            pid: std::process::id(),
            datapath: mode_name(status.mode).to_owned(),
            hooks: HooksView {
                container: status.hooks.container,
                host: status.hooks.host,
                uplink: status.hooks.uplink,
            },
            kernel: status.kernel,
            public_key: status.public_key.map(|key| key.to_string()),
            networks: status.networks,
            endpoints: status.endpoints,
            fdb_entries: status.fdb_entries,
            held_stations: status.held_stations,
            uptime_seconds: status.uptime.as_secs(),
            taken_over: status.taken_over,
            firewall_table: status.firewall_table,
            forwarding: status.forwarding,
            firewalls: status.firewalls,
            notes: status.notes,
            interfaces: interfaces.collect(),
            cluster: status.cluster.map(ClusterView::from),
        }
    }
}

impl From<switch::ClusterStatus> for ClusterView {
    fn from(switch::ClusterStatus { host, etcd, health, hosts, endpoints }: switch::ClusterStatus) -> Self {
        Self {
            host: host.id,
            name: host.name,
            address: host.address,
            etcd,
            connected: health.unreachable.is_none(),
            away_since: health.unreachable.as_ref().map(|outage| outage.since),
            why: health.unreachable.map(|outage| outage.reason),
            registered: health.registered,
            members: health.members,
            hosts,
            endpoints,
            revision: health.revision,
            pending: health.pending,
            conflicts: health.conflicts,
        }
    }
}

impl From<switch::PortStats> for PortView {
    fn from(switch::PortStats { port, kind, network, counters }: switch::PortStats) -> Self {
        Self { port, kind: kind.to_owned(), network, counters: Counters::from(&counters) }
    }
}

impl From<switch::PortHealth> for PortHealth {
    fn from(health: switch::PortHealth) -> Self {
        Self {
            port: health.port,
            kind: health.kind.to_owned(),
            network: health.network,
            device: health.device,
            netns: health.netns,
            hooks: health.hooks,
            mtu: health.mtu,
            tag_room: health.tag_room,
            offloads: health.offloads,
            needs: health.needs,
            unseen: health.unseen,
        }
    }
}

impl From<switch::Station> for StationView {
    fn from(station: switch::Station) -> Self {
        let (vlan, service_tag) = vlan_id(station.vlan);
        Self {
            mac: station.mac.to_string(),
            network: station.network,
            vlan,
            service_tag,
            port: station.port,
            kind: station.kind,
            age: station.age,
            moves: station.moves,
            held: station.held,
        }
    }
}

impl From<switch::StationChange> for FdbChange {
    fn from(switch::StationChange { time, change, station, from }: switch::StationChange) -> Self {
        Self { time, change, station: station.into(), from }
    }
}

impl From<switch::MulticastGroup> for MulticastGroupView {
    fn from(group: switch::MulticastGroup) -> Self {
        let (vlan, service_tag) = vlan_id(group.vlan);
        Self {
            network: group.network,
            group: group.group,
            vlan,
            service_tag,
            ports: group.ports,
            expires_in: group.expires_in.map(|left| left.as_secs()),
        }
    }
}

impl From<switch::FrameMessage> for FrameMessage {
    fn from(message: switch::FrameMessage) -> Self {
        match message {
            switch::FrameMessage::Frame(frame) => Self::Frame(frame.into()),
            switch::FrameMessage::Lost(frames) => Self::Lost { frames },
        }
    }
}

impl From<switch::Frame> for FrameView {
    fn from(frame: switch::Frame) -> Self {
        Self {
            time: frame.time,
            direction: frame.direction,
            network: frame.network,
            port: frame.port,
            kind: frame.kind.map(str::to_owned),
            from: frame.from,
            verdict: frame.verdict.map(VerdictView::from),
            length: frame.length,
            segment: frame.segment,
            bytes: frame.bytes,
        }
    }
}

impl From<switch::FrameVerdict> for VerdictView {
    fn from(verdict: switch::FrameVerdict) -> Self {
        match verdict {
            switch::FrameVerdict::Redirect(to) => Self::Redirect { to },
            switch::FrameVerdict::Host => Self::Host,
            switch::FrameVerdict::Flood(to) => Self::Flood { to: to.to_owned() },
            switch::FrameVerdict::Answer { protocol, target } => {
                Self::Answer { protocol: protocol.to_owned(), r#for: target }
            }
            switch::FrameVerdict::Pass => Self::Pass,
            switch::FrameVerdict::Drop(reason) => Self::Drop { reason: reason.name().to_owned() },
        }
    }
}

impl From<switch::Trace> for TraceView {
    fn from(trace: switch::Trace) -> Self {
        let steps = trace.steps.into_iter().map(|step| TraceStep { hook: step.hook.to_owned(), text: step.text });
        let (verdict, note) = match trace.program_verdict {
            Ok(verdict) => (Some(verdict.into()), None),
            Err(note) => (None, Some(note)),
        };
        Self {
            from: trace.from,
            network: trace.network,
            frame: TraceFrame { summary: trace.summary, bytes: trace.frame.len(), hex: hex(&trace.frame) },
            steps: steps.collect(),
            verdict: trace.verdict.into(),
            program: TraceProgram { name: trace.program, hook: trace.hook.to_owned(), verdict, note },
            agrees: trace.agrees,
        }
    }
}

impl From<switch::TraceVerdict> for TraceVerdict {
    fn from(verdict: switch::TraceVerdict) -> Self {
        Self {
            action: verdict.action.to_owned(),
            to: verdict.to,
            to_host: verdict.to_host,
            tag: verdict.tag.map(str::to_owned),
            reason: verdict.reason.map(|reason| reason.name().to_owned()),
            explanation: verdict.explanation,
            learns: verdict.learns,
            snoops: verdict.snoops,
            storm: verdict.storm.map(str::to_owned),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
