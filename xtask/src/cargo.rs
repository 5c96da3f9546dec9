//! This workspace, and the calls of cargo that several verbs share.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{programs, progress};

/// The packages for this machine. vswitch/build.rs builds vswitch-ebpf for the BPF target. All calls
/// use this selection, so that they share their build results.
pub const HOST_PACKAGES: [&str; 3] = ["--workspace", "--exclude", "vswitch-ebpf"];

/// Returns the top folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the workspace")
}

/// Returns the folder for build results, downloads and logs.
pub fn target_directory() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Returns a call of cargo, with the toolchain of this process, in the top folder.
pub fn cargo(verb: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg(verb).current_dir(root());
    command
}

/// Builds the benchmark and vswitch in release mode. Returns the path of `vswitch-bench`.
pub fn build_release() -> Result<PathBuf> {
    programs::run(cargo("build").args(["--release", "--package", "vswitch", "--package", "vswitch-bench"]))?;
    Ok(target_directory().join("release/vswitch-bench"))
}

/// Builds vswitch and the part of the benchmark that the demo needs, quickly. Returns the path of
/// `vswitch-bench`.
pub fn build_demo() -> Result<PathBuf> {
    let mut build = cargo("build");
    build.args(["--profile", "demo", "--no-default-features", "--package", "vswitch", "--package", "vswitch-bench"]);
    progress::step("building vswitch", build, &target_directory().join("demo-build.log"))?;
    Ok(target_directory().join("demo/vswitch-bench"))
}

/// The built end-to-end tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EndToEnd {
    /// Name and path of each test binary of package vswitch.
    pub tests: Vec<(String, PathBuf)>,
    /// `vswitch` itself, at the path that was compiled into the tests.
    pub vswitch: PathBuf,
}

/// Builds the end-to-end tests.
pub fn build_end_to_end() -> Result<EndToEnd> {
    let mut command = cargo("test");
    command.args(HOST_PACKAGES).args(["--no-run", "--test", "*", "--message-format=json-render-diagnostics"]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running `{}`", programs::words(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", programs::words(&command), output.status);
    }
    end_to_end(&String::from_utf8_lossy(&output.stdout), &root().join("vswitch/Cargo.toml"))
}

/// Parses the messages of cargo, one JSON document per line.
fn end_to_end(messages: &str, manifest: &Path) -> Result<EndToEnd> {
    let mut found = EndToEnd::default();
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(executable) = message["executable"].as_str().map(PathBuf::from) else { continue };
        if message["manifest_path"].as_str().map(Path::new) != Some(manifest) {
            continue;
        }
        let target = &message["target"];
        let name = target["name"].as_str().unwrap_or_default().to_owned();
        match target["kind"][0].as_str() {
            Some("test") => found.tests.push((name, executable)),
            Some("bin") if message["profile"]["test"] == false => found.vswitch = executable,
            _ => {}
        }
    }
    found.tests.sort();
    if found.tests.is_empty() || found.vswitch.as_os_str().is_empty() {
        bail!("cargo built no end-to-end tests of package vswitch, or no vswitch: {found:?}");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(package: &str, kind: &str, name: &str, test: bool, executable: Option<&str>) -> String {
        let message = serde_json::json!({
            "reason": "compiler-artifact",
            "manifest_path": format!("/w/{package}/Cargo.toml"),
            "target": { "kind": [kind], "name": name },
            "profile": { "test": test },
            "executable": executable,
        });
        format!("{message}\n")
    }

    #[test]
    fn the_end_to_end_tests_are_told_from_all_else_that_cargo_builds() {
        let messages = [
            message("vswitch", "lib", "vswitch", false, None),
            message("vswitch", "bin", "vswitch", false, Some("/w/target/debug/vswitch")),
            message("vswitch", "bin", "vswitch", true, Some("/w/target/debug/deps/vswitch-1")),
            message("vswitch", "test", "parity", true, Some("/w/target/debug/deps/parity-1")),
            message("vswitch", "test", "e2e", true, Some("/w/target/debug/deps/e2e-1")),
            message("bench", "test", "other", true, Some("/w/target/debug/deps/other-1")),
            "{\"reason\":\"build-finished\",\"success\":true}\nnot JSON\n".to_owned(),
        ];
        let found = end_to_end(&messages.concat(), Path::new("/w/vswitch/Cargo.toml")).expect("they are all there");
        let tests = [("e2e", "/w/target/debug/deps/e2e-1"), ("parity", "/w/target/debug/deps/parity-1")];
        assert_eq!(found.tests, tests.map(|(name, path)| (name.to_owned(), path.into())));
        assert_eq!(found.vswitch, Path::new("/w/target/debug/vswitch"));
    }

    #[test]
    fn no_tests_are_an_error() {
        assert!(end_to_end("", Path::new("/w/vswitch/Cargo.toml")).is_err());
    }
}
