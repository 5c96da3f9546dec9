//! `status` and `stats`.

use super::failure::Failure;
use super::output::{Format, Output, list, or_dash, print_text, properties};
use crate::api::{Client, ClusterView, Counters, InterfaceView, PortView, Status, UplinkView, query};

pub async fn status(client: &mut Client, output: Output) -> Result<(), Failure> {
    let status: Status = client.get("/status").await?;
    if output.quiet {
        return print_text(&format!("{}\n", status.instance));
    }
    output.print(&status, text)
}

fn text(status: &Status) -> String {
    let hooks = &status.hooks;
    let forwarding = status.forwarding.iter().map(|setting| match &setting.before {
        Some(before) => format!("{}={} (was {before})", setting.name, setting.value),
        None => format!("{}={}", setting.name, setting.value),
    });
    let forwarding: Vec<_> = forwarding.collect();
    let text = properties([
        ("version", status.version.clone()),
        ("instance", status.instance.clone()),
        ("pid", status.pid.to_string()),
        ("kernel", status.kernel.clone()),
        ("datapath", status.datapath.clone()),
        ("hooks", format!("{} on endpoints, {} on the host, {} on uplinks", hooks.container, hooks.host, hooks.uplink)),
        ("networks", status.networks.to_string()),
        ("endpoints", status.endpoints.to_string()),
        ("stations", stations(status)),
        ("uptime", uptime(status.uptime_seconds)),
        ("nft table", or_dash(status.firewall_table.as_ref())),
        ("forwarding", list(&forwarding)),
    ]);
    let cluster: String = status.cluster.iter().map(cluster).collect();
    let interfaces: String = status.interfaces.iter().map(interface).collect();
    text + &cluster + &interfaces + &status.notes.iter().map(|note| format!("note: {note}\n")).collect::<String>()
}

/// Formats the line of an uplink or parent interface.
fn interface(view: &InterfaceView) -> String {
    let UplinkView { interface, present, hooks } = &view.interface;
    let state = if *present {
        hooks.clone().unwrap_or_default()
    } else {
        "not present (added to the networks when it appears)".to_owned()
    };
    format!("interface   {interface} of {}: {state}\n", view.networks.join(", "))
}

/// Formats the line of the cluster, followed by a note for each problem.
fn cluster(view: &ClusterView) -> String {
    let ClusterView { address, etcd, members, hosts, endpoints, .. } = view;
    let state = match (view.connected, view.registered) {
        (true, true) => "registered",
        (true, false) => "registering",
        (false, _) => "etcd does not answer",
    };
    let members = if *members == 1 { "1 member".to_owned() } else { format!("{members} members") };
    let mut text = format!(
        "cluster     {state}, as {address}: {hosts} hosts, {endpoints} endpoints on other hosts; etcd at {etcd} ({members})\n"
    );
    if let (Some(since), Some(error)) = (view.away_since, &view.why) {
        text += &format!("note: etcd has not answered since {since}: {error} (existing traffic goes on)\n");
    }
    if view.pending > 0 {
        text += &format!("note: {} addresses and names are released when etcd answers\n", view.pending);
    }
    text + &view.conflicts.iter().map(|conflict| format!("note: {conflict}\n")).collect::<String>()
}

fn stations(status: &Status) -> String {
    match status.held_stations {
        0 => status.fdb_entries.to_string(),
        held => format!("{} ({held} held because they moved too often)", status.fdb_entries),
    }
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

pub async fn stats(client: &mut Client, target: Option<&str>, sum: bool, output: Output) -> Result<(), Failure> {
    let query = query(&[("of", target), ("sum", sum.then_some("true"))]);
    let mut ports: Vec<PortView> = client.get(&format!("/stats{query}")).await?;
    if target.is_some() && !sum && matches!(output.format, Format::Table) && !output.quiet {
        ports.extend(sum_row(&ports));
    }
    let header = ["PORT", "KIND", "NETWORK", "RX FRAMES", "RX BYTES", "TX FRAMES", "TX BYTES", "DROPS"];
    output.rows(
        &ports,
        |port| port.port.clone(),
        header,
        |port| {
            let counters = &port.counters;
            [
                port.port.clone(),
                port.kind.clone(),
                port.network.clone(),
                counters.rx_frames.to_string(),
                counters.rx_bytes.to_string(),
                counters.tx_frames.to_string(),
                counters.tx_bytes.to_string(),
                format_drops(counters),
            ]
        },
    )
}

/// Sums the ports of one network for the last row. Returns `None` for a single port or ports of
/// several networks.
fn sum_row(ports: &[PortView]) -> Option<PortView> {
    let network = &ports.first()?.network;
    if ports.len() < 2 || ports.iter().any(|port| port.network != *network) {
        return None;
    }
    let mut counters = Counters::default();
    for port in ports {
        counters.add(&port.counters);
    }
    Some(PortView { port: network.clone(), kind: "network".to_owned(), network: network.clone(), counters })
}

/// Formats the drop counters with their reasons, without those that are zero.
pub fn format_drops(counters: &Counters) -> String {
    let drops = counters.drops.iter().filter(|(_, count)| **count > 0);
    let mut drops: Vec<String> = drops.map(|(reason, count)| format!("{reason} {count}")).collect();
    if counters.tx_failed > 0 {
        drops.push(format!("tx_failed {}", counters.tx_failed));
    }
    if drops.is_empty() { "-".to_owned() } else { drops.join(", ") }
}

#[cfg(test)]
mod tests {
    use vswitch_common::tables::PortCounters;
    use vswitch_common::verdict::DropReason;

    use super::*;

    #[test]
    fn drop_reasons_with_a_count_of_zero_are_omitted() {
        let mut counters = PortCounters::default();
        assert_eq!(format_drops(&Counters::from(&counters)), "-");
        counters.drops[DropReason::LinkLocal as usize] = 16;
        counters.drops[DropReason::SamePort as usize] = 3;
        assert_eq!(format_drops(&Counters::from(&counters)), "link_local 16, same_port 3");
    }

    #[test]
    fn ports_of_one_network_are_summed() {
        let port = |port: &str, network: &str, rx_frames| PortView {
            port: port.to_owned(),
            kind: "endpoint".to_owned(),
            network: network.to_owned(),
            counters: Counters::from(&PortCounters { rx_frames, ..PortCounters::default() }),
        };
        let sum = sum_row(&[port("a", "lan", 3), port("b", "lan", 4)]).expect("a sum");
        assert_eq!((sum.port.as_str(), sum.kind.as_str(), sum.counters.rx_frames), ("lan", "network", 7));
        assert_eq!(sum.counters.drops.len(), DropReason::ALL.len());
        assert_eq!(sum_row(&[port("a", "lan", 3)]), None);
        assert_eq!(sum_row(&[port("a", "lan", 3), port("a", "wan", 4)]), None);
    }

    #[test]
    fn uptime_has_two_units() {
        let texts = [5, 65, 3600, 90_000].map(uptime);
        assert_eq!(texts, ["5 s", "1 min 5 s", "1 h 0 min", "1 d 1 h"]);
    }
}
