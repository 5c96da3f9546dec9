//! `peer`: the peers of overlay networks.

use super::arguments::PeerCommand;
use super::failure::Failure;
use super::output::{Output, or_dash};
use crate::api::{Client, PeerRequest, PeerView, path};

pub async fn run(client: &mut Client, command: PeerCommand, output: Output) -> Result<(), Failure> {
    match command {
        PeerCommand::Add { address, public_key } => {
            let peer: PeerView = client.post("/peers", &PeerRequest { address, public_key }).await?;
            output.print(&peer, |peer| format!("{}\n", peer.address))
        }
        PeerCommand::Key => {
            let key: String = client.post("/key", &()).await?;
            output.print(&key, |key| format!("{key}\n"))
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
    let header = [
        "PEER",
        "HOST",
        "STATE",
        "INTERFACE",
        "LAST SEEN",
        "NETWORKS",
        "KEY",
        "HANDSHAKE",
        "RX BYTES",
        "TX BYTES",
        "DROPS",
    ];
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
                ago(peer.last_seen_seconds),
                peer.networks.to_string(),
                if peer.public_key.is_some() { "yes".to_owned() } else { "-".to_owned() },
                ago(peer.last_handshake_seconds),
                peer.rx_bytes.to_string(),
                peer.tx_bytes.to_string(),
                peer.drops.to_string(),
            ]
        },
    )
}

fn ago(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds} s ago"))
}
