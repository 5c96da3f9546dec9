//! A mount namespace in which files of the machine are replaced, for daemons that read or write
//! them.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::unique;

/// The directories of /run that a machine of its own has, too.
const SHARED: [&str; 2] = ["netns", "vswitch"];

/// A mount namespace that lives as long as this value. Mounts made outside appear inside, but not
/// the other way round.
pub struct PrivateMounts {
    namespace: File,
    file: PathBuf,
}

impl PrivateMounts {
    /// Creates a mount namespace in which the file `path` contains `text`.
    pub fn with(path: &'static str, text: &str) -> Self {
        let file = std::env::temp_dir().join(unique("file"));
        fs::write(&file, text).expect("a file of our own");
        let source = file.clone();
        let thread = thread::spawn(move || {
            let nothing = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS).expect("unsharing the mount namespace");
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)
                .expect("making the mounts slaves");
            mount(Some(&source), path, nothing, MsFlags::MS_BIND, nothing).expect("bind-mounting the file");
            File::open("/proc/thread-self/ns/mnt").expect("a namespace")
        });
        Self { namespace: thread.join().expect("the thread ends"), file }
    }

    /// Creates a mount namespace without the file systems of this type.
    pub fn without(file_system: &'static str) -> Self {
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("unsharing the mount namespace");
            let nothing = None::<&str>;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)
                .expect("making the mounts slaves");
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("procfs");
            let of_type = mounts.lines().filter(|line| line.contains(&format!(" - {file_system} ")));
            for point in of_type.filter_map(|line| line.split(' ').nth(4)) {
                umount2(point, MntFlags::MNT_DETACH).expect("unmounting it here");
            }
            File::open("/proc/thread-self/ns/mnt").expect("a namespace")
        });
        Self { namespace: thread.join().expect("the thread ends"), file: std::env::temp_dir().join(unique("none")) }
    }

    /// Creates a mount namespace with a /run of its own, which has the machine's named namespaces and
    /// the files of instances, and with copies of these directories. Copies are in `directory`.
    pub fn of_a_machine(directory: &Path, copied: &[&'static str]) -> Self {
        for shared in SHARED {
            fs::create_dir_all(Path::new("/run").join(shared)).expect("a directory of the product");
        }
        let run = directory.join("run");
        fs::create_dir(&run).expect("a directory of our own");
        let mut copies = Vec::new();
        for original in copied.iter().copied().filter(|original| Path::new(original).is_dir()) {
            let copy = directory.join(original.trim_start_matches('/').replace('/', "-"));
            super::command::ok(Command::new("cp").args(["-a", original]).arg(&copy));
            copies.push((copy, original));
        }
        let thread = thread::spawn(move || {
            let nothing = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS).expect("unsharing the mount namespace");
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)
                .expect("making the mounts slaves");
            mount(Some("tmpfs"), &run, Some("tmpfs"), MsFlags::empty(), nothing).expect("mounting a tmpfs");
            for own in ["dbus", "lock"] {
                fs::create_dir(run.join(own)).expect("a directory of our own");
            }
            for shared in SHARED {
                let (original, here) = (Path::new("/run").join(shared), run.join(shared));
                fs::create_dir(&here).expect("a directory of our own");
                mount(Some(&original), &here, nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing)
                    .expect("bind-mounting a directory");
            }
            mount(Some(&run), "/run", nothing, MsFlags::MS_MOVE, nothing).expect("moving the tmpfs");
            for (copy, original) in &copies {
                mount(Some(copy), *original, nothing, MsFlags::MS_BIND, nothing).expect("bind-mounting a copy");
            }
            File::open("/proc/thread-self/ns/mnt").expect("a namespace")
        });
        Self { namespace: thread.join().expect("the thread ends"), file: directory.join("none") }
    }

    /// Overwrites the file in place.
    pub fn write(&self, text: &str) {
        fs::write(&self.file, text).expect("a file of our own");
    }

    /// Makes a command run in this mount namespace.
    pub fn enter(&self, command: &mut Command) {
        let namespace = self.namespace.try_clone().expect("a descriptor");
        // SAFETY: between fork and exec, the closure makes one system call, setns on a descriptor
        // that it owns.
        unsafe {
            command.pre_exec(move || setns(&namespace, CloneFlags::CLONE_NEWNS).map_err(Into::into));
        }
    }
}

impl Drop for PrivateMounts {
    fn drop(&mut self) {
        let _removed = fs::remove_file(&self.file);
    }
}
