//! The initramfs, an archive in the "newc" format of cpio
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// The entries of the archive by path. The order of paths places a directory before its contents,
/// as the kernel requires.
#[derive(Default)]
pub struct Archive {
    entries: BTreeMap<PathBuf, Entry>,
}

enum Entry {
    Directory,
    Symlink(String),
    CharacterDevice {
        major: u32,
        minor: u32,
    },
    Text {
        contents: String,
        mode: u32,
    },
    /// The file is read when the archive is written.
    Copy(PathBuf),
}

impl Archive {
    /// Adds an empty directory.
    pub fn directory(&mut self, path: impl AsRef<Path>) {
        self.insert(path.as_ref(), Entry::Directory);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: impl AsRef<Path>, to: &str) {
        self.insert(path.as_ref(), Entry::Symlink(to.to_owned()));
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: impl AsRef<Path>, major: u32, minor: u32) {
        self.insert(path.as_ref(), Entry::CharacterDevice { major, minor });
    }

    /// Adds a file with these contents.
    pub fn text(&mut self, path: impl AsRef<Path>, contents: impl Into<String>, mode: u32) {
        self.insert(path.as_ref(), Entry::Text { contents: contents.into(), mode });
    }

    /// Adds a copy of a file of this machine.
    pub fn copy(&mut self, path: impl AsRef<Path>, source: impl Into<PathBuf>) {
        self.insert(path.as_ref(), Entry::Copy(source.into()));
    }

    /// Returns whether the archive has an entry at `path`.
    pub fn contains(&self, path: impl AsRef<Path>) -> bool {
        self.entries.contains_key(&in_usr(path.as_ref()))
    }

    fn insert(&mut self, path: &Path, entry: Entry) {
        let path = in_usr(path);
        for parent in path.ancestors().skip(1).filter(|parent| parent.parent().is_some()) {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory);
        }
        self.entries.insert(path, entry);
    }

    /// Writes the archive to a file.
    pub fn write(&self, file: &Path) -> Result<()> {
        let write = || {
            let mut to = BufWriter::new(File::create(file)?);
            self.write_to(&mut to)?;
            Ok::<_, anyhow::Error>(to.flush()?)
        };
        write().with_context(|| format!("writing {}", file.display()))
    }

    fn write_to(&self, to: &mut impl Write) -> Result<()> {
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let name = path.strip_prefix("/").unwrap_or(path).to_str().context("a path is not valid UTF-8")?;
            let mut header = Header { number, name, mode: 0, size: 0, device: (0, 0) };
            match entry {
                Entry::Directory => header.mode = DIRECTORY | 0o755,
                Entry::CharacterDevice { major, minor } => {
                    (header.mode, header.device) = (CHARACTER_DEVICE | 0o600, (*major, *minor));
                }
                Entry::Symlink(target) => (header.mode, header.size) = (SYMLINK | 0o777, target.len() as u64),
                Entry::Text { contents, mode } => (header.mode, header.size) = (REGULAR | mode, contents.len() as u64),
                Entry::Copy(source) => {
                    let metadata = fs::metadata(source).with_context(|| format!("reading {}", source.display()))?;
                    (header.mode, header.size) = (REGULAR | (metadata.permissions().mode() & 0o777), metadata.len());
                }
            }
            header.write_to(to)?;
            match entry {
                Entry::Directory | Entry::CharacterDevice { .. } => {}
                Entry::Symlink(text) | Entry::Text { contents: text, .. } => to.write_all(text.as_bytes())?,
                Entry::Copy(source) => {
                    let copied = File::open(source).and_then(|mut source| io::copy(&mut source, to));
                    let copied = copied.with_context(|| format!("copying {}", source.display()))?;
                    anyhow::ensure!(copied == header.size, "{} changed while it was copied", source.display());
                }
            }
            pad(to, header.size)?;
        }
        Header { number: 0, name: "TRAILER!!!", mode: 0, size: 0, device: (0, 0) }.write_to(to)
    }
}

