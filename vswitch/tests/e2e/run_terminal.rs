//! Commands that are run at a terminal have it as if they had been started directly.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use nix::pty::openpty;

use crate::harness::{BINARY, Host, eventually, settles};

const CTRL_C: &str = "\x03";
const CTRL_Z: &str = "\x1a";

/// A terminal with a session on it, as a user has one.
pub struct Terminal {
    keyboard: File,
    /// The end of the terminal that the session uses.
    line: OwnedFd,
    screen: Arc<Mutex<String>>,
    session: Child,
}

impl Terminal {
    /// Starts a program as the leader of a session on a new terminal.
    pub fn start(command: &mut Command) -> Self {
        let pty = openpty(None, None).expect("a terminal");
        let stdio = || pty.slave.try_clone().expect("a descriptor");
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        // SAFETY: only two system calls between fork and exec, on a descriptor that the child owns
        // by then.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        // Children of other tests must not inherit the descriptors.
        let flags = nix::fcntl::FdFlag::FD_CLOEXEC;
        for descriptor in [&pty.master, &pty.slave] {
            nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_SETFD(flags)).expect("a flag");
        }
        let session = command.spawn().expect("the program starts");
        // `command` keeps the terminal open until its descriptors are replaced.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (mut master, screen) = (File::from(pty.master), Arc::<Mutex<String>>::default());
        let (keyboard, shown) = (master.try_clone().expect("a descriptor"), screen.clone());
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            // The read fails when no process has the terminal open any more.
            while let Ok(read @ 1..) = master.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                *shown.lock().unwrap_or_else(PoisonError::into_inner) += &text;
            }
        });
        Self { keyboard, line: pty.slave, screen, session }
    }

    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the keys are written");
    }

    /// Waits until the screen shows this text. Returns the contents of the screen and clears it.
    #[track_caller]
    pub fn await_text(&self, text: &str) -> String {
        settles(&format!("the terminal shows {text}"), || {
            let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            if screen.contains(text) { Ok(std::mem::take(&mut *screen)) } else { Err(screen.clone()) }
        })
    }

    /// Sets the size of the window.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the argument has the type that the request takes, and the descriptor is open.
        let resized = unsafe { libc::ioctl(self.line.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(resized, 0, "{}", std::io::Error::last_os_error());
    }

    /// Reports whether the terminal reads whole lines, echoes input and generates signals, as a
    /// shell needs it.
    pub fn is_cooked(&self) -> bool {
        use nix::sys::termios::{LocalFlags, tcgetattr};
        let flags = tcgetattr(&self.line).expect("a terminal").local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Returns the process that leads the session.
    pub fn process(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.session.id().cast_signed())
    }

    /// Hangs up, as a modem does, or a terminal window that is closed.
    fn hang_up(&self) {
        // SAFETY: the request takes no argument, and the descriptor is open.
        let hung_up = unsafe { libc::ioctl(self.line.as_raw_fd(), libc::TIOCVHANGUP) };
        assert_eq!(hung_up, 0, "{}", std::io::Error::last_os_error());
    }

    /// Waits for the end of the session. Returns its exit status.
    #[track_caller]
    pub fn await_end(&mut self) -> Option<i32> {
        eventually("the session ends", || self.session.try_wait().expect("a child")).code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _gone = self.session.kill();
        let _reaped = self.session.wait();
    }
}

fn run(host: &Host, command: &[&str]) -> Terminal {
    Terminal::start(&mut host.command(&[&["run", "--"], command].concat()))
}

#[test]
fn a_command_reads_from_and_writes_to_the_terminal() {
    let host = Host::up(&[]);
    let mut terminal = run(&host, &["sh", "-c", "tty; read line; echo got $line; exit 4"]);
    terminal.await_text("/dev/pts/");
    terminal.type_keys("hello\n");
    terminal.await_text("got hello");
    assert_eq!(terminal.await_end(), Some(4));
    assert_eq!(host.ps(), []);
}

#[test]
fn an_interrupt_reaches_the_command_once() {
    let host = Host::up(&[]);
    let script = "trap 'count=x$count' INT; trap 'echo caught-$count; exit 9' USR1; echo rea''dy;
                  while :; do sleep 0.1; done";
    let mut terminal = run(&host, &["sh", "-c", script]);
    terminal.await_text("ready");
    terminal.type_keys(CTRL_C);
    terminal.await_text("^C");
    nix::sys::signal::kill(terminal.process(), nix::sys::signal::Signal::SIGUSR1).expect("the signal is sent");
    terminal.await_text("caught-x\r\n");
    assert_eq!(terminal.await_end(), Some(9));
    assert_eq!(host.ps(), []);
    let mut terminal = run(&host, &["sh", "-c", "echo rea''dy; exec sleep 10000"]);
    terminal.await_text("ready");
    terminal.type_keys(CTRL_C);
    assert_eq!(terminal.await_end(), Some(130));
    assert_eq!(host.ps(), []);
}

#[test]
fn a_shell_has_job_control() {
    let host = Host::up(&[]);
    let mut terminal = run(&host, &["bash", "--norc", "--noprofile", "-i"]);
    terminal.type_keys("sh -c 'echo star\"\"ted; exec sleep 10000'\n");
    terminal.await_text("started");
    terminal.type_keys(CTRL_Z);
    let screen = terminal.await_text("Stopped");
    assert!(!screen.contains("no job control"), "{screen}");
    terminal.type_keys("fg\n");
    terminal.await_text("fg\r\n");
    terminal.type_keys(CTRL_C);
    terminal.type_keys("echo co\"\"de $?; exit 5\n");
    terminal.await_text("code 130");
    assert_eq!(terminal.await_end(), Some(5));
    assert_eq!(host.ps(), []);
}

#[test]
fn run_is_a_job_of_the_shell_that_starts_it() {
    let host = Host::up(&[]);
    let mut shell = host.netns.command("bash");
    let mut terminal = Terminal::start(shell.args(["--norc", "--noprofile", "-i"]));
    let script = "sh -c 'echo star\"\"ted; exec sleep 10000'";
    terminal.type_keys(&format!("{BINARY} --instance {} run --name job -- {script}\n", host.instance()));
    terminal.await_text("started");
    terminal.type_keys(CTRL_Z);
    terminal.await_text("Stopped");
    assert_eq!(host.ps().len(), 1);
    terminal.type_keys("fg\n");
    terminal.await_text("fg\r\n");
    terminal.type_keys(CTRL_C);
    terminal.type_keys("echo co\"\"de $?; exit 5\n");
    terminal.await_text("code 130");
    assert_eq!(terminal.await_end(), Some(5));
    assert_eq!(host.ps(), []);
}

#[test]
fn a_terminal_that_hangs_up_ends_the_command() {
    let host = Host::up(&[]);
    let mut terminal = run(&host, &["sh", "-c", "echo rea''dy; exec sleep 10000"]);
    terminal.await_text("ready");
    assert_eq!(host.ps().len(), 1);
    terminal.hang_up();
    assert_eq!(terminal.await_end(), Some(129));
    assert_eq!(host.ps(), []);
}
