//! Installation of packages without starting their services. The benchmark starts a dockerd of its
//! own.

use std::process::Command;

use crate::programs;

/// The script that Debian's packages run before they start a service (invoke-rc.d(8)). Exit status
/// 101 denies the start.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Creates a policy that denies all starts while a command runs, unless the machine has a policy
/// already. One shell does both, so that a signal does not leave the policy behind.
const SCRIPT: &str = r#"
if ! [ -e "$0" ]; then
    trap 'rm -f "$0"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$0" && chmod 755 "$0" || exit 1
fi
"$@"
"#;

/// Returns a command that runs `program` as root. Packages that it installs do not start services.
/// The caller adds the arguments of `program`.
pub fn without_starting_services(program: &str) -> Command {
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
    fn services_are_denied_only_while_the_command_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let policy = directory.path().join("policy-rc.d");
        assert_eq!(run(&policy, r#""$0" docker start; test $? = 101"#), Some(0));
        assert!(!policy.exists());
        assert_eq!(run(&policy, "exit 7"), Some(7));
        assert!(!policy.exists());
    }

    #[test]
    fn existing_policy_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let policy = directory.path().join("policy-rc.d");
        fs::write(&policy, "its own").expect("written");
        assert_eq!(run(&policy, "true"), Some(0));
        assert_eq!(fs::read_to_string(&policy).expect("read"), "its own");
    }
}
