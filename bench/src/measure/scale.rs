//! A thousand endpoints in twenty networks: how long it takes, whether each costs the same, and that nothing is left.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use vswitch::api::{AttachRequest, Client, DetachRequest, NetworkRequest, path};

use crate::{
    command::{self, stop_if_interrupted},
    instance::Instance,
    namespaces::{Netns, NetnsName},
};

/// Endpoints, over all networks.
pub const ENDPOINTS: usize = 1_000;
/// Networks that they are spread over, one after the other.
pub const NETWORKS: usize = 20;
/// At either end of the attaches, looked at by itself.
const HUNDRED: usize = 100;
/// The daemon may close what it used a moment after its answer.
const SETTLE: Duration = Duration::from_secs(5);

/// Seconds, and milliseconds of single attaches.
#[derive(Debug, Default)]
pub struct Scale {
    /// All networks.
    pub create: f64,
    /// All endpoints.
    pub attach: f64,
    /// All endpoints and networks.
    pub remove: f64,
    /// One value for each of the first hundred.
    pub first: Vec<f64>,
    /// One value for each of the last hundred.
    pub last: Vec<f64>,
}

/// Asks over one connection to the API, so that no start of a command is in the times. The namespaces are there before.
pub fn scale(vswitch: &Path) -> Result<Scale> {
    // Declared first, dropped last: the switch goes down while the namespaces still exist.
    let containers = (0..ENDPOINTS).map(|_| Netns::create("scale")).collect::<Result<Vec<_>>>()?;
    let before = containers.iter().map(|container| container.devices()).collect::<Result<Vec<_>>>()?;
    let host = Netns::create("scale-host")?;
    let untouched = Traces::of(&host, None)?;
    let instance = Instance::up(vswitch, &host, &[])?;
    let empty = Traces::of(&host, Some(&instance))?;

    let scale = Api::connect(&instance)?.through(&containers)?;

    empty.wait_for_return(&host, &instance)?;
    for (container, before) in containers.iter().zip(before) {
        nothing_new("devices in a container", &before, &container.devices()?)?;
        let resolvers = PathBuf::from(format!("/etc/netns/{}", container.name()));
        if resolvers.exists() {
            bail!("detach left {}", resolvers.display());
        }
    }
    instance.down()?;
    untouched.compare(&Traces::of(&host, None)?)?;
    Ok(scale)
}

/// One connection to the daemon.
pub struct Api {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Api {
    /// Opens it.
    pub fn connect(instance: &Instance) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let named = vswitch::model::Instance::new(instance.name().parse()?);
        let client = runtime.block_on(Client::connect(&named))?;
        Ok(Self { runtime, client })
    }

    fn through(&mut self, containers: &[Netns]) -> Result<Scale> {
        let mut scale = Scale::default();
        let names: Vec<_> = (0..NETWORKS).map(|number| format!("scale{number}")).collect();

        let start = Instant::now();
        for name in &names {
            self.post("/networks", &NetworkRequest { name: name.clone(), ..NetworkRequest::default() })?;
        }
        scale.create = start.elapsed().as_secs_f64();

        let mut times = Vec::with_capacity(containers.len());
        let start = Instant::now();
        for (container, network) in containers.iter().zip(names.iter().cycle()) {
            let request =
                AttachRequest { netns: container.path(), network: Some(network.clone()), ..AttachRequest::default() };
            let start = Instant::now();
            self.post("/endpoints", &request)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        scale.attach = start.elapsed().as_secs_f64();
        scale.first = times.iter().take(HUNDRED).copied().collect();
        scale.last = times.iter().skip(times.len().saturating_sub(HUNDRED)).copied().collect();

        let start = Instant::now();
        for container in containers {
            self.post("/detach", &DetachRequest { netns: Some(container.path()), ..DetachRequest::default() })?;
        }
        for name in &names {
            let path = path(&["networks", name]);
            let _: Value =
                self.runtime.block_on(self.client.delete(&path)).with_context(|| format!("DELETE {path}"))?;
        }
        scale.remove = start.elapsed().as_secs_f64();
        Ok(scale)
    }

    /// Asks, and has no use for the answer.
    pub fn post(&mut self, path: &str, body: &impl serde::Serialize) -> Result<()> {
        stop_if_interrupted()?;
        let answer: Result<Value, _> = self.runtime.block_on(self.client.post(path, body));
        answer.with_context(|| format!("POST {path} {}", json!(body)))?;
        Ok(())
    }
}

/// What a switch leaves in the namespace that it serves, and holds in its process.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    devices: BTreeSet<String>,
    nft_tables: BTreeSet<String>,
    /// Namespaces that the daemon keeps open: one that is kept never goes away, even when its file does.
    namespaces: BTreeSet<String>,
}

impl Traces {
    fn of(host: &NetnsName, instance: Option<&Instance>) -> Result<Self> {
        let tables = command::run(host.command("nft").args(["list", "tables"]))?;
        let namespaces = match instance {
            Some(instance) => open_namespaces(instance.daemon()?)?,
            None => BTreeSet::new(),
        };
        Ok(Self { devices: host.devices()?, nft_tables: tables.lines().map(str::to_owned).collect(), namespaces })
    }

    /// Fails with what is there now and was not before.
    fn compare(&self, now: &Self) -> Result<()> {
        nothing_new("devices", &self.devices, &now.devices)?;
        nothing_new("nft tables", &self.nft_tables, &now.nft_tables)?;
        nothing_new("open namespaces", &self.namespaces, &now.namespaces)
    }

    fn wait_for_return(&self, host: &NetnsName, instance: &Instance) -> Result<()> {
        let start = Instant::now();
        loop {
            let outcome = self.compare(&Self::of(host, Some(instance))?);
            if outcome.is_ok() || start.elapsed() > SETTLE {
                return outcome;
            }
            stop_if_interrupted()?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn nothing_new(what: &str, before: &BTreeSet<String>, now: &BTreeSet<String>) -> Result<()> {
    let left: Vec<_> = now.difference(before).collect();
    if !left.is_empty() {
        bail!("after all was removed there are left, {what}: {left:?}");
    }
    Ok(())
}

fn open_namespaces(process: i32) -> Result<BTreeSet<String>> {
    let directory = format!("/proc/{process}/fd");
    let entries = fs::read_dir(&directory).with_context(|| format!("reading {directory}"))?;
    // A descriptor that was closed meanwhile has no target any more.
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let targets = targets.map(|target| target.to_string_lossy().into_owned());
    // As `net:[4026531840]`, or the path that it was opened by.
    Ok(targets.filter(|target| target.starts_with("net:[") || target.starts_with("/run/netns/")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_left_is_named_and_what_is_gone_is_fine() {
        assert!(nothing_new("devices", &set(&["lo", "vsw-bridge"]), &set(&["lo"])).is_ok());
        let error = nothing_new("devices", &set(&["lo"]), &set(&["lo", "vsw-x"])).unwrap_err().to_string();
        assert!(error.contains("devices") && error.contains("vsw-x") && !error.contains("lo\""), "{error}");
    }
}
