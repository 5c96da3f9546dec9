//! Runs the program `nft` with JSON. The `nftables` crate defines the JSON types. The program is
//! run here, because the crate discards its stderr.

use std::collections::BTreeMap;
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use nftables::schema::Nftables;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::NatError;

/// Standard input as a file. For `-`, nft opens /dev/stdin, which small systems do not have.
const STDIN: &str = "/proc/self/fd/0";

/// The oldest version that was tested; Debian 12 has it.
const NEEDED: (u32, u32, u32) = (1, 0, 6);
const NEEDED_TEXT: &str = "1.0.6";

/// The timeout: long enough for a ruleset of a hundred thousand lines on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A table's objects as the kernel lists them, without values that differ in each listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing(Vec<Value>);

/// The number of objects of each kind in a table, and the number of elements in the sets and maps
/// that hold single values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    kinds: BTreeMap<&'static str, usize>,
    elements: BTreeMap<String, usize>,
}

/// Applies commands in one transaction.
pub(super) async fn carry_out(commands: &Nftables<'_>, action: &'static str) -> Result<(), NatError> {
    let mut commands = serde_json::to_value(commands).map_err(NatError::NftOutput)?;
    spell_out(&mut commands);
    let commands = serde_json::to_vec(&commands).map_err(NatError::NftOutput)?;
    succeeded(run("nft", &["-j", "-f", STDIN], &commands).await?, action).await.map(drop)
}

/// Rewrites statements that consist of a name only. nft expects an object ("Unexpected expr array
/// element of type string"), but the crate serializes a string.
fn spell_out(commands: &mut Value) {
    for command in commands["nftables"].as_array_mut().into_iter().flatten() {
        let statements = command.pointer_mut("/add/rule/expr").and_then(Value::as_array_mut);
        for statement in statements.into_iter().flatten() {
            if let Value::String(name) = statement {
                *statement = Value::Object([(std::mem::take(name), Value::Null)].into_iter().collect());
            }
        }
    }
}

/// Returns the contents of a table, or `None` if the table does not exist.
pub(super) async fn list(table: &str) -> Result<Option<Listing>, NatError> {
    let output = run("nft", &["-j", "list", "table", "inet", table], &[]).await?;
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("No such file or directory") {
        return Ok(None);
    }
    objects(output, "list our table").await.map(|objects| Some(Listing::new(objects)))
}

/// Returns all chains, without their rules.
pub(super) async fn chains() -> Result<Vec<Value>, NatError> {
    objects(run("nft", &["-j", "list", "chains"], &[]).await?, "list the chains").await
}

/// Returns the objects of another program's table, without elements if it is gone.
pub(super) async fn table(family: &str, name: &str) -> Result<Vec<Value>, NatError> {
    let output = run("nft", &["-j", "list", "table", family, name], &[]).await?;
    if !output.status.success() {
        // The table was removed meanwhile, or nft cannot print it. The next change is looked at.
        tracing::debug!("nft list table {family} {name}: {}", complaint(&output));
        return Ok(Vec::new());
    }
    objects(output, "list a table").await
}

/// Runs a program in the namespace of the daemon, with this input.
pub(super) async fn run(program: &str, arguments: &[&str], input: &[u8]) -> Result<Output, NatError> {
    let failed = |source: io::Error| NatError::Program { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound if program == "nft" => NatError::NftMissing,
        _ => failed(source),
    })?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that fails early does not read its whole input. Its error is on stderr.
            let _broken_off = stdin.write_all(input).await;
        }
    };
    // Input and output are handled at the same time, because the program may write output before it
    // has read everything.
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(PATIENCE, both).await;
    output.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)
}

