//! `peer`: the other hosts of overlay networks.

use super::arguments::PeerCommand;
use super::failure::Failure;
use super::output::{Output, or_dash};
use crate::api::{Client, PeerRequest, PeerView, path};

pub async fn run(client: &mut Client, command: PeerCommand, output: Output) -> Result<(), Failure> {
    match command {
        PeerCommand::Add { address } => {
            let peer: PeerView = client.post("/peers", &PeerRequest { address }).await?;
            output.print(&peer, |peer| format!("{}\n", peer.address))
        }
        PeerCommand::Ls => ls(client, output).await,
        PeerCommand::Rm { address } => {
            let removed: String = client.delete(&path(&["peers", &address])).await?;
            output.print(&removed, |removed| format!("{removed}\n"))
        }
    }
}

async fn ls(client: &mut Client, output: Output) -> Result<(), Failure> {
    let peers: Vec<PeerView> = client.get("/peers").await?;
    let header = ["PEER", "HOST", "STATE", "INTERFACE", "LAST SEEN", "NETWORKS", "RX BYTES", "TX BYTES", "DROPS"];
    output.rows(
        &peers,
        |peer| peer.address.to_string(),
        header,
        |peer| {
            [
                peer.address.to_string(),
                or_dash(peer.host.as_ref()),
                peer.state.name().to_owned(),
                or_dash(peer.interface.as_ref()),
                peer.last_seen_seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds} s ago")),
                peer.networks.to_string(),
                peer.rx_bytes.to_string(),
                peer.tx_bytes.to_string(),
                peer.drops.to_string(),
            ]
        },
    )
}
