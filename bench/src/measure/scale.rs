//! 1,000 endpoints in 20 networks: the total time, the time of single attaches, and a check that
//! nothing is left behind.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use vswitch::api::{AttachRequest, DetachRequest, NetworkRequest, path};

use crate::{
    api::Api,
    command::{self, stop_if_interrupted},
    instance::Instance,
    namespaces::{Netns, NetnsName},
};

/// Number of endpoints in all networks.
pub const ENDPOINTS: usize = 1_000;
/// Number of networks. Endpoints are assigned to them round-robin.
pub const NETWORKS: usize = 20;
/// Number of attaches at the beginning and at the end whose times are compared.
const SAMPLES: usize = 100;
/// Time limit for the daemon to close its descriptors after the reply.
const SETTLE: Duration = Duration::from_secs(5);

/// Times in seconds, and times of single attaches in milliseconds.
#[derive(Debug, Default)]
pub struct Scale {
    /// Creation of all networks.
    pub create: f64,
    /// Attachment of all endpoints.
    pub attach: f64,
    /// Removal of all endpoints and networks.
    pub remove: f64,
    /// The first hundred attaches.
    pub first: Vec<f64>,
    /// The last hundred attaches.
    pub last: Vec<f64>,
}

/// Measures over one connection to the API, so that the times include no process starts. The
/// namespaces are created before.
pub fn scale(vswitch: &Path) -> Result<Scale> {
    // Declared first and so dropped last: the switch goes down while the namespaces still exist.
    let containers = (0..ENDPOINTS).map(|_| Netns::create("scale")).collect::<Result<Vec<_>>>()?;
    let before = containers.iter().map(|container| container.devices()).collect::<Result<Vec<_>>>()?;
    let host = Netns::create("scale-host")?;
    let before_up = Footprint::of(&host, None)?;
    let instance = Instance::up(vswitch, &host, &[])?;
    let after_up = Footprint::of(&host, Some(&instance))?;

    let scale = measure(&mut Api::connect(&instance)?, &containers)?;

    after_up.wait_until_restored(&host, &instance)?;
    for (container, before) in containers.iter().zip(before) {
        check_no_leftovers("devices in a container", &before, &container.devices()?)?;
        let resolvers = PathBuf::from(format!("/etc/netns/{}", container.name()));
        if resolvers.exists() {
            bail!("detach left {} behind", resolvers.display());
        }
    }
    instance.down()?;
    before_up.compare(&Footprint::of(&host, None)?)?;
    Ok(scale)
}

/// Creates, attaches and removes everything.
fn measure(api: &mut Api, containers: &[Netns]) -> Result<Scale> {
    let mut scale = Scale::default();
    let names: Vec<_> = (0..NETWORKS).map(|number| format!("scale{number}")).collect();

    let start = Instant::now();
    for name in &names {
        api.post("/networks", &NetworkRequest { name: name.clone(), ..NetworkRequest::default() })?;
    }
    scale.create = start.elapsed().as_secs_f64();

    let mut times = Vec::with_capacity(containers.len());
    let start = Instant::now();
    for (container, network) in containers.iter().zip(names.iter().cycle()) {
        let request =
            AttachRequest { netns: container.path(), network: Some(network.clone()), ..AttachRequest::default() };
        let start = Instant::now();
        api.post("/endpoints", &request)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    scale.attach = start.elapsed().as_secs_f64();
    scale.first = times.iter().take(SAMPLES).copied().collect();
    scale.last = times.iter().skip(times.len().saturating_sub(SAMPLES)).copied().collect();

    let start = Instant::now();
    for container in containers {
        api.post("/detach", &DetachRequest { netns: Some(container.path()), ..DetachRequest::default() })?;
    }
    for name in &names {
        api.delete(&path(&["networks", name]))?;
    }
    scale.remove = start.elapsed().as_secs_f64();
    Ok(scale)
}

/// The objects of a switch in the namespace that it serves, and in its process.
#[derive(Debug, PartialEq, Eq)]
struct Footprint {
    devices: BTreeSet<String>,
    nft_tables: BTreeSet<String>,
    /// Namespaces that the daemon keeps open. An open namespace exists even after its file is
    /// removed.
    namespaces: BTreeSet<String>,
}

impl Footprint {
    fn of(host: &NetnsName, instance: Option<&Instance>) -> Result<Self> {
        let tables = command::run(host.command("nft").args(["list", "tables"]))?;
        let namespaces = match instance {
            Some(instance) => open_namespaces(instance.daemon()?)?,
            None => BTreeSet::new(),
        };
        Ok(Self { devices: host.devices()?, nft_tables: tables.lines().map(str::to_owned).collect(), namespaces })
    }

    /// Fails if there are objects that were not there before.
    fn compare(&self, now: &Self) -> Result<()> {
        check_no_leftovers("devices", &self.devices, &now.devices)?;
        check_no_leftovers("nft tables", &self.nft_tables, &now.nft_tables)?;
        check_no_leftovers("open namespaces", &self.namespaces, &now.namespaces)
    }

    fn wait_until_restored(&self, host: &NetnsName, instance: &Instance) -> Result<()> {
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

fn check_no_leftovers(kind: &str, before: &BTreeSet<String>, now: &BTreeSet<String>) -> Result<()> {
    let leftovers: Vec<_> = now.difference(before).collect();
    if !leftovers.is_empty() {
        bail!("objects are left after everything was removed ({kind}): {leftovers:?}");
    }
    Ok(())
}

fn open_namespaces(process: i32) -> Result<BTreeSet<String>> {
    let directory = format!("/proc/{process}/fd");
    let entries = fs::read_dir(&directory).with_context(|| format!("reading {directory}"))?;
    // A descriptor that was closed meanwhile has no target.
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let targets = targets.map(|target| target.to_string_lossy().into_owned());
    // The target is `net:[4026531840]`, or the path by which the namespace was opened.
    Ok(targets.filter(|target| target.starts_with("net:[") || target.starts_with("/run/netns/")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn leftovers_are_an_error_and_removed_objects_are_not() {
        assert!(check_no_leftovers("devices", &set(&["lo", "vsw-bridge"]), &set(&["lo"])).is_ok());
        let error = check_no_leftovers("devices", &set(&["lo"]), &set(&["lo", "vsw-x"])).unwrap_err().to_string();
        assert!(error.contains("devices") && error.contains("vsw-x") && !error.contains("lo\""), "{error}");
    }
}
