//! Where `up` cannot work: one clear line, nothing left behind.

use std::{
    io::Error,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::Command,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, setgid, setgroups, setuid},
};
use tempfile::TempDir;

use crate::harness::{BINARY, Host, Surroundings, complaint, run};

/// Changes what the process to be started can do, between fork and exec.
fn with(mut command: Command, change: fn() -> Result<(), Error>) -> Command {
    // SAFETY: the changes below are system calls alone.
    unsafe { command.pre_exec(change) };
    command
}

#[track_caller]
fn refused(host: &Host, command: Command, names: &[&str]) {
    let before = Surroundings::of(host, &[]);
    let mut command = command;
    let line = complaint(1, &run(&mut command));
    for name in names {
        assert!(line.contains(name), "`{line}` does not name {name}");
    }
    assert_eq!(Surroundings::of(host, &[]), before);
    assert_eq!(host.daemon(), None);
    assert!(!host.run_directory().exists() && !host.state_directory().exists());
}

#[test]
fn without_root() {
    let host = Host::down();
    let (_directory, binary) = binary_for_everybody();
    for foreground in [&[][..], &["--foreground"]] {
        let mut command = host.netns.command(&binary);
        command.args(["--instance", host.instance(), "up"]).args(foreground);
        refused(&host, with(command, become_nobody), &["root"]);
    }
}

#[test]
fn somebody_else_may_not_use_the_socket_of_root() {
    let host = Host::up(&[]);
    let (_directory, binary) = binary_for_everybody();
    for arguments in [&["ps"][..], &["down"]] {
        let mut command = host.netns.command(&binary);
        command.args(["--instance", host.instance()]).args(arguments);
        let line = complaint(1, &run(&mut with(command, become_nobody)));
        assert!(line.to_lowercase().contains("permission"), "{line}");
    }
    assert!(host.daemon().is_some());
}

#[test]
fn without_btf() {
    let host = Host::down();
    for datapath in ["auto", "tc", "xdp"] {
        refused(
            &host,
            with(host.command(&["up", "--datapath", datapath]), hide_btf),
            &["BTF", "/sys/kernel/btf/vmlinux"],
        );
    }
    // Nothing stands in the way of the next.
    host.start(&[]);
}

#[test]
fn without_bpf() {
    let host = Host::down();
    for code in [libc::ENOSYS, libc::EPERM] {
        let denial: fn() -> Result<(), Error> =
            if code == libc::ENOSYS { || deny_bpf(libc::ENOSYS) } else { || deny_bpf(libc::EPERM) };
        refused(&host, with(host.command(&["up"]), denial), &["BPF"]);
    }
    host.start(&[]);
}

#[test]
fn with_a_file_in_place_of_the_run_directory() {
    let host = Host::down();
    std::fs::create_dir_all(host.run_directory().parent().unwrap()).unwrap();
    std::fs::write(host.run_directory(), "not a directory").unwrap();
    let line = host.fails(1, &["up"]);
    let path = host.run_directory();
    std::fs::remove_file(&path).unwrap();
    assert!(line.contains(&*path.to_string_lossy()), "{line}");
    assert!(!host.state_directory().exists());
    assert_eq!(host.netns.devices().len(), 1, "only lo");
}

/// A copy of the binary where anybody may execute it. Made by a process of its own: were the copy open for writing in
/// this one, a child that another test forks meanwhile would keep it so, and nobody could execute it.
fn binary_for_everybody() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let binary = directory.path().join("vswitch");
    let copied = run(Command::new("cp").arg(BINARY).arg(&binary));
    assert_eq!(copied.code, Some(0), "{copied:?}");
    (directory, binary)
}

fn become_nobody() -> Result<(), Error> {
    setgroups(&[])?;
    setgid(Gid::from_raw(65534))?;
    Ok(setuid(Uid::from_raw(65534))?)
}

/// A mount namespace in which the kernel's type information cannot be seen.
fn hide_btf() -> Result<(), Error> {
    let nothing: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    Ok(mount(Some("tmpfs"), "/sys/kernel/btf", Some("tmpfs"), MsFlags::empty(), nothing)?)
}

/// A kernel that answers bpf(2) with this error, to this process and its children.
fn deny_bpf(error: i32) -> Result<(), Error> {
    let load_number =
        libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 };
    let number = u32::try_from(libc::SYS_bpf).expect("system calls are few");
    let is_bpf =
        libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: 1, k: number };
    let answer = |k| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
    let mut program =
        [load_number, is_bpf, answer(libc::SECCOMP_RET_ERRNO | error.cast_unsigned()), answer(libc::SECCOMP_RET_ALLOW)];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the filter and its program live until the call returns; the kernel copies them.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}
