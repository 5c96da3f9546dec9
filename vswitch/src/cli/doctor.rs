//! `doctor`: what this machine can do, what it means, and how to get what is missing.

use serde::Serialize;

use super::failure::Failure;
use super::output::{Output, table};
use crate::daemon::DaemonError;
use crate::kernel::capabilities::Capabilities;

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
    check: &'static str,
    state: State,
    found: String,
    /// What it means, and how to get it.
    advice: Option<&'static str>,
}

pub fn run(output: Output) -> Result<(), Failure> {
    let capabilities = Capabilities::detect().map_err(DaemonError::Capabilities)?;
    let findings = examine(&capabilities);
    output.print(&findings, |findings| {
        let rows = findings.iter().map(|finding| {
            let state = match finding.state {
                State::Ok => "ok",
                State::Limited => "limited",
                State::Missing => "missing",
            };
            let advice = finding.advice.unwrap_or_default().to_owned();
            [finding.check.to_owned(), state.to_owned(), finding.found.clone(), advice]
        });
        table(["CHECK", "STATE", "FOUND", "ADVICE"], rows)
    })
}

fn examine(capabilities: &Capabilities) -> Vec<Finding> {
    let finding = |check, good: bool, bad: State, found: String, advice| Finding {
        check,
        state: if good { State::Ok } else { bad },
        found,
        advice: (!good).then_some(advice),
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
        let states: Vec<_> = limited.iter().map(|finding| (finding.check, finding.state)).collect();
        assert!(states.contains(&("tcx", State::Limited)) && states.contains(&("btf", State::Missing)));
        assert!(limited.iter().all(|finding| finding.advice.is_some() == (finding.state != State::Ok)));
    }
}
