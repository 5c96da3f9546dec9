//! Builds the eBPF object with the nightly toolchain and bpf-linker, to be embedded in the library.

use std::env;
use std::path::Path;

use anyhow::{Context as _, bail};
use aya_build::Toolchain;

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed=PATH");
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|directory| directory.join("bpf-linker").is_file()) {
        bail!("bpf-linker is not in PATH, and the eBPF programs cannot be built without it (run `cargo xtask setup`)");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vswitch-ebpf");
    let root_dir = root.to_str().context("the path of vswitch-ebpf is not UTF-8")?;
    println!("cargo:rerun-if-changed={}", root.join("../vswitch-common/src").display());
    let package = aya_build::Package { name: "vswitch-ebpf", root_dir, ..Default::default() };
    aya_build::build_ebpf([package], Toolchain::default())
}
