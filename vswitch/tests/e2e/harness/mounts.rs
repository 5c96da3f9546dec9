//! A mount namespace in which a file is another one, for daemons that read what the machine's own file says.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::Command,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use super::unique;

/// A mount namespace that lives as long as this value. What is mounted outside of it is mounted in it, too, but not the
/// other way round.
pub struct PrivateMounts {
    namespace: File,
    file: PathBuf,
}

impl PrivateMounts {
    /// One in which `path` has this text.
    pub fn with(path: &'static str, text: &str) -> Self {
        let file = std::env::temp_dir().join(unique("file"));
        fs::write(&file, text).expect("a file of our own");
        let source = file.clone();
        let thread = thread::spawn(move || {
            let nothing = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS).expect("root may");
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing).expect("no way back");
            mount(Some(&source), path, nothing, MsFlags::MS_BIND, nothing).expect("a file over a file");
            File::open("/proc/thread-self/ns/mnt").expect("a namespace")
        });
        Self { namespace: thread.join().expect("it is made"), file }
    }

    /// Writes the file anew, in place.
    pub fn write(&self, text: &str) {
        fs::write(&self.file, text).expect("a file of our own");
    }

    /// Has a command run inside.
    pub fn enter(&self, command: &mut Command) {
        let namespace = self.namespace.try_clone().expect("a descriptor");
        // SAFETY: between fork and exec, setns on a descriptor that the closure owns is one system call.
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
