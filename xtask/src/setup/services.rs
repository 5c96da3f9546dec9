//! Installing packages without starting the services that come with them: the benchmark starts a dockerd of its own.

use std::process::Command;

use crate::programs;

/// Asked by Debian's packages before they start a service (invoke-rc.d(8)); 101 is no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Says no where nobody has a say yet, while a command runs. One shell does both, so that no signal leaves the policy behind.
const SCRIPT: &str = r#"
if ! [ -e "$0" ]; then
    trap 'rm -f "$0"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$0" && chmod 755 "$0" || exit 1
fi
"$@"
"#;

/// `program`, run as root, to be given its arguments; no package that it installs starts a service.
pub fn none_started(program: &str) -> Command {
    let mut command = programs::as_root("sh");
    command.args(["-c", SCRIPT, POLICY, program]);
    command
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn run(policy: &Path, command: &str) -> Option<i32> {
        let status =
            Command::new("sh").args(["-c", SCRIPT]).arg(policy).args(["sh", "-c", command]).arg(policy).status();
        status.expect("sh is everywhere").code()
    }

    #[test]
    fn services_are_denied_while_the_command_runs_and_not_longer() {
        let directory = tempfile::tempdir().expect("a directory");
        let policy = directory.path().join("policy-rc.d");
        assert_eq!(run(&policy, r#""$0" docker start; test $? = 101"#), Some(0));
        assert!(!policy.exists());
        assert_eq!(run(&policy, "exit 7"), Some(7));
        assert!(!policy.exists());
    }

    #[test]
    fn a_policy_of_the_machine_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let policy = directory.path().join("policy-rc.d");
        fs::write(&policy, "its own").expect("written");
        assert_eq!(run(&policy, "true"), Some(0));
        assert_eq!(fs::read_to_string(&policy).expect("read"), "its own");
    }
}
