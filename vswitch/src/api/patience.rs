//! Finds out whether a daemon that is silent still works: by a question on a second connection.
//!
//! A request may take as long as the daemon works on it. So a client does not limit the time of the
//! request. It asks `GET /alive` beside it, which a working daemon answers at once.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::PREFIX;
use crate::model::Instance;

/// How long a client waits.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// The time without an answer after which the daemon is asked whether it works.
    interval: Duration,
    /// The time that a working daemon needs at most to answer that question.
    limit: Duration,
}

/// With these times, a command that gets no answer ends within 30 s.
const PATIENCE: Patience = Patience { interval: Duration::from_secs(5), limit: Duration::from_secs(20) };
/// The pause before a connection is tried again, while the queue of the socket is full.
const RETRY: Duration = Duration::from_millis(200);

/// The header with the time at which a client sent its request, in milliseconds since 1970.
pub const SENT_HEADER: &str = "vswitch-sent";
/// The age at which a daemon refuses a request instead of beginning it. It is less than the time
/// after which a client gives up, so that no request is carried out after its client has reported
/// a failure.
pub const STALE: Duration = Duration::from_secs(15);

/// A daemon that does not answer, as text: what its process does, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The process of the daemon; `None` if it is not visible.
    process: Option<i32>,
    stopped: bool,
    instance: Instance,
}

impl Silence {
    /// Looks at the process of a silent daemon.
    pub(super) fn of(instance: &Instance, process: Option<i32>) -> Self {
        let stat = process.and_then(|process| fs::read_to_string(format!("/proc/{process}/stat")).ok());
        Self { process, stopped: stat.is_some_and(|stat| is_stopped(&stat)), instance: instance.clone() }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, command) = (self.instance.name(), self.instance.command());
        write!(f, "the daemon of instance {name} does not answer")?;
        match (self.process, self.stopped) {
            (Some(process), true) => write!(
                f,
                ": its process {process} is stopped (continue it with `kill -CONT {process}`; it refuses what it has not begun)"
            ),
            (Some(process), false) => write!(
                f,
                ": its process {process} is stuck ({log} may say why; `kill -9 {process}` and `{command} up` replace it, frames flow on)",
                log = self.instance.log_file().display()
            ),
            (None, _) => write!(f, " ({log} may say why)", log = self.instance.log_file().display()),
        }
    }
}

/// Returns whether a process is stopped by a signal or a debugger, from its `/proc/PID/stat`
/// (proc(5): the state follows the name in brackets).
fn is_stopped(stat: &str) -> bool {
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 't']))
}

/// Returns the value of [`SENT_HEADER`] for a request that is sent now.
pub(super) fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis().to_string()
}

/// Returns the age of a request from the value of [`SENT_HEADER`]. A clock that was set back gives
/// no age.
pub fn age(sent: &str) -> Option<Duration> {
    let sent = UNIX_EPOCH.checked_add(Duration::from_millis(sent.parse().ok()?))?;
    SystemTime::now().duration_since(sent).ok()
}

/// Waits for `answer` for as long as the daemon works. Returns `None` if it does not.
pub(super) async fn patiently<T>(socket: &Path, answer: impl Future<Output = T>) -> Option<T> {
    PATIENCE.wait(socket, answer).await
}

/// Connects to a socket. Waits while the queue of a busy or stopped daemon is full.
///
/// # Errors
/// The error of connect(2); `WouldBlock` if the queue stays full.
pub(super) async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let connect = async {
        loop {
            match UnixStream::connect(socket).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(RETRY).await,
                connected => return connected,
            }
        }
    };
    timeout(PATIENCE.limit, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::WouldBlock.into()))
}

impl Patience {
    async fn wait<T>(self, socket: &Path, answer: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            () = self.silence(socket) => None,
        }
    }

    /// Returns when the daemon at a socket does not answer any more.
    async fn silence(self, socket: &Path) {
        loop {
            sleep(self.interval).await;
            match timeout(self.limit, ask(socket)).await {
                Ok(Ok(())) => {}
                // The daemon ends, and has removed its socket. It answers what is under way before.
                Ok(Err(_)) => return sleep(self.limit).await,
                Err(_) => return,
            }
        }
    }
}

/// Asks a daemon whether it works. Any answer will do: an earlier version does not know the
/// question.
async fn ask(socket: &Path) -> io::Result<()> {
    let stream = connect(socket).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get(format!("{PREFIX}/alive")).header("host", "vswitch").body(Empty::<Bytes>::new());
    let answer = async { sender.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other) };
    tokio::select! {
        answer = answer => answer.map(drop),
        ended = connection => ended.map_err(io::Error::other),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_stopped_process_is_recognised_by_its_state() {
        assert!(is_stopped("7 (vswitch) T 1 7 7 0"));
        assert!(is_stopped("7 (a) S 1 (b) t 1 7"));
        assert!(!is_stopped("7 (vswitch) S 1 7 7 0") && !is_stopped(""));
    }

    #[test]
    fn a_request_has_an_age_unless_its_time_is_invalid() {
        assert!(age(&now()).is_some_and(|age| age < STALE));
        assert!(age("1").is_some_and(|age| age > STALE));
        assert_eq!((age(""), age("x"), age("99999999999999999")), (None, None, None));
    }

    #[test]
    fn a_command_that_gets_no_answer_ends_within_30_seconds() {
        let Patience { interval, limit } = PATIENCE;
        assert!(interval + limit < Duration::from_secs(30) && STALE < interval + limit);
    }

    #[tokio::test]
    async fn a_slow_request_is_waited_for_as_long_as_the_daemon_answers_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("api.sock");
        let listener = UnixListener::bind(&socket).expect("listening");
        let (asked, mut questions) = mpsc::unbounded_channel();
        let serve = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let _read = stream.read(&mut [0; 1024]).await;
                let _sent = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
                let _counted = asked.send(());
            }
        });
        let patience = Patience { interval: Duration::from_millis(10), limit: Duration::from_secs(60) };
        let slow = async {
            for _ in 0..5 {
                questions.recv().await.expect("a question");
            }
        };
        assert_eq!(patience.wait(&socket, slow).await, Some(()), "the daemon answered all the time");
        serve.abort();
        let _ended = serve.await;
        // The socket still exists, and no process accepts connections.
        let patience = Patience { limit: Duration::from_millis(10), ..patience };
        assert_eq!(patience.wait(&socket, pending::<()>()).await, None);
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_answer_is_silent() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("api.sock");
        let _listener = UnixListener::bind(&socket).expect("listening");
        let patience = Patience { interval: Duration::from_millis(10), limit: Duration::from_millis(10) };
        assert_eq!(patience.wait(&socket, pending::<()>()).await, None);
    }
}
