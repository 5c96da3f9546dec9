//! `doctor`: what this machine can do, and how the ports are; what it means, and how to get what is missing.

mod ports;

use std::collections::BTreeMap;

use serde::Serialize;

use super::failure::Failure;
use super::output::{Output, table};
use crate::api::{Client, ClientError, PortHealth};
use crate::daemon::DaemonError;
use crate::kernel::capabilities::Capabilities;
use crate::model::Instance;

/// How a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// It works without.
    Limited,
    /// Nothing works without.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: String,
    state: State,
    found: String,
    /// What it means, and how to get it.
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
    let mut findings = examine(&capabilities);
    findings.extend(examine_ports(instance));
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
    })
}

/// What is to be found at the ports, where the instance is up.
fn examine_ports(instance: &Instance) -> Vec<Finding> {
    let mut asked: Result<Vec<PortHealth>, ClientError> = Ok(Vec::new());
    let ran = super::asking(async {
        asked = async { Client::connect(instance).await?.get("/health").await }.await;
        Ok(())
    });
    let unknown = |error: String| {
        let advice = "as root, with the daemon well, doctor looks at the ports too".to_owned();
        vec![Finding::new("ports".to_owned(), State::Limited, error, Some(advice))]
    };
    match (ran, asked) {
        (Err(failure), _) => unknown(failure.error.message),
        (_, Ok(ports)) => ports::examine(&ports),
        (_, Err(ClientError::NotRunning { .. })) => Vec::new(),
        (_, Err(error)) => unknown(error.to_string()),
    }
}

fn examine(capabilities: &Capabilities) -> Vec<Finding> {
    let finding = |check: &str, good: bool, bad: State, found: String, advice: &str| {
        let state = if good { State::Ok } else { bad };
        Finding::new(check.to_owned(), state, found, (!good).then(|| advice.to_owned()))
    };
    let old = capabilities.release.version < crate::kernel::capabilities::OLDEST;
    let privileged = capabilities.missing.is_empty();
    let missing =
        if privileged { "all that is needed".to_owned() } else { format!("no {}", capabilities.missing.join(", ")) };
    let bpf = capabilities.bpf.map_or_else(|errno| errno.desc().to_owned(), |()| "bpf(2) answers".to_owned());
    vec![
        finding("kernel", !old, State::Missing, capabilities.release.text.clone(), "vswitch needs Linux 6.1 or newer"),
        finding("privileges", privileged, State::Missing, missing, "run vswitch up as root"),
        finding(
            "bpf",
            capabilities.bpf.is_ok(),
            State::Missing,
            bpf,
            "needs CONFIG_BPF_SYSCALL, and no seccomp filter that forbids bpf(2)",
        ),
        finding(
            "btf",
            capabilities.btf,
            State::Missing,
            if capabilities.btf { "/sys/kernel/btf/vmlinux" } else { "none" }.to_owned(),
            "needs CONFIG_DEBUG_INFO_BTF, as distributions build it",
        ),
        finding(
            "tcx",
            capabilities.tcx,
            State::Limited,
            if capabilities.tcx { "programs are attached by links" } else { "not in this kernel" }.to_owned(),
            "works without, by filters of the clsact qdisc; Linux 6.6 has it",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_advice() {
        let capabilities = Capabilities::detect().expect("/proc is mounted");
        let able = Capabilities { missing: Vec::new(), bpf: Ok(()), btf: true, tcx: true, ..capabilities };
        assert!(examine(&able).iter().all(|finding| finding.advice.is_none() == (finding.state == State::Ok)));
        let limited = examine(&Capabilities { tcx: false, btf: false, ..able });
        let states: Vec<_> = limited.iter().map(|finding| (finding.check.as_str(), finding.state)).collect();
        assert!(states.contains(&("tcx", State::Limited)) && states.contains(&("btf", State::Missing)));
        assert!(limited.iter().all(|finding| finding.advice.is_some() == (finding.state != State::Ok)));
    }
}
