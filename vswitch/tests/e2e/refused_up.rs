//! `up` on unsuitable hosts: the refusal is one line, and nothing is left behind.

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

/// Runs `change` in the child process between fork and exec.
fn with_pre_exec(mut command: Command, change: fn() -> Result<(), Error>) -> Command {
    // SAFETY: the changes below only make system calls.
    unsafe { command.pre_exec(change) };
    command
}

#[track_caller]
fn assert_refused(host: &Host, command: Command, names: &[&str]) {
    let before = Surroundings::of(host, &[]);
    let mut command = command;
    let line = complaint(1, &run(&mut command));
    for name in names {
        assert!(line.contains(name), "`{line}` does not contain `{name}`");
    }
    assert_eq!(Surroundings::of(host, &[]), before);
    assert_eq!(host.daemon(), None);
    assert!(!host.run_directory().exists() && !host.state_directory().exists());
}

#[test]
fn up_needs_root() {
    let host = Host::down();
    let (_directory, binary) = binary_for_all_users();
    for foreground in [&[][..], &["--foreground"]] {
        let mut command = host.netns.command(&binary);
        command.args(["--instance", host.instance(), "up"]).args(foreground);
        assert_refused(&host, with_pre_exec(command, become_nobody), &["root"]);
    }
}

#[test]
fn other_users_cannot_use_the_socket_of_root() {
    let host = Host::up(&[]);
    let (_directory, binary) = binary_for_all_users();
    for arguments in [&["ps"][..], &["down"]] {
        let mut command = host.netns.command(&binary);
        command.args(["--instance", host.instance()]).args(arguments);
        let line = complaint(1, &run(&mut with_pre_exec(command, become_nobody)));
        assert!(line.to_lowercase().contains("permission"), "{line}");
    }
    assert!(host.daemon().is_some());
}

#[test]
fn up_needs_btf() {
    let host = Host::down();
    for datapath in ["auto", "tc", "xdp"] {
        assert_refused(
            &host,
            with_pre_exec(host.command(&["up", "--datapath", datapath]), hide_btf),
            &["BTF", "/sys/kernel/btf/vmlinux"],
        );
    }
    // Nothing is left behind that would prevent the next start.
    host.start(&[]);
}

#[test]
fn up_needs_bpf() {
    let host = Host::down();
    for code in [libc::ENOSYS, libc::EPERM] {
        let denial: fn() -> Result<(), Error> =
            if code == libc::ENOSYS { || deny_bpf(libc::ENOSYS) } else { || deny_bpf(libc::EPERM) };
        assert_refused(&host, with_pre_exec(host.command(&["up"]), denial), &["BPF"]);
    }
    host.start(&[]);
}

#[test]
fn up_is_refused_if_the_run_directory_is_a_file() {
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

/// Returns a copy of the binary that every user may execute, and the directory that holds it.
/// Another process makes the copy: if this process had the file open for writing, a child that
/// another test forks meanwhile would keep it open, and it could not be executed.
fn binary_for_all_users() -> (TempDir, PathBuf) {
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

/// Hides the kernel's type information in a mount namespace of the process.
fn hide_btf() -> Result<(), Error> {
    let nothing: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    Ok(mount(Some("tmpfs"), "/sys/kernel/btf", Some("tmpfs"), MsFlags::empty(), nothing)?)
}

/// Makes the kernel answer bpf(2) with this error for this process and its children.
fn deny_bpf(error: i32) -> Result<(), Error> {
    let load_number =
        libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 };
    let number = u32::try_from(libc::SYS_bpf).expect("system call numbers are small");
    let is_bpf =
        libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: 1, k: number };
    let answer = |k| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
    let mut program =
        [load_number, is_bpf, answer(libc::SECCOMP_RET_ERRNO | error.cast_unsigned()), answer(libc::SECCOMP_RET_ALLOW)];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: no pointers are passed.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the filter and its program live until the call returns, and the kernel copies them.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}
