//! A kernel to boot: one of Debian's packages, downloaded and unpacked but not installed, or a file that is there.

use std::{
    env,
    error::Error,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, programs, progress};

/// A kernel and its modules.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// `lib/modules/RELEASE`, if it has any.
    pub modules: Option<PathBuf>,
}

/// A kernel that cannot be booted on this machine, through nobody's fault.
#[derive(Debug)]
pub struct NotToBeHad(String);

impl fmt::Display for NotToBeHad {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for NotToBeHad {}

impl Kernel {
    /// Finds the one that `6.1` or a path names.
    pub fn get(asked: &str) -> Result<Self> {
        if env::consts::ARCH != "x86_64" {
            bail!(NotToBeHad(format!(
                "other kernels are booted on x86_64 machines only, and this one is {}",
                env::consts::ARCH
            )));
        }
        if asked.contains('/') || Path::new(asked).is_file() {
            return Self::at(Path::new(asked));
        }
        let directory = cargo::target_directory().join("kernels/debian").join(asked);
        if !directory.is_dir() {
            download(asked, &directory)?;
        }
        let boot = directory.join("boot");
        let images = fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))?;
        let image =
            images.flatten().map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("/vmlinuz-"));
        Self::at(&image.with_context(|| format!("no vmlinuz in {}", boot.display()))?)
    }

    /// The modules are those beside it, as in a package, or else those of this machine.
    fn at(image: &Path) -> Result<Self> {
        let image = image.canonicalize().with_context(|| format!("no kernel at {}", image.display()))?;
        let bytes = fs::read(&image).with_context(|| format!("reading {}", image.display()))?;
        let release = release(&bytes)
            .with_context(|| format!("{} is no kernel image of the kind that x86 boots (bzImage)", image.display()))?;
        let beside = image.parent().and_then(Path::parent).map(|package| package.join("lib/modules"));
        let candidates = beside.into_iter().chain([PathBuf::from("/lib/modules")]);
        let modules = candidates
            .map(|directory| directory.join(&release))
            .find(|directory| directory.join("modules.dep").is_file());
        Ok(Self { release, image, modules })
    }
}

/// The release that a bzImage says it is (Documentation/arch/x86/boot.rst: `kernel_version`).
fn release(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
    let text = image.get(usize::from(offset) + 0x200..)?;
    let end = text.iter().position(|byte| matches!(byte, b' ' | 0))?;
    Some(String::from_utf8_lossy(&text[..end]).into_owned())
}

/// Unpacks the newest package of a kernel into a directory, which is there only once it is complete.
fn download(version: &str, directory: &Path) -> Result<()> {
    if !programs::exists("apt-get") || !programs::exists("dpkg-deb") {
        bail!(NotToBeHad(format!(
            "Linux {version} comes as a package of Debian's, and this is no Debian (say --kernel PATH)"
        )));
    }
    let mut package = newest(version);
    if package.is_none() && programs::is_root() {
        // Where nobody has asked for the lists yet, nothing is known.
        let mut update = Command::new("apt-get");
        update.arg("update");
        progress::step("package lists", update, &cargo::target_directory().join("kernels/apt-get-update.log"))?;
        package = newest(version);
    }
    let Some(package) = package else {
        bail!(NotToBeHad(format!(
            "apt knows no package of Linux {version} (`sudo apt-get update`, or say --kernel PATH)"
        )));
    };

    let partial = directory.with_extension("partial");
    if partial.is_dir() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("making {}", partial.display()))?;
    let log = |name: &str| cargo::target_directory().join("kernels").join(name).with_extension("log");
    let mut apt_get = Command::new("apt-get");
    apt_get.args(["download", &package]).current_dir(&partial);
    progress::step(&package, apt_get, &log("apt-get-download"))?;
    let downloaded = fs::read_dir(&partial)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let downloaded = downloaded.with_context(|| format!("`apt-get download {package}` left no package behind"))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&downloaded).arg(&partial);
    progress::step(&format!("unpacking Linux {version}"), unpack, &log("dpkg-deb"))?;
    fs::remove_file(&downloaded)?;

    // Later releases of Debian have them in /usr.
    let (lib, usr_lib) = (partial.join("lib"), partial.join("usr/lib/modules"));
    if !lib.exists() && usr_lib.is_dir() {
        std::os::unix::fs::symlink("usr/lib", &lib)?;
    }
    let release =
        fs::read_dir(lib.join("modules"))?.flatten().next().context("the package has no modules")?.file_name();
    let mut depmod = Command::new(programs::find("depmod").context("depmod is not there")?);
    depmod.arg("--basedir").arg(&partial).arg(release);
    progress::step(&format!("modules of Linux {version}"), depmod, &log("depmod"))?;
    fs::rename(&partial, directory).with_context(|| format!("moving {} to its place", partial.display()))
}

/// The newest package of a kernel that apt knows.
fn newest(version: &str) -> Option<String> {
    let expression = format!("^linux-image-{}\\..*-cloud-amd64$", version.replace('.', "\\."));
    let printed = programs::output(Command::new("apt-cache").args(["search", "--names-only", &expression]))?;
    let names = printed.lines().filter_map(|line| line.split_whitespace().next());
    newest_of(names, version).map(str::to_owned)
}

/// Numbers in the name are compared as numbers: 6.1.0-9 is older than 6.1.0-10.
fn newest_of<'a>(names: impl Iterator<Item = &'a str>, version: &str) -> Option<&'a str> {
    let numbers = |name: &str| -> Option<Vec<u32>> {
        let release = name.strip_prefix("linux-image-")?.strip_suffix("-cloud-amd64")?;
        release.strip_prefix(version)?.strip_prefix('.')?;
        Some(
            release
                .split(|character: char| !character.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect(),
        )
    };
    names.filter_map(|name| Some((numbers(name)?, name))).max().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_of_the_right_kernel_is_taken() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-cloud-amd64-unsigned",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.99+deb12-cloud-amd64",
            "linux-image-6.12.118+deb12-amd64",
        ];
        assert_eq!(newest_of(names.into_iter(), "6.1"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest_of(names.into_iter(), "6.12"), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest_of(names.into_iter(), "6.6"), None);
    }

    #[test]
    fn an_image_says_its_release() {
        let mut image = vec![0; 0x1000];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        let text = b"6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP\0";
        image[0x500..0x500 + text.len()].copy_from_slice(text);
        assert_eq!(release(&image).as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(release(&image[..0x400]), None);
        assert_eq!(release(b"\x7fELF"), None);
    }
}
