//! A kernel to boot: a Debian package, which is downloaded and unpacked but not installed, or an
//! existing file.

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
    /// The release, as in `uname -r`.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// The directory `lib/modules/RELEASE`, if it exists.
    pub modules: Option<PathBuf>,
}

/// A kernel that cannot be booted on this machine for reasons that are no failure of a test.
#[derive(Debug)]
pub struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for Unavailable {}

impl Kernel {
    /// Finds the kernel for a version like `6.1` or a path.
    pub fn get(requested: &str) -> Result<Self> {
        if env::consts::ARCH != "x86_64" {
            bail!(Unavailable(format!(
                "other kernels are booted only on x86_64, and this machine is {}",
                env::consts::ARCH
            )));
        }
        if requested.contains('/') || Path::new(requested).is_file() {
            return Self::at(Path::new(requested));
        }
        let directory = cargo::target_directory().join("kernels/debian").join(requested);
        if !directory.is_dir() {
            download(requested, &directory)?;
        }
        let boot = directory.join("boot");
        let images = fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))?;
        let image =
            images.flatten().map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("/vmlinuz-"));
        Self::at(&image.with_context(|| format!("no vmlinuz in {}", boot.display()))?)
    }

    /// Opens a kernel image. Its modules are beside it, as in a package, or in the directory of
    /// this machine.
    fn at(image: &Path) -> Result<Self> {
        let image = image.canonicalize().with_context(|| format!("no kernel at {}", image.display()))?;
        let bytes = fs::read(&image).with_context(|| format!("reading {}", image.display()))?;
        let release =
            release(&bytes).with_context(|| format!("{} is not a kernel image for x86 (bzImage)", image.display()))?;
        let beside = image.parent().and_then(Path::parent).map(|package| package.join("lib/modules"));
        let candidates = beside.into_iter().chain([PathBuf::from("/lib/modules")]);
        let modules = candidates
            .map(|directory| directory.join(&release))
            .find(|directory| directory.join("modules.dep").is_file());
        Ok(Self { release, image, modules })
    }
}

/// Returns the release in the header of a bzImage (Documentation/arch/x86/boot.rst:
/// `kernel_version`).
fn release(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
    let text = image.get(usize::from(offset) + 0x200..)?;
    let end = text.iter().position(|byte| matches!(byte, b' ' | 0))?;
    Some(String::from_utf8_lossy(&text[..end]).into_owned())
}

/// Unpacks the newest package of a kernel into `directory`, which is created only when it is
/// complete.
fn download(version: &str, directory: &Path) -> Result<()> {
    if !programs::exists("apt-get") || !programs::exists("dpkg-deb") {
        bail!(Unavailable(format!(
            "Linux {version} is a Debian package, but this machine has no apt-get and dpkg-deb (use --kernel PATH)"
        )));
    }
    let mut package = newest_package(version);
    if package.is_none() && programs::is_root() {
        // Without package lists apt knows no packages.
        let mut update = Command::new("apt-get");
        update.arg("update");
        progress::step("package lists", update, &cargo::target_directory().join("kernels/apt-get-update.log"))?;
        package = newest_package(version);
    }
    let Some(package) = package else {
        bail!(Unavailable(format!(
            "apt has no package of Linux {version} (run `sudo apt-get update`, or use --kernel PATH)"
        )));
    };

    let partial = directory.with_extension("partial");
    if partial.is_dir() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("creating {}", partial.display()))?;
    let log = |name: &str| cargo::target_directory().join("kernels").join(name).with_extension("log");
    let mut apt_get = Command::new("apt-get");
    apt_get.args(["download", &package]).current_dir(&partial);
    progress::step(&package, apt_get, &log("apt-get-download"))?;
    let downloaded = fs::read_dir(&partial)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let downloaded = downloaded.with_context(|| format!("`apt-get download {package}` created no package file"))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&downloaded).arg(&partial);
    progress::step(&format!("unpacking Linux {version}"), unpack, &log("dpkg-deb"))?;
    fs::remove_file(&downloaded)?;

    // Later releases of Debian have the modules in /usr.
    let (lib, usr_lib) = (partial.join("lib"), partial.join("usr/lib/modules"));
    if !lib.exists() && usr_lib.is_dir() {
        std::os::unix::fs::symlink("usr/lib", &lib)?;
    }
    let release =
        fs::read_dir(lib.join("modules"))?.flatten().next().context("the package has no modules")?.file_name();
    let mut depmod = Command::new(programs::find("depmod").context("depmod is not installed")?);
    depmod.arg("--basedir").arg(&partial).arg(release);
    progress::step(&format!("modules of Linux {version}"), depmod, &log("depmod"))?;
    fs::rename(&partial, directory).with_context(|| format!("renaming {}", partial.display()))
}

/// Returns the newest package of a kernel that apt knows.
fn newest_package(version: &str) -> Option<String> {
    let expression = format!("^linux-image-{}\\..*-cloud-amd64$", version.replace('.', "\\."));
    let printed = programs::output(Command::new("apt-cache").args(["search", "--names-only", &expression]))?;
    let names = printed.lines().filter_map(|line| line.split_whitespace().next());
    newest_of(names, version).map(str::to_owned)
}

/// Returns the newest of the names. Numbers are compared as numbers: 6.1.0-9 is older than
/// 6.1.0-10.
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
    fn newest_package_of_the_requested_kernel_is_chosen() {
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
    fn release_is_read_from_the_image() {
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