async fn objects(output: Output, action: &'static str) -> Result<Vec<Value>, NatError> {
    let printed = succeeded(output, action).await?;
    let mut document: Value = serde_json::from_slice(&printed).map_err(NatError::NftOutput)?;
    match document["nftables"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// Returns the output of the program, or its error text if it failed.
async fn succeeded(output: Output, action: &'static str) -> Result<Vec<u8>, NatError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = complaint(&output);
    if complaint.contains("JSON support not compiled-in") {
        return Err(NatError::NftWithoutJson);
    }
    let version = run("nft", &["--version"], &[]).await?;
    let version = String::from_utf8_lossy(&version.stdout);
    Err(match version_in(&version) {
        Some((text, number)) if number < NEEDED => {
            NatError::NftTooOld { version: text.to_owned(), needed: NEEDED_TEXT, complaint }
        }
        _ => NatError::NftRefused { action, complaint },
    })
}

/// Returns the error text of a failed program in one line. The first error is the cause; nft
/// repeats the command below it.
pub(super) fn complaint(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().map(str::trim).find(|line| line.contains("rror") || !line.is_empty());
    line.map_or_else(|| output.status.to_string(), str::to_owned)
}

/// Parses the version in `nftables v1.0.6 (Lester Gooch #5)`.
fn version_in(text: &str) -> Option<(&str, (u32, u32, u32))> {
    let version = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
    let mut numbers = version.split('.').map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok);
    Some((version, (next()?, next()?, next().unwrap_or(0))))
}

impl Listing {
    fn new(mut objects: Vec<Value>) -> Self {
        objects.retain(|object| object.get("metainfo").is_none());
        for object in &mut objects {
            // Each object is a map with one entry: its kind and its contents.
            let fields = object.as_object_mut().into_iter().flat_map(|kind| kind.values_mut());
            for fields in fields.filter_map(Value::as_object_mut) {
                fields.remove("handle");
                // The kernel lists the elements of a set in the order of its hash table.
                if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                    elements.sort_by_cached_key(Value::to_string);
                }
                if let Some(Value::Array(statements)) = fields.get_mut("expr") {
                    statements.retain(|statement| statement.get("counter").is_none());
                }
            }
        }
        Self(objects)
    }
}

impl Listing {
    /// Parses the contents of the listed table.
    pub(super) fn census(&self) -> Census {
        let mut census = Census::default();
        for object in &self.0 {
            census.count(object);
        }
        census
    }
}

impl Census {
    /// Returns the contents of the table after these commands.
    pub(super) fn of(commands: &Nftables<'_>) -> Result<Self, NatError> {
        let commands = serde_json::to_value(commands).map_err(NatError::NftOutput)?;
        let mut census = Self::default();
        for command in commands["nftables"].as_array().into_iter().flatten() {
            census.count(&command["add"]);
        }
        Ok(census)
    }

    fn count(&mut self, object: &Value) {
        for kind in ["chain", "rule", "set", "map"] {
            let Some(fields) = object.get(kind) else { continue };
            *self.kinds.entry(kind).or_default() += 1;
            // The kernel lists intervals as it splits them.
            if let (Some(elements), None) = (fields.get("elem").and_then(Value::as_array), fields.get("flags")) {
                let name = fields["name"].as_str().unwrap_or_default();
                self.elements.insert(name.to_owned(), elements.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn listings_are_compared_without_what_changes_by_itself() {
        let listing = |handle: u32, bytes: u32, elements: [&str; 2], version: &str| {
            let rule =
                json!({"family": "inet", "handle": handle, "expr": [{"counter": {"bytes": bytes}}, {"drop": null}]});
            Listing::new(vec![
                json!({"metainfo": {"version": version}}),
                json!({"set": {"name": "devices", "handle": handle, "elem": elements}}),
                json!({"rule": rule}),
            ])
        };
        assert_eq!(listing(1, 0, ["a", "b"], "1.0.6"), listing(2, 99, ["b", "a"], "1.1.0"));
        assert_ne!(listing(1, 0, ["a", "b"], "1.0.6"), listing(1, 0, ["a", "c"], "1.0.6"));
    }

    #[test]
    fn statements_of_one_word_are_objects() {
        let mut commands =
            json!({"nftables": [{"add": {"rule": {"expr": ["notrack", {"drop": null}]}}}, {"delete": {}}]});
        spell_out(&mut commands);
        let expected = json!([{"notrack": null}, {"drop": null}]);
        assert_eq!(commands.pointer("/nftables/0/add/rule/expr"), Some(&expected));
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version_in("nftables v1.0.6 (Lester Gooch #5)\n"), Some(("1.0.6", (1, 0, 6))));
        assert_eq!(version_in("nftables v1.1"), Some(("1.1", (1, 1, 0))));
        assert_eq!(version_in("busybox"), None);
        assert!((1, 0, 9) > NEEDED && (0, 9, 8) < NEEDED);
    }
}
