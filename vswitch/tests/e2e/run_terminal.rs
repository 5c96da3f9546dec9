//! Commands that are run at a terminal: it is theirs as if they had been started alone.

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

/// A terminal with a session on it, as a person has one.
pub struct Terminal {
    keyboard: File,
    /// The end that the session has.
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
        // SAFETY: two system calls between fork and exec, on a descriptor that is the child's by then.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        // No other test's child may hold it.
        let flags = nix::fcntl::FdFlag::FD_CLOEXEC;
        for descriptor in [&pty.master, &pty.slave] {
            nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_SETFD(flags)).expect("a flag");
        }
        let session = command.spawn().expect("started");
        // It holds the terminal until then.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (mut master, screen) = (File::from(pty.master), Arc::<Mutex<String>>::default());
        let (keyboard, shown) = (master.try_clone().expect("a descriptor"), screen.clone());
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            // It ends with an error when nobody has the terminal any more.
            while let Ok(read @ 1..) = master.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                *shown.lock().unwrap_or_else(PoisonError::into_inner) += &text;
            }
        });
        Self { keyboard, line: pty.slave, screen, session }
    }

    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits until this is on the screen, and takes everything away.
    #[track_caller]
    pub fn shows(&self, text: &str) -> String {
        settles(&format!("the terminal shows {text}"), || {
            let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            if screen.contains(text) { Ok(std::mem::take(&mut *screen)) } else { Err(screen.clone()) }
        })
    }

    /// Makes its window as large.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the argument is as the request wants it, and the descriptor is open.
        let resized = unsafe { libc::ioctl(self.line.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(resized, 0, "{}", std::io::Error::last_os_error());
    }

    /// Whether it takes whole lines and shows what is typed, as a shell wants it.
    pub fn is_cooked(&self) -> bool {
        use nix::sys::termios::{LocalFlags, tcgetattr};
        let flags = tcgetattr(&self.line).expect("a terminal").local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// The process that has it.
    pub fn process(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.session.id().cast_signed())
    }

    /// Hangs up, as a modem did, and a window does that is closed.
    fn hangs_up(&self) {
        // SAFETY: it takes no argument, and the descriptor is open.
        let hung_up = unsafe { libc::ioctl(self.line.as_raw_fd(), libc::TIOCVHANGUP) };
        assert_eq!(hung_up, 0, "{}", std::io::Error::last_os_error());
    }

    /// Waits for the session's end; its exit status.
    #[track_caller]
    pub fn ends(&mut self) -> Option<i32> {
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
fn a_command_has_the_terminal() {
    let host = Host::up(&[]);
    let mut terminal = run(&host, &["sh", "-c", "tty; read line; echo got $line; exit 4"]);
    terminal.shows("/dev/pts/");
    terminal.types("hello\n");
    terminal.shows("got hello");
    assert_eq!(terminal.ends(), Some(4));
    assert_eq!(host.ps(), []);
}

#[test]
fn an_interrupt_reaches_the_command_once_and_it_is_detached() {
    let host = Host::up(&[]);
    let script = "trap 'count=x$count' INT; trap 'echo caught-$count; exit 9' USR1; echo rea''dy;
                  while :; do sleep 0.1; done";
    let mut terminal = run(&host, &["sh", "-c", script]);
    terminal.shows("ready");
    terminal.types(CTRL_C);
    terminal.shows("^C");
    nix::sys::signal::kill(terminal.process(), nix::sys::signal::Signal::SIGUSR1).expect("sent");
    terminal.shows("caught-x\r\n");
    assert_eq!(terminal.ends(), Some(9));
    assert_eq!(host.ps(), []);
    let mut terminal = run(&host, &["sh", "-c", "echo rea''dy; exec sleep 10000"]);
    terminal.shows("ready");
    terminal.types(CTRL_C);
    assert_eq!(terminal.ends(), Some(130));
    assert_eq!(host.ps(), []);
}

#[test]
fn a_shell_has_job_control() {
    let host = Host::up(&[]);
    let mut terminal = run(&host, &["bash", "--norc", "--noprofile", "-i"]);
    terminal.types("sh -c 'echo star\"\"ted; exec sleep 10000'\n");
    terminal.shows("started");
    terminal.types(CTRL_Z);
    let screen = terminal.shows("Stopped");
    assert!(!screen.contains("no job control"), "{screen}");
    terminal.types("fg\n");
    terminal.shows("fg\r\n");
    terminal.types(CTRL_C);
    terminal.types("echo co\"\"de $?; exit 5\n");
    terminal.shows("code 130");
    assert_eq!(terminal.ends(), Some(5));
    assert_eq!(host.ps(), []);
}

#[test]
fn a_run_is_a_job_of_the_shell_that_starts_it() {
    let host = Host::up(&[]);
    let mut shell = host.netns.command("bash");
    let mut terminal = Terminal::start(shell.args(["--norc", "--noprofile", "-i"]));
    let script = "sh -c 'echo star\"\"ted; exec sleep 10000'";
    terminal.types(&format!("{BINARY} --instance {} run --name job -- {script}\n", host.instance()));
    terminal.shows("started");
    terminal.types(CTRL_Z);
    terminal.shows("Stopped");
    assert_eq!(host.ps().len(), 1);
    terminal.types("fg\n");
    terminal.shows("fg\r\n");
    terminal.types(CTRL_C);
    terminal.types("echo co\"\"de $?; exit 5\n");
    terminal.shows("code 130");
    assert_eq!(terminal.ends(), Some(5));
    assert_eq!(host.ps(), []);
}

#[test]
fn a_terminal_that_hangs_up_ends_the_command() {
    let host = Host::up(&[]);
    let mut terminal = run(&host, &["sh", "-c", "echo rea''dy; exec sleep 10000"]);
    terminal.shows("ready");
    assert_eq!(host.ps().len(), 1);
    terminal.hangs_up();
    assert_eq!(terminal.ends(), Some(129));
    assert_eq!(host.ps(), []);
}
