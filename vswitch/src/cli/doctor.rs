//! `doctor`: checks the machine, the ports and other firewalls, and says what each finding means and how to get what
//! is missing.

mod ports;

use std::collections::BTreeMap;

use serde::Serialize;

use super::engine::{self, Engine, Sight};
use super::failure::Failure;
use super::output::{Output, table};
use crate::api::{Client, ClientError, PortHealth, Status};
use crate::daemon::DaemonError;
use crate::kernel::capabilities::Capabilities;
use crate::model::Instance;
use crate::nat::FirewallStatus;

/// The state of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// vswitch works without it.
    Limited,
    /// vswitch cannot work without it.
    Missing,
}

/// The result of one check.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: String,
    state: State,
    found: String,
    /// What the finding means, and how to get what is missing.
    advice: Option<String>,
    /// The offloads of a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    offloads: Option<BTreeMap<String, bool>>,
}

impl Finding {
    fn new(check: String, state: State, found: String, advice: Option<String>) -> Self {
        Self { check, state, found, advice, offloads: None }
    }
}

pub fn run(instance: &Instance, output: Output) -> Result<(), Failure> {
    let capabilities = Capabilities::detect().map_err(DaemonError::Capabilities)?;
    let mut findings = check_machine(&capabilities);
    let (ports, silent) = check_instance(instance);
    findings.extend(ports);
    findings.extend(engine::sights(instance).into_iter().map(|(engine, sight)| sees(engine, &sight)));
    output.print(&findings, |findings| {
        let rows = findings.iter().map(|finding| {
            let state = match finding.state {
                State::Ok => "ok",
                State::Limited => "limited",
                State::Missing => "missing",
            };
            let advice = finding.advice.clone().unwrap_or_default();
            [finding.check.clone(), state.to_owned(), finding.found.clone(), advice]
        });
        table(["CHECK", "STATE", "FOUND", "ADVICE"], rows)
    })?;
    silent.map_or(Ok(()), Err)
}

/// Checks the ports and other firewalls if the instance is up.
fn check_instance(instance: &Instance) -> (Vec<Finding>, Option<Failure>) {
    let mut health: Result<(Vec<PortHealth>, Vec<FirewallStatus>), ClientError> = Ok(Default::default());
    let outcome = super::block_on(async {
        health = async {
            let mut client = Client::connect(instance).await?;
            let ports = client.get("/health").await?;
            let status: Status = client.get("/status").await?;
            Ok((ports, status.firewalls))
        }
        .await;
        Ok(())
    });
    let unknown = |error: String| {
        let advice = "to check the ports, run doctor as root while the daemon is running".to_owned();
        vec![Finding::new("ports".to_owned(), State::Limited, error, Some(advice))]
    };
    match (outcome, health) {
        (Err(failure), _) => (unknown(failure.error.message), None),
        (_, Ok((ports, firewalls))) => {
            (ports::check(&ports).into_iter().chain(firewalls.into_iter().map(firewall)).collect(), None)
        }
        (_, Err(ClientError::NotRunning { .. })) => (Vec::new(), None),
        (_, Err(error @ ClientError::NotAnswering(_))) => (Vec::new(), Some(error.into())),
        (_, Err(error)) => (unknown(error.to_string()), None),
    }
}

/// Returns the finding about a container engine on this machine.
fn sees(engine: Engine, sight: &Sight) -> Finding {
    let advice = (!sight.works).then(|| sight.says.trim_start_matches("no: ").to_owned());
    let (state, found) = match (sight.works, sight.installed) {
        (true, _) => (State::Ok, "sees vswitch"),
        (false, true) => (State::Limited, "does not see vswitch"),
        // The operator may not want it to.
        (false, false) => (State::Ok, "does not use vswitch"),
    };
    let found = found.to_owned();
    Finding::new(format!("engine {}", engine.name()), state, found, advice)
}

/// Returns the finding about another firewall of the host.
fn firewall(status: FirewallStatus) -> Finding {
    let state = if status.drops { State::Limited } else { State::Ok };
    let advice = status.advice.or_else(|| status.drops.then(|| "see `vswitch status`".to_owned()));
    Finding::new(format!("firewall {}", status.firewall), state, status.found, advice)
}

fn check_machine(capabilities: &Capabilities) -> Vec<Finding> {
    let finding = |check: &str, good: bool, bad: State, found: String, advice: &str| {
        let state = if good { State::Ok } else { bad };
        Finding::new(check.to_owned(), state, found, (!good).then(|| advice.to_owned()))
    };
    let old = capabilities.release.version < crate::kernel::capabilities::OLDEST;
    let privileged = capabilities.missing.is_empty();
    let missing = if privileged {
        "all required capabilities".to_owned()
    } else {
        format!("no {}", capabilities.missing.join(", "))
    };
    let bpf = capabilities.bpf.map_or_else(|errno| errno.desc().to_owned(), |()| "bpf(2) answers".to_owned());
    vec![
        finding(
            "kernel",
            !old,
            State::Missing,
            capabilities.release.text.clone(),
            "vswitch requires Linux 6.1 or newer",
        ),
        finding("privileges", privileged, State::Missing, missing, "run `vswitch up` as root"),
        finding(
            "bpf",
            capabilities.bpf.is_ok(),
            State::Missing,
            bpf,
            "requires CONFIG_BPF_SYSCALL and no seccomp filter that forbids bpf(2)",
        ),
        finding(
            "btf",
            capabilities.btf,
            State::Missing,
            if capabilities.btf { "/sys/kernel/btf/vmlinux" } else { "none" }.to_owned(),
            "requires CONFIG_DEBUG_INFO_BTF, which kernels of distributions have",
        ),
        finding(
            "tcx",
            capabilities.tcx,
            State::Limited,
            if capabilities.tcx { "programs are attached by links" } else { "not supported by this kernel" }.to_owned(),
            "vswitch uses filters of the clsact qdisc instead; tcx requires Linux 6.6",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firewall_that_drops_has_its_advice() {
        let status = |drops: bool| FirewallStatus {
            firewall: "inet filter input".to_owned(),
            drops,
            found: "names are dropped".to_owned(),
            advice: drops.then(|| "insert a rule".to_owned()),
        };
        let bad = firewall(status(true));
        assert_eq!((bad.check.as_str(), bad.state), ("firewall inet filter input", State::Limited));
        assert_eq!(bad.advice.as_deref(), Some("insert a rule"));
        assert_eq!((firewall(status(false)).state, firewall(status(false)).advice), (State::Ok, None));
    }

    #[test]
    fn findings_that_are_not_ok_have_advice() {
        let capabilities = Capabilities::detect().expect("/proc is mounted");
        let able = Capabilities { missing: Vec::new(), bpf: Ok(()), btf: true, tcx: true, ..capabilities };
        assert!(check_machine(&able).iter().all(|finding| finding.advice.is_none() == (finding.state == State::Ok)));
        let limited = check_machine(&Capabilities { tcx: false, btf: false, ..able });
        let states: Vec<_> = limited.iter().map(|finding| (finding.check.as_str(), finding.state)).collect();
        assert!(states.contains(&("tcx", State::Limited)) && states.contains(&("btf", State::Missing)));
        assert!(limited.iter().all(|finding| finding.advice.is_some() == (finding.state != State::Ok)));
    }
}
