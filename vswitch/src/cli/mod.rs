//! The command line: parses the arguments, sends the request to the daemon and prints the reply.

mod arguments;
mod doctor;
mod down;
mod endpoints;
mod engine;
mod failure;
mod fdb;
mod mdb;
mod networks;
mod observe;
mod output;
mod path;
mod peers;
mod plugin;
mod run;
mod status;
mod top;
mod trace;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::api::Client;
use crate::model::Instance;
use arguments::{Cli, Command, FdbCommand, MdbCommand, NetworkCommand};
use failure::Failure;
use output::Output;

/// Parses the command line, runs the command and returns its exit status.
pub fn main() -> ExitCode {
    let Cli { instance, format, quiet, command } = Cli::parse();
    let instance = Instance::new(instance);
    let output = Output { format, quiet };
    let outcome = match command {
        Command::Run(arguments) => run::run(arguments, &instance, output).map(ExitCode::from),
        Command::Plugin { command } => return plugin::main(command, &instance),
        command => run_command(command, &instance, output).map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            output.print_failure(&failure);
            ExitCode::from(failure.exit)
        }
    }
}

fn run_command(command: Command, instance: &Instance, output: Output) -> Result<(), Failure> {
    match command {
        Command::Up(arguments) => up::run(&arguments, instance, output),
        Command::Down(arguments) => down::run(&arguments, instance, output),
        Command::Doctor => doctor::run(instance, output),
        Command::Engine { command } => engine::run(command, instance, output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "vswitch", &mut script);
            output::print_text(&String::from_utf8_lossy(&script))
        }
        command => block_on(send_command(command, instance, output)),
    }
}

/// Runs `work`, which talks to the daemon, in a runtime on this thread. One thread is enough to
/// wait for a reply.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new("runtime", &format!("cannot start the runtime: {error}")))?.block_on(work)
}

async fn send_command(command: Command, instance: &Instance, output: Output) -> Result<(), Failure> {
    let mut client = Client::connect(instance).await?;
    match command {
        Command::Status => status::status(&mut client, output).await,
        Command::Stats { target, sum } => status::stats(&mut client, target.as_deref(), sum, output).await,
        Command::Top(arguments) => top::top(&mut client, &arguments, output).await,
        Command::Trace(arguments) => trace::trace(&mut client, arguments, output).await,
        Command::Monitor(arguments) => observe::monitor(&mut client, &arguments, output).await,
        Command::Capture(arguments) => observe::capture(&mut client, &arguments, output).await,
        Command::Attach(arguments) => endpoints::attach(&mut client, arguments, output).await,
        Command::Detach(arguments) => endpoints::detach(&mut client, arguments, output).await,
        Command::Ps { filter } => endpoints::ps(&mut client, &filter, output).await,
        Command::Inspect { endpoint } => endpoints::inspect(&mut client, &endpoint, output).await,
        Command::Peer { command } => peers::run(&mut client, command, output).await,
        Command::Network { command } => match command {
            NetworkCommand::Create(arguments) => networks::create(&mut client, arguments, output).await,
            NetworkCommand::Ls { filter } => networks::ls(&mut client, &filter, output).await,
            NetworkCommand::Inspect { networks } => networks::inspect(&mut client, &networks).await,
            NetworkCommand::Rm { networks } => networks::rm(&mut client, &networks, output).await,
            NetworkCommand::Prune { force } => networks::prune(&mut client, force, output).await,
            NetworkCommand::Connect(arguments) => networks::connect(&mut client, arguments, output).await,
            NetworkCommand::Disconnect { network, endpoint } => {
                networks::disconnect(&mut client, &network, endpoint, output).await
            }
        },
        Command::Fdb { command } => match command {
            FdbCommand::Show(arguments) => fdb::show(&mut client, &arguments, output).await,
            FdbCommand::Add(arguments) => fdb::add(&mut client, arguments).await,
            FdbCommand::Del(arguments) => fdb::del(&mut client, &arguments).await,
            FdbCommand::Flush(arguments) => fdb::flush(&mut client, arguments, output).await,
            FdbCommand::Watch(arguments) => fdb::watch(&mut client, &arguments, output).await,
        },
        Command::Mdb { command: MdbCommand::Show { network } } => {
            mdb::show(&mut client, network.as_deref(), output).await
        }
        Command::Up(_)
        | Command::Down(_)
        | Command::Run(_)
        | Command::Doctor
        | Command::Engine { .. }
        | Command::Plugin { .. }
        | Command::Completions { .. } => Ok(()),
    }
}
