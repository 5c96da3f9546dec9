//! The program `nft`, spoken to in JSON. The `nftables` crate has the words; running the program is ours, because the
//! crate loses what it says on stderr.

use std::collections::BTreeMap;
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use nftables::schema::Nftables;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::OutsideError;

/// Standard input as a file. By `-`, nft opens /dev/stdin, which small systems do not have.
const STDIN: &str = "/proc/self/fd/0";

/// The oldest that this is tested with; Debian 12 has it.
const NEEDED: (u32, u32, u32) = (1, 0, 6);
const NEEDED_TEXT: &str = "1.0.6";

/// Long enough for a ruleset of a hundred thousand lines on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A table as the kernel has it: the objects in it, without what is another each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing(Vec<Value>);

/// How many objects a table has of each kind, and elements in those sets and maps that hold single values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    kinds: BTreeMap<&'static str, usize>,
    elements: BTreeMap<String, usize>,
}

/// Carries commands out, all or none.
pub(super) async fn carry_out(commands: &Nftables<'_>, action: &'static str) -> Result<(), OutsideError> {
    let mut commands = serde_json::to_value(commands).map_err(OutsideError::NftOutput)?;
    spell_out(&mut commands);
    let commands = serde_json::to_vec(&commands).map_err(OutsideError::NftOutput)?;
    succeeded(run("nft", &["-j", "-f", STDIN], &commands).await?, action).await.map(drop)
}

/// A statement that says no more than its name is an object all the same to nft ("Unexpected expr array element of type
/// string"), and a bare word to the crate.
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

/// What is in a table, if it is there.
pub(super) async fn list(table: &str) -> Result<Option<Listing>, OutsideError> {
    let output = run("nft", &["-j", "list", "table", "inet", table], &[]).await?;
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("No such file or directory") {
        return Ok(None);
    }
    objects(output, "list our table").await.map(|objects| Some(Listing::new(objects)))
}

/// All chains, without their rules.
pub(super) async fn chains() -> Result<Vec<Value>, OutsideError> {
    objects(run("nft", &["-j", "list", "chains"], &[]).await?, "list the chains").await
}

/// Runs a program in the namespace of the daemon, with this on its input.
pub(super) async fn run(program: &str, arguments: &[&str], input: &[u8]) -> Result<Output, OutsideError> {
    let failed = |source: io::Error| OutsideError::Program { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound if program == "nft" => OutsideError::NftMissing,
        _ => failed(source),
    })?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that fails early does not read to the end; it says why on its other pipe.
            let _broken_off = stdin.write_all(input).await;
        }
    };
    // At the same time: it may say something before it has read everything.
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(PATIENCE, both).await;
    output.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)
}

async fn objects(output: Output, action: &'static str) -> Result<Vec<Value>, OutsideError> {
    let printed = succeeded(output, action).await?;
    let mut document: Value = serde_json::from_slice(&printed).map_err(OutsideError::NftOutput)?;
    match document["nftables"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// What it printed; or why it failed, in its own words.
async fn succeeded(output: Output, action: &'static str) -> Result<Vec<u8>, OutsideError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = complaint(&output);
    if complaint.contains("JSON support not compiled-in") {
        return Err(OutsideError::NftWithoutJson);
    }
    let version = run("nft", &["--version"], &[]).await?;
    let version = String::from_utf8_lossy(&version.stdout);
    Err(match version_in(&version) {
        Some((text, number)) if number < NEEDED => {
            OutsideError::NftTooOld { version: text.to_owned(), needed: NEEDED_TEXT, complaint }
        }
        _ => OutsideError::NftRefused { action, complaint },
    })
}

/// What a program said about its failure, in one line. Its first error is the cause; nft repeats the command below it.
pub(super) fn complaint(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().map(str::trim).find(|line| line.contains("rror") || !line.is_empty());
    line.map_or_else(|| output.status.to_string(), str::to_owned)
}

/// The version in `nftables v1.0.6 (Lester Gooch #5)`.
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
            // Each is a map of one: what it is, and what it says.
            let fields = object.as_object_mut().into_iter().flat_map(|kind| kind.values_mut());
            for fields in fields.filter_map(Value::as_object_mut) {
                fields.remove("handle");
                // The kernel lists what a set holds in the order of its hash.
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
    /// What is in it.
    pub(super) fn census(&self) -> Census {
        let mut census = Census::default();
        for object in &self.0 {
            census.count(object);
        }
        census
    }
}

impl Census {
    /// What the commands leave in the table that they make.
    pub(super) fn of(commands: &Nftables<'_>) -> Result<Self, OutsideError> {
        let commands = serde_json::to_value(commands).map_err(OutsideError::NftOutput)?;
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
            // Intervals are listed as the kernel cuts them.
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
