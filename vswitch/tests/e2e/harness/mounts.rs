//! A mount namespace in which one file is replaced, for daemons that read a file of the machine.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::Command,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::unique;

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
