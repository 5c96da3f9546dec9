//! The distribution of this machine and its package manager.

use std::{fs, process::Command};

use crate::programs;

/// A family of distributions that share package names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Debian, Ubuntu and others with apt-get.
    Debian,
    Fedora,
    Arch,
    Suse,
    /// An unknown distribution.
    Other,
}

impl Distribution {
    /// Returns the distribution of this machine.
    pub fn here() -> Self {
        let os_release = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
        Self::of(&os_release.unwrap_or_default())
    }

    /// Parses os-release(5). Uses ID, or else the first known name in ID_LIKE, which lists the
    /// closest relation first.
    fn of(os_release: &str) -> Self {
        let field = |name: &str| {
            let value = os_release.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        let families = format!("{} {}", field("ID"), field("ID_LIKE"));
        let known = families.split_whitespace().find_map(|family| match family {
            "debian" | "ubuntu" => Some(Self::Debian),
            "fedora" | "rhel" | "centos" => Some(Self::Fedora),
            "arch" => Some(Self::Arch),
            "suse" | "opensuse" => Some(Self::Suse),
            _ => None,
        });
        known.unwrap_or(Self::Other)
    }

    /// Returns the command for installing packages by hand.
    pub fn install_command(self) -> Option<&'static str> {
        match self {
            Self::Debian => Some("sudo apt-get install"),
            Self::Fedora => Some("sudo dnf install"),
            Self::Arch => Some("sudo pacman -S --needed"),
            Self::Suse => Some("sudo zypper install"),
            Self::Other => None,
        }
    }
}

/// Returns whether a Debian package is installed.
pub fn dpkg_has(package: &str) -> bool {
    let status =
        programs::output(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]));
    status.is_some_and(|status| status.trim() == "installed")
}

/// Returns whether apt can install a package.
pub fn apt_has(package: &str) -> bool {
    let policy = programs::output(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"));
    has_candidate(&policy.unwrap_or_default())
}

fn has_candidate(policy: &str) -> bool {
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"));
    candidate.is_some_and(|version| version.trim() != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_recognized_by_id_and_id_like() {
        let cases = [
            ("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n", Distribution::Debian),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Distribution::Debian),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Distribution::Fedora),
            ("NAME=EndeavourOS\nID=endeavouros\nID_LIKE=arch\n", Distribution::Arch),
            ("ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n", Distribution::Suse),
            ("ID=nixos\n", Distribution::Other),
            ("", Distribution::Other),
            // `VERSION_ID` must not be taken for `ID`.
            ("VERSION_ID=debian\nID=void\n", Distribution::Other),
        ];
        for (os_release, expected) in cases {
            assert_eq!(Distribution::of(os_release), expected, "{os_release}");
        }
    }

    #[test]
    fn package_without_a_candidate_is_not_available() {
        assert!(has_candidate("llvm-22-dev:\n  Installed: (none)\n  Candidate: 1:22.1.8-1\n"));
        assert!(!has_candidate("llvm-22-dev:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
