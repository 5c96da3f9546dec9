//! A container image made of programs of this machine and the libraries that they are linked with.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::command;

/// Packs programs and their libraries into a tar file in `directory`, at the same paths as on this
/// machine.
pub fn archive(directory: &Path, programs: &[&Path]) -> Result<PathBuf> {
    let root = directory.join("image");
    // iperf3 keeps its buffers in a file in /tmp.
    fs::create_dir_all(root.join("tmp"))?;
    let mut files = BTreeSet::new();
    for program in programs {
        let program = command::find_program(program.as_os_str())?;
        files.extend(libraries(&command::run(Command::new("ldd").arg(&program))?));
        files.insert(program);
    }
    for file in &files {
        let target = root.join(file.strip_prefix("/").unwrap_or(file));
        fs::create_dir_all(target.parent().unwrap_or(&root))?;
        fs::copy(file, &target).with_context(|| format!("copying {}", file.display()))?;
    }
    let archive = directory.join("image.tar");
    command::run(
        Command::new("tar").arg("--create").arg("--file").arg(&archive).arg("--directory").arg(&root).arg("."),
    )?;
    Ok(archive)
}

/// Returns the paths in the output of ldd: `name => /path (address)`, or only the path for the
/// loader. The vDSO of the kernel has no path.
fn libraries(ldd: &str) -> Vec<PathBuf> {
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    ldd.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_without_a_path_are_skipped() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibiperf.so.0 => /lib/x86_64-linux-gnu/libiperf.so.0 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries(ldd),
            ["/lib/x86_64-linux-gnu/libiperf.so.0", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
    }
}
