//! The shared libraries of a program, as the dynamic linker finds them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The libraries that a program is linked with, directly or not, and its dynamic linker.
pub fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let mut ldd = Command::new("ldd");
    // cargo puts directories of its own into this one for us.
    ldd.arg(program).env_remove("LD_LIBRARY_PATH").env("LC_ALL", "C");
    let output = ldd.output().context("running ldd")?;
    let (printed, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // ldd fails for scripts and static programs alike, in words that differ between C libraries and releases.
    if !output.status.success()
        && !["not a dynamic executable", "not a valid dynamic program"]
            .iter()
            .any(|words| format!("{printed}{complaint}").to_lowercase().contains(words))
    {
        bail!("ldd {}: {}", program.display(), complaint.trim());
    }
    parse(&printed).with_context(|| format!("the libraries of {}", program.display()))
}

/// Whether a program needs no library at all.
pub fn is_static(program: &Path) -> bool {
    of(program).is_ok_and(|libraries| libraries.is_empty())
}

fn parse(ldd: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in ldd.lines() {
        // `name => /path (0x..)`, `/path (0x..)` for the dynamic linker; `linux-vdso.so.1 (0x..)` is no file.
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
    fn libraries_are_read_off_ldd() {
        let printed = "\tlinux-vdso.so.1 (0x00007fff9a5f2000)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0000000000)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f1111111111)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(printed).expect("all are found"), expected);
        assert_eq!(parse("\tstatically linked\n").expect("none are needed"), Vec::<PathBuf>::new());
        assert_eq!(parse("\tnot a dynamic executable\n").expect("none are needed"), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_library_that_is_not_there_is_an_error() {
        let error = parse("\tlibnft.so.1 => not found\n").expect_err("it is not found");
        assert_eq!(error.to_string(), "libnft.so.1 => not found is not found");
    }

    #[test]
    fn a_program_of_ours_has_libraries() {
        let ourselves = std::env::current_exe().expect("we run");
        let libraries = of(&ourselves).expect("it is a program");
        assert!(libraries.iter().any(|library| library.to_string_lossy().contains("libc.")), "{libraries:?}");
        assert!(!is_static(&ourselves));
    }
}
