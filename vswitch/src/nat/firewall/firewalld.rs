//! firewalld: a zone for the host's devices of our networks, and a policy that lets out what comes
//! from them.
//!
//! firewalld rejects at the end of its chains what no zone accepts, so an accept rule elsewhere does
//! not help. Zone and policy are permanent, because firewalld then has them from its first
//! transaction on, also after a reload. A package can bring the same files.

use std::io;
use std::path::Path;

use crate::model::Instance;
use crate::nat::{NatError, nft};

const ZONE: &str = "vswitch";
const POLICY: &str = "vswitch-out";
const ZONE_XML: &str = include_str!("../../../dist/firewalld/zones/vswitch.xml");
const POLICY_XML: &str = include_str!("../../../dist/firewalld/policies/vswitch-out.xml");
/// The devices of the default instance, and the port of its tunnels, in the zone's file.
const DEVICES: &str = "vsw-+";
const TUNNELS: &str = "\"4789\"";
/// The file in which firewalld keeps the zone.
const RECORD: &str = "/etc/firewalld/zones/vswitch.xml";

/// The reason for which firewalld was not set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// firewalld does not answer, although its table exists. It may be starting.
    NotRunning,
    /// The reason, and what to do.
    Because(String, String),
}

/// Adds the devices of an instance to our zone, which is made if it does not exist.
pub(super) async fn admit(instance: &Instance, tunnels: Option<u16>) -> Result<(), Refusal> {
    let devices = &instance.device_pattern();
    let interface = |action: &str| format!("--{action}-interface={devices}");
    let of_zone = format!("--zone={ZONE}");
    if !contains(&ask(&["--permanent", "--get-zones"]).await?, ZONE) {
        let port = tunnels.map_or_else(|| TUNNELS.to_owned(), |port| format!("\"{port}\""));
        let zone = ZONE_XML.replace(DEVICES, devices).replace(TUNNELS, &port);
        make(instance, "zone", ZONE, &zone).await?;
    } else if !says(&["--permanent", &of_zone, &interface("query")]).await? {
        ask(&["--permanent", &of_zone, &interface("add")]).await?;
    }
    if !contains(&ask(&["--permanent", "--get-policies"]).await?, POLICY) {
        make(instance, "policy", POLICY, POLICY_XML).await?;
    }
    let known = contains(&ask(&["--get-zones"]).await?, ZONE) && contains(&ask(&["--get-policies"]).await?, POLICY);
    if known {
        if !says(&[&of_zone, &interface("query")]).await? {
            ask(&[&of_zone, &interface("add")]).await?;
        }
        return Ok(());
    }
    if has_temporary_rules().await? {
        return Err(Refusal::Because(
            format!("firewalld has to be reloaded for the zone {ZONE}, and would lose rules that are not permanent"),
            "`firewall-cmd --runtime-to-permanent` keeps them; then `firewall-cmd --reload`".to_owned(),
        ));
    }
    ask(&["--reload"]).await?;
    tracing::info!("firewalld: zone {ZONE} and policy {POLICY} are made");
    Ok(())
}

/// Removes the devices of an instance from our zone, and the zone after the last of them. firewalld
/// may be running or not.
pub(super) async fn withdraw(instance: &Instance) {
    let devices = instance.device_pattern();
    let recorded = |devices: &str| {
        std::fs::read_to_string(RECORD).is_ok_and(|zone| zone.contains(&format!("<interface name=\"{devices}\"")))
    };
    if !recorded(&devices) {
        return;
    }
    let [of_zone, remove] = [format!("--zone={ZONE}"), format!("--remove-interface={devices}")];
    let running = ask(&["--state"]).await.is_ok();
    let permanent: (&str, &[&str]) =
        if running { ("firewall-cmd", &["--permanent"]) } else { ("firewall-offline-cmd", &[]) };
    let change = |arguments: &[&str]| {
        let arguments: Vec<String> = permanent.1.iter().chain(arguments).map(|word| (*word).to_owned()).collect();
        async move {
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run(permanent.0, &words).await
        }
    };
    let mut done = change(&[&of_zone, &remove]).await;
    if running {
        let _may_be_gone = ask(&[&of_zone, &remove]).await;
    }
    let empty = std::fs::read_to_string(RECORD).is_ok_and(|zone| !zone.contains("<interface "));
    if done.is_ok() && empty {
        done = change(&[&format!("--delete-policy={POLICY}")]).await;
        done = change(&[&format!("--delete-zone={ZONE}")]).await.and(done);
    }
    if let Err(refusal) = done {
        tracing::warn!("firewalld: the zone {ZONE} is left behind: {refusal:?}");
    }
}

