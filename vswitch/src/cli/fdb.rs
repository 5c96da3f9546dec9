//! `fdb show`, `add`, `del`, `flush`, `watch`.

use time::format_description::well_known::Rfc3339;

use super::arguments::{FdbAdd, FdbKey, FdbSelection, FdbShow, FdbWatch};
use super::failure::Failure;
use super::output::{Format, Output, or_dash, print_unless_closed};
use crate::api::{Client, FdbChange, FdbFlush, FdbFlushed, FdbKeyRequest, FdbStatic, StationView, query};
use crate::model::{FdbChangeKind, StationKind};

pub async fn show(client: &mut Client, arguments: &FdbShow, output: Output) -> Result<(), Failure> {
    let kinds = [("dynamic", arguments.dynamic), ("sticky", arguments.sticky), ("static", arguments.fixed)];
    let kind = kinds.into_iter().find(|(_, selected)| *selected).map(|(kind, _)| kind);
    let FdbSelection { network, port, vlan } = &arguments.selection;
    let query =
        query(&[("network", network.as_deref()), ("port", port.as_deref()), ("kind", kind), ("vlan", vlan.as_deref())]);
    let stations: Vec<StationView> = client.get(&format!("/fdb{query}")).await?;
    let header = ["MAC", "NETWORK", "VLAN", "PORT", "KIND", "AGE", "MOVES", "HELD"];
    output.rows(
        &stations,
        |station| station.mac.clone(),
        header,
        |station| {
            [
                station.mac.clone(),
                station.network.clone(),
                vlan_of(station),
                station.port.clone(),
                kind_of(station).to_owned(),
                or_dash(station.age),
                station.moves.to_string(),
                if station.held { "held" } else { "-" }.to_owned(),
            ]
        },
    )
}

pub async fn add(client: &mut Client, arguments: FdbAdd) -> Result<(), Failure> {
    let FdbKey { mac, network, vlan } = arguments.key;
    let key = FdbKeyRequest { mac, network, vlan };
    let request = FdbStatic { key, port: arguments.port, sticky: arguments.sticky };
    Ok(client.post::<()>("/fdb", &request).await?)
}

pub async fn del(client: &mut Client, key: &FdbKey) -> Result<(), Failure> {
    let query = query(&[("mac", Some(&key.mac)), ("network", Some(&key.network)), ("vlan", key.vlan.as_deref())]);
    // Removing an entry that does not exist succeeds.
    client.delete::<FdbFlushed>(&format!("/fdb{query}")).await?;
    Ok(())
}

pub async fn flush(client: &mut Client, selection: FdbSelection, output: Output) -> Result<(), Failure> {
    let FdbSelection { network, port, vlan } = selection;
    let flushed: FdbFlushed = client.post("/fdb/flush", &FdbFlush { network, port, vlan }).await?;
    output.print(&flushed, |flushed| if output.quiet { String::new() } else { format!("{}\n", flushed.removed) })
}

pub async fn watch(client: &mut Client, arguments: &FdbWatch, output: Output) -> Result<(), Failure> {
    let mut remaining = arguments.count;
    if remaining == Some(0) {
        return Ok(());
    }
    let query = query(&[("network", arguments.network.as_deref()), ("port", arguments.port.as_deref())]);
    let print_change = |change: FdbChange| {
        remaining = remaining.map(|remaining| remaining - 1);
        Ok::<_, Failure>(print_unless_closed(&format_change(&change, output))? && remaining != Some(0))
    };
    client.follow(&format!("/fdb/watch{query}"), print_change).await
}

/// Formats a change as one line: a JSON object, only the MAC address with `-q`, or text.
fn format_change(change: &FdbChange, output: Output) -> String {
    let FdbChange { station, .. } = change;
    match output.format {
        Format::Json => serde_json::to_string(change).unwrap_or_default() + "\n",
        Format::Table if output.quiet => format!("{}\n", station.mac),
        Format::Table => {
            let kind = match change.change {
                FdbChangeKind::Add => "add",
                FdbChangeKind::Del => "del",
                FdbChangeKind::Move => "move",
                FdbChangeKind::Held => "held",
            };
            let from = change.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
            format!(
                "{:<24} {kind:<4} {} {} vlan {} {} {}{from}\n",
                change.time.format(&Rfc3339).unwrap_or_default(),
                station.mac,
                station.network,
                vlan_of(station),
                station.port,
                kind_of(station),
            )
        }
    }
}

fn vlan_of(station: &StationView) -> String {
    format!("{}{}", if station.service_tag { "s" } else { "" }, station.vlan)
}

fn kind_of(station: &StationView) -> &'static str {
    match station.kind {
        StationKind::Static => "static",
        StationKind::Sticky => "sticky",
        StationKind::Dynamic => "dynamic",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_is_formatted_as_one_line() {
        let json = r#"{"time":"2026-11-24T09:45:00.25Z","change":"move","mac":"02:00:00:00:00:07","network":"lan","vlan":30,"service_tag":true,"port":"eth1","kind":"dynamic","age":0,"moves":1,"held":false,"from":"web"}"#;
        let change: FdbChange = serde_json::from_str(json).expect("a change");
        let shown = |format, quiet| format_change(&change, Output { format, quiet });
        assert_eq!(shown(Format::Json, false), format!("{json}\n"));
        assert_eq!(shown(Format::Table, true), "02:00:00:00:00:07\n");
        assert_eq!(
            shown(Format::Table, false),
            "2026-11-24T09:45:00.25Z  move 02:00:00:00:00:07 lan vlan s30 eth1 dynamic from web\n"
        );
    }
}