/// Returns the path in the archive for a path of this machine. In the archive, as in current
/// distributions, /bin, /sbin and /lib* are links into /usr. On this machine they may be
/// directories.
fn in_usr(path: &Path) -> PathBuf {
    let rest = path.strip_prefix("/").unwrap_or(path);
    let mut components = rest.components();
    let first = components.next().and_then(|component| component.as_os_str().to_str()).unwrap_or_default();
    // The links themselves are not moved.
    let inside = components.next().is_some();
    let merged = inside && matches!(first, "bin" | "sbin" | "lib" | "lib32" | "lib64" | "libx32");
    Path::new(if merged { "/usr" } else { "/" }).join(rest)
}

/// The header of an entry.
struct Header<'a> {
    number: u32,
    name: &'a str,
    mode: u32,
    size: u64,
    device: (u32, u32),
}

impl Header<'_> {
    fn write_to(&self, to: &mut impl Write) -> Result<()> {
        let size =
            u32::try_from(self.size).with_context(|| format!("{} is too large for a cpio archive", self.name))?;
        let name_size = u32::try_from(self.name.len() + 1).context("a name is too long")?;
        let (links, zero) = (1, 0);
        let fields = [
            self.number,
            self.mode,
            zero, // owner
            zero, // group
            links,
            zero, // time
            size,
            zero, // device of the file system
            zero,
            self.device.0,
            self.device.1,
            name_size,
            zero, // checksum
        ];
        write!(to, "070701")?;
        for field in fields {
            write!(to, "{field:08x}")?;
        }
        write!(to, "{}\0", self.name)?;
        pad(to, 110 + u64::from(name_size))
    }
}

/// Pads names and contents to a multiple of four bytes.
fn pad(to: &mut impl Write, length: u64) -> Result<()> {
    let padding = length.next_multiple_of(4) - length;
    Ok(to.write_all(&[0; 3][..usize::try_from(padding)?])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(archive: &Archive) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.write_to(&mut bytes).expect("writing to a Vec");
        bytes
    }

    #[test]
    fn empty_archive_has_only_a_trailer() {
        let expected = format!(
            "070701{}{:08x}{}{:08x}{:08x}TRAILER!!!\0\0\0\0",
            "00000000".repeat(4),
            1,
            "00000000".repeat(6),
            11,
            0
        );
        assert_eq!(String::from_utf8(bytes(&Archive::default())).expect("ASCII"), expected);
    }

    #[test]
    fn directories_precede_their_contents() {
        let mut archive = Archive::default();
        archive.text("/a/b/c", "hello", 0o755);
        archive.symlink("/a-link", "a");
        let paths: Vec<_> = archive.entries.keys().map(|path| path.to_str().expect("UTF-8")).collect();
        assert_eq!(paths, ["/a", "/a/b", "/a/b/c", "/a-link"]);
        assert!(archive.contains("/a/b") && !archive.contains("/a/d"));
    }

    #[test]
    fn each_entry_starts_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        for (name, contents) in [("/a", ""), ("/bb", "1"), ("/ccc", "22"), ("/dddd", "333"), ("/eeeee", "4444")] {
            archive.text(name, contents, 0o644);
        }
        let bytes = bytes(&archive);
        let starts: Vec<_> =
            bytes.windows(6).enumerate().filter(|(_, window)| window == b"070701").map(|(start, _)| start).collect();
        assert_eq!(starts.len(), 6);
        assert!(starts.iter().all(|start| start % 4 == 0), "{starts:?}");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn system_directories_are_moved_into_usr() {
        let cases = [
            ("/bin/sh", "/usr/bin/sh"),
            ("/lib64/ld-linux-x86-64.so.2", "/usr/lib64/ld-linux-x86-64.so.2"),
            ("/usr/bin/env", "/usr/bin/env"),
            ("/bin", "/bin"),
            ("/library/x", "/library/x"),
            ("/root/lib/x", "/root/lib/x"),
        ];
        for (path, expected) in cases {
            assert_eq!(in_usr(Path::new(path)), Path::new(expected));
        }
    }
}
