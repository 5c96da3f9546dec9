//! The iptables programs: for two families, over the kernel's legacy interface or nftables.

use std::fs;
use std::io;

use serde_json::Value;

use crate::nat::{NatError, nft};

/// The address family of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// The kernel interface of the program. Both may be in use at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    Nft,
    Legacy,
}

/// A program that has answered.
#[derive(Debug)]
pub(super) struct Program(String);

/// Seconds for which the program waits for another process that holds the lock of iptables.
const LOCK: &str = "5";

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    /// Returns the name of the family in nftables.
    pub(super) const fn in_nft(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

impl Flavour {
    pub(super) const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    const fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// Reports whether the program's table may need changes. Does not run the program, because
    /// listing a table creates it.
    pub(super) fn is_used(self, family: Family, chains: &[Value], ours: &[String]) -> bool {
        match self {
            Self::Nft => {
                let of_table = |chain: &&Value| chain["family"] == family.in_nft() && chain["table"] == "filter";
                chains.iter().map(|object| &object["chain"]).filter(of_table).any(|chain| {
                    let name = chain["name"].as_str().unwrap_or_default();
                    matches!(name, "DOCKER-USER" | "FORWARD" | "INPUT") || ours.iter().any(|own| own == name)
                })
            }
            Self::Legacy => Self::has_legacy_table(family),
        }
    }

    /// Reports whether the kernel's legacy interface has a table `filter`.
    pub(super) fn has_legacy_table(family: Family) -> bool {
        let file = if family == Family::V4 { "ip_tables_names" } else { "ip6_tables_names" };
        // The path of the calling thread's namespace; /proc/net shows that of the main thread.
        let tables = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        tables.lines().any(|table| table == "filter")
    }
}

/// Returns the program for a family and flavour, with the rules of its table `filter`. Returns
/// `None` if the program is not installed.
pub(super) async fn list(family: Family, flavour: Flavour) -> Result<Option<(Program, String)>, NatError> {
    let named = Program(format!("{}-{}", family.program(), flavour.name()));
    // If only one flavour is installed, it may have only the plain name.
    for program in [named, Program(family.program().to_owned())] {
        match program.list().await {
            Err(NatError::Program { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            listing if program.0.ends_with(flavour.name()) => return Ok(Some((program, listing?))),
            listing => {
                let version = nft::run(&program.0, &["--version"], &[]).await?;
                let over_nftables = String::from_utf8_lossy(&version.stdout).contains("nf_tables");
                if over_nftables == (flavour == Flavour::Nft) {
                    return Ok(Some((program, listing?)));
                }
            }
        }
    }
    Ok(None)
}

impl Program {
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// Returns the rules of the table `filter`.
    pub(super) async fn list(&self) -> Result<String, NatError> {
        self.run(&self.0, &["-w", LOCK, "-S"], &[]).await
    }

    /// Applies a script to the table, as a whole or not at all. Chains that the script does not
    /// name stay unchanged.
    pub(super) async fn restore(&self, script: &str) -> Result<(), NatError> {
        let program = format!("{}-restore", self.0);
        self.run(&program, &["-w", LOCK, "--noflush"], script.as_bytes()).await.map(drop)
    }

    async fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> Result<String, NatError> {
        let output = nft::run(program, arguments, input).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(NatError::Iptables { program: program.to_owned(), complaint: nft::complaint(&output) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn iptables_over_nftables_is_seen_by_its_chains() {
        let chain = |family: &str, table: &str, name: &str, policy: &str| {
            vec![json!({"chain": {"family": family, "table": table, "name": name, "policy": policy}})]
        };
        let used = |family, chains: Vec<Value>| Flavour::Nft.is_used(family, &chains, &["VSWITCH-1a2b".to_owned()]);
        assert!(used(Family::V4, chain("ip", "filter", "FORWARD", "drop")));
        assert!(used(Family::V4, chain("ip", "filter", "INPUT", "accept")));
        assert!(used(Family::V4, chain("ip", "filter", "DOCKER-USER", "")));
        assert!(used(Family::V6, chain("ip6", "filter", "VSWITCH-1a2b", "")));
        assert!(!used(Family::V4, chain("ip", "filter", "OUTPUT", "accept")));
        assert!(!used(Family::V6, chain("ip", "filter", "FORWARD", "drop")));
        assert!(!used(Family::V4, chain("inet", "filter", "FORWARD", "drop")));
    }
}