/// Makes a permanent zone or policy from a file.
async fn make(instance: &Instance, kind: &str, name: &str, xml: &str) -> Result<(), Refusal> {
    let file = instance.run_directory().join(format!("{name}.xml"));
    std::fs::write(&file, xml).map_err(|error| unusable(&format!("{}: {error}", file.display())))?;
    let made =
        ask(&["--permanent", &format!("--new-{kind}-from-file={}", file.display()), &format!("--name={name}")]).await;
    let _temporary = std::fs::remove_file(&file);
    made.map(drop)
}

/// Reports whether firewalld has zones or policies that differ from the permanent ones. Interfaces
/// do not count: firewalld keeps them during a reload.
async fn has_temporary_rules() -> Result<bool, Refusal> {
    for list in ["--list-all-zones", "--list-all-policies"] {
        let (now, permanent) = (ask(&[list]).await?, ask(&["--permanent", list]).await?);
        if differ(&now, &permanent) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Compares two listings, of what is in force and of what is permanent.
fn differ(now: &str, permanent: &str) -> bool {
    let blocks = |text: &str| -> Vec<String> {
        let kept = text.lines().filter(|line| !line.trim_start().starts_with("interfaces:"));
        let kept: Vec<_> = kept.map(|line| line.trim_end().trim_end_matches(" (active)")).collect();
        kept.join("\n").split("\n\n").map(|block| block.trim().to_owned()).collect()
    };
    let permanent = blocks(permanent);
    // What is only permanent is added by a reload.
    blocks(now).iter().any(|block| !permanent.contains(block))
}

fn contains(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|found| found == word)
}

/// Runs a query that answers by its exit status.
async fn says(arguments: &[&str]) -> Result<bool, Refusal> {
    match ask(arguments).await {
        Ok(_) => Ok(true),
        // "no" is printed on stdout, and nothing on stderr.
        Err(Refusal::Because(..)) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

async fn ask(arguments: &[&str]) -> Result<String, Refusal> {
    run("firewall-cmd", arguments).await
}

/// The exit status of firewall-cmd if firewalld does not run.
const NOT_RUNNING: i32 = 252;

async fn run(program: &str, arguments: &[&str]) -> Result<String, Refusal> {
    match nft::run(program, arguments, &[]).await {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) if output.status.code() == Some(NOT_RUNNING) => Err(Refusal::NotRunning),
        Ok(output) => Err(unusable(&format!("{program} {}: {}", arguments.join(" "), nft::complaint(&output)))),
        Err(NatError::Program { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(Refusal::Because(format!("the program {program} is missing"), "install it".to_owned()))
        }
        Err(error) => Err(unusable(&error.to_string())),
    }
}

fn unusable(reason: &str) -> Refusal {
    let zone = Path::new(RECORD).file_stem().unwrap_or_default().display();
    let advice = format!("`firewall-cmd --permanent --info-zone={zone}` shows what there is");
    Refusal::Because(format!("the zone {ZONE} cannot be made: {reason}"), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_name_what_the_code_replaces() {
        assert!(ZONE_XML.contains(&format!("<interface name=\"{DEVICES}\"/>")) && ZONE_XML.contains(TUNNELS));
        let (prefix, length) = vswitch_common::packet::address::Address::INNER;
        let [a, b, c] = [0, 2, 4].map(|at| format!("{:02x}{:02x}", prefix[at], prefix[at + 1]));
        assert!(ZONE_XML.contains(&format!("\"{a}:{b}:{c}::/{length}\"")), "{ZONE_XML}");
        assert!(POLICY_XML.contains(&format!("<ingress-zone name=\"{ZONE}\"/>")));
        let instance = Instance::new("default".parse().expect("a name"));
        assert_eq!(instance.device_pattern(), DEVICES);
    }

    #[test]
    fn rules_that_are_not_permanent_are_found() {
        let permanent = "public\n  target: default\n  interfaces: \n  ports: \n\nother\n  ports: 1/tcp\n";
        assert!(!differ("public (active)\n  target: default\n  interfaces: eth0\n  ports: \n\n", permanent));
        assert!(differ("public (active)\n  target: default\n  interfaces: eth0\n  ports: 80/tcp\n\n", permanent));
    }
}
