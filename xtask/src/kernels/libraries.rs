//! The shared libraries of a program, as found by the dynamic linker.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Returns the libraries that a program is linked with, directly or indirectly, and its dynamic
/// linker.
pub fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let mut ldd = Command::new("ldd");
    // cargo adds its own directories to LD_LIBRARY_PATH.
    ldd.arg(program).env_remove("LD_LIBRARY_PATH").env("LC_ALL", "C");
    let output = ldd.output().context("running ldd")?;
    let (printed, message) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // ldd fails for scripts and static programs. Its message differs between C libraries and
    // releases.
    if !output.status.success()
        && !["not a dynamic executable", "not a valid dynamic program"]
            .iter()
            .any(|message_part| format!("{printed}{message}").to_lowercase().contains(message_part))
    {
        bail!("ldd {}: {}", program.display(), message.trim());
    }
    parse(&printed).with_context(|| format!("the libraries of {}", program.display()))
}

/// Returns whether a program needs no shared library.
pub fn is_static(program: &Path) -> bool {
    of(program).is_ok_and(|libraries| libraries.is_empty())
}

fn parse(ldd: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in ldd.lines() {
        // Lines are `name => /path (0x..)`, or `/path (0x..)` for the dynamic linker.
        // `linux-vdso.so.1 (0x..)` is not a file.
        let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
        if path.starts_with("not found") {
            bail!("{} is not found", line.trim());
        }
        if let Some(path) = path.split_whitespace().next().filter(|path| path.starts_with('/')) {
            libraries.push(path.into());
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_parsed_from_ldd() {
        let printed = "\tlinux-vdso.so.1 (0x00007fff9a5f2000)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0000000000)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f1111111111)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(printed).expect("all libraries are found"), expected);
        assert_eq!(parse("\tstatically linked\n").expect("no library is needed"), Vec::<PathBuf>::new());
        assert_eq!(parse("\tnot a dynamic executable\n").expect("no library is needed"), Vec::<PathBuf>::new());
    }

    #[test]
    fn missing_library_is_an_error() {
        let error = parse("\tlibnft.so.1 => not found\n").expect_err("a missing library");
        assert_eq!(error.to_string(), "libnft.so.1 => not found is not found");
    }

    #[test]
    fn test_binary_has_libraries() {
        let program = std::env::current_exe().expect("the path of this program");
        let libraries = of(&program).expect("its libraries");
        assert!(libraries.iter().any(|library| library.to_string_lossy().contains("libc.")), "{libraries:?}");
        assert!(!is_static(&program));
    }
}
