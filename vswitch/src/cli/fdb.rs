//! `fdb show`, `add`, `del`, `flush`.

use super::arguments::{FdbAdd, FdbKey, FdbShow, FdbWhere};
use super::failure::Failure;
use super::output::{Output, or_dash};
use crate::api::{Client, FdbFlush, FdbFlushed, FdbKeyRequest, FdbStatic, StationKind, StationView, query};

pub async fn show(client: &mut Client, arguments: &FdbShow, output: Output) -> Result<(), Failure> {
    let kind = match (arguments.dynamic, arguments.fixed) {
        (true, _) => Some("dynamic"),
        (_, true) => Some("static"),
        _ => None,
    };
    let FdbWhere { network, port } = &arguments.place;
    let query = query(&[("network", network.as_deref()), ("port", port.as_deref()), ("kind", kind)]);
    let stations: Vec<StationView> = client.get(&format!("/fdb{query}")).await?;
    let header = ["MAC", "NETWORK", "VLAN", "PORT", "KIND", "AGE", "MOVES"];
    output.rows(
        &stations,
        |station| station.mac.clone(),
        header,
        |station| {
            [
                station.mac.clone(),
                station.network.clone(),
                format!("{}{}", if station.service_tag { "s" } else { "" }, station.vlan),
                station.port.clone(),
                match station.kind {
                    StationKind::Static => "static".to_owned(),
                    StationKind::Dynamic => "dynamic".to_owned(),
                },
                or_dash(station.age),
                station.moves.to_string(),
            ]
        },
    )
}

pub async fn add(client: &mut Client, arguments: FdbAdd) -> Result<(), Failure> {
    let FdbKey { mac, network, vlan } = arguments.key;
    let request = FdbStatic { key: FdbKeyRequest { mac, network, vlan }, port: arguments.port };
    Ok(client.post::<()>("/fdb", &request).await?)
}

pub async fn del(client: &mut Client, key: &FdbKey) -> Result<(), Failure> {
    let query = query(&[("mac", Some(&key.mac)), ("network", Some(&key.network)), ("vlan", key.vlan.as_deref())]);
    // That it was not there is as good as that it is gone.
    client.delete::<FdbFlushed>(&format!("/fdb{query}")).await?;
    Ok(())
}

pub async fn flush(client: &mut Client, place: FdbWhere, output: Output) -> Result<(), Failure> {
    let FdbWhere { network, port } = place;
    let flushed: FdbFlushed = client.post("/fdb/flush", &FdbFlush { network, port }).await?;
    output.print(&flushed, |flushed| if output.quiet { String::new() } else { format!("{}\n", flushed.removed) })
}
