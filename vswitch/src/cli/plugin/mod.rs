//! Plugins that container engines execute: CNI's and netavark's. They translate the engine's JSON
//! into requests to the daemon, and its answers back.

pub mod cni;
pub mod netavark;
mod ports;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::json;

use super::output::print_text;
use crate::api::{Client, ClientError, Detached, query};
use crate::model::Instance;
use netavark::NetavarkCommand;

/// The time for which a plugin waits for a daemon that starts.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// The plugins.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Serve as CNI plugin, with the command in CNI_COMMAND
    #[command(after_help = "Example:\n  vswitch plugin cni < network.conf")]
    Cni,
    /// Serve as netavark plugin
    #[command(after_help = "Example:\n  vswitch plugin netavark setup /run/netns/c < network.json")]
    Netavark {
        #[command(subcommand)]
        command: NetavarkCommand,
    },
}

/// Runs a plugin: prints its answer, which is JSON also if it failed.
pub fn main(command: PluginCommand, instance: &Instance) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(async {
            match command {
                PluginCommand::Cni => cni::run(instance).await,
                PluginCommand::Netavark { command } => netavark::run(command, instance).await,
            }
        }),
        Err(error) => {
            let message = format!("cannot start the runtime: {error}");
            Err(json!({ "error": message, "code": 999, "msg": message }))
        }
    };
    let (answer, exit) = match answer {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(answer) => (Some(answer), ExitCode::FAILURE),
    };
    match answer.map_or(Ok(()), |answer| print_text(&format!("{answer}\n"))) {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Connects to the daemon, and waits for one that starts.
///
/// # Errors
/// [`ClientError::NotRunning`] after five seconds, or another error at once.
async fn connect(instance: &Instance) -> Result<Client, ClientError> {
    let start = Instant::now();
    loop {
        match Client::connect(instance).await {
            Err(ClientError::NotRunning { .. }) if start.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            connected => return connected,
        }
    }
}

/// Returns the message of an error for the user of an engine.
fn message(error: &ClientError) -> String {
    match error {
        ClientError::NotRunning { command, .. } => {
            format!("the vswitch daemon is not running: systemctl start vswitch (or `{command} up`)")
        }
        error => error.to_string(),
    }
}

/// Detaches the endpoint with this key. A missing one is no error.
async fn detach(client: &mut Client, owner: &str, key: &str) -> Result<Detached, ClientError> {
    client.delete(&format!("/endpoints{}", query(&[("owner", Some(owner)), ("key", Some(key))]))).await
}
