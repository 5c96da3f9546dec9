//! Real etcd: three members, each a process, which end with this. The end-to-end tests have theirs from here, too.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, PermissionType, TlsOptions};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use vswitch::cluster::Options;

use super::{Certificates, PATIENCE};

const CLIENTS: u16 = 2379;
const PEERS: u16 = 2380;

/// An etcd of three members.
pub struct Etcd {
    members: Vec<Member>,
    /// The program, to be started where its addresses are.
    program: Box<dyn Fn() -> Command + Send + Sync>,
    directory: TempDir,
    certificates: Option<Certificates>,
    /// How often it was made from nothing.
    generation: u32,
}

struct Member {
    name: String,
    address: IpAddr,
    process: Option<Process>,
}

/// Killed when dropped, also by a panic.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Etcd {
    /// Starts one, and waits until it answers.
    pub async fn start() -> Self {
        let mut etcd = Self::new(false);
        etcd.start_all().await;
        etcd
    }

    /// Starts one that speaks TLS alone, and only with those who have a certificate.
    pub async fn with_tls() -> Self {
        let mut etcd = Self::new(true);
        etcd.start_all().await;
        etcd
    }

    /// One that is not started yet.
    pub fn new(tls: bool) -> Self {
        Self::at([(); 3].map(|()| free_address()), tls, || Command::new("etcd"))
    }

    /// One with members at these addresses, not started yet.
    pub fn at(addresses: [IpAddr; 3], tls: bool, program: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        let member = |(number, address)| Member { name: format!("m{number}"), address, process: None };
        let members: Vec<_> = addresses.into_iter().enumerate().map(member).collect();
        // Not on a disk: several of these at once wait for each other there.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let directory = directory.expect("a directory");
        let certificates = tls.then(|| Certificates::write(directory.path(), &addresses));
        Self { members, program: Box::new(program), directory, certificates, generation: 0 }
    }

    /// Starts the members that are not running, and waits until etcd answers.
    pub async fn start_all(&mut self) {
        for number in 0..self.members.len() {
            self.start_member(number);
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.answers().await {
            assert!(Instant::now() < deadline, "etcd does not answer within {PATIENCE:?}: {}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn answers(&self) -> bool {
        let Some(mut client) = self.client(None).await else { return false };
        let answer = client.get("/", None).await;
        // Where users are needed, this is an answer, too.
        answer.is_ok() || answer.is_err_and(|error| error.to_string().contains("user name is empty"))
    }

    /// What the first member has complained of.
    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("m0.log")).unwrap_or_default()
    }

    /// Starts a member if it is not running.
    pub fn start_member(&mut self, number: usize) {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        let peers = |member: &Member| format!("http://{}", SocketAddr::new(member.address, PEERS));
        let all: Vec<_> = self.members.iter().map(|member| format!("{}={}", member.name, peers(member))).collect();
        let member = &self.members[number];
        if member.process.is_some() {
            return;
        }
        let log = self.directory.path().join(format!("{}.log", member.name));
        let log = File::options().create(true).append(true).open(log).expect("a log");
        let clients = format!("{scheme}://{}", SocketAddr::new(member.address, CLIENTS));
        let mut command = (self.program)();
        command
            .args(["--name", &member.name, "--logger", "zap", "--log-level", "warn"])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
            .args(["--initial-cluster-token", &format!("{}-{}", id(), self.generation)])
            .args(["--listen-peer-urls", &peers(member), "--initial-advertise-peer-urls", &peers(member)])
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .arg("--data-dir")
            .arg(self.data(member))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(certificates) = &self.certificates {
            command
                .arg("--cert-file")
                .arg(&certificates.server)
                .arg("--key-file")
                .arg(&certificates.server_key)
                .arg("--trusted-ca-file")
                .arg(&certificates.authority)
                .arg("--client-cert-auth");
        }
        let child =
            command.spawn().expect("etcd can be started (package etcd-server; `cargo xtask setup` installs it)");
        self.members[number].process = Some(Process(child));
    }

    /// Kills a member.
    pub fn stop_member(&mut self, number: usize) {
        self.members[number].process = None;
    }

    /// Has a member hang: its connections stay, and nothing comes.
    pub fn hang_member(&self, number: usize) {
        let process = self.members[number].process.as_ref().expect("it is running");
        let id = nix::unistd::Pid::from_raw(process.0.id().cast_signed());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGSTOP).expect("it is ours");
    }

    /// Kills all members.
    pub fn stop_all(&mut self) {
        for member in &mut self.members {
            member.process = None;
        }
    }

    /// Forgets all that it had. To be called while no member is running.
    pub fn forget(&mut self) {
        for member in &self.members {
            fs::remove_dir_all(self.data(member)).expect("its data");
        }
        self.generation += 1;
    }

    /// Where all members are, as `--cluster` has it.
    pub fn url(&self) -> String {
        let at = |member: &Member| SocketAddr::new(member.address, CLIENTS).to_string();
        format!("etcd://{}", self.members.iter().map(at).collect::<Vec<_>>().join(","))
    }

    /// How to reach all members.
    pub fn options(&self) -> Options {
        Options::parse(&self.url()).expect("valid options")
    }

    /// How to reach one member.
    pub fn options_of(&self, number: usize) -> Options {
        Options::parse(&format!("etcd://{}:{CLIENTS}", self.members[number].address)).expect("valid options")
    }

    /// The certificates, if it speaks TLS.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("one with TLS")
    }

    /// Where files can be put.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// etcd's own client.
    pub async fn client(&self, user: Option<(&str, &str)>) -> Option<Client> {
        let mut options = ConnectOptions::new();
        if let Some((name, password)) = user {
            options = options.with_user(name, password);
        }
        if let Some(certificates) = &self.certificates {
            let read = |path: &PathBuf| fs::read(path).expect("a file");
            let identity = Identity::from_pem(read(&certificates.client), read(&certificates.client_key));
            let authority = Certificate::from_pem(read(&certificates.authority));
            options = options.with_tls(TlsOptions::new().ca_certificate(authority).identity(identity));
        }
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        let running = self.members.iter().filter(|member| member.process.is_some());
        let urls: Vec<_> =
            running.map(|member| format!("{scheme}://{}", SocketAddr::new(member.address, CLIENTS))).collect();
        Client::connect(urls, Some(options)).await.ok()
    }

    /// Makes the user `vswitch` with the password `secret` and a role that may use the prefix alone, and has users needed
    /// from then on.
    pub async fn need_users(&self) {
        let mut client = self.client(None).await.expect("a client");
        client.user_add("root", "all", None).await.expect("added");
        client.role_add("root").await.expect("added");
        client.user_grant_role("root", "root").await.expect("granted");
        client.role_add("hosts").await.expect("added");
        let prefix = Permission::new(PermissionType::Readwrite, "/vswitch/").with_prefix();
        client.role_grant_permission("hosts", prefix).await.expect("granted");
        client.user_add("vswitch", "secret", None).await.expect("added");
        client.user_grant_role("vswitch", "hosts").await.expect("granted");
        client.auth_enable().await.expect("enabled");
    }

    /// The lease of the only host that is called `name`, as etcd has it.
    pub async fn lease_of(&self, name: &str) -> i64 {
        let mut client = self.client(None).await.expect("a client");
        let hosts = etcd_client::GetOptions::new().with_prefix();
        let found = client.get("/vswitch/hosts/", Some(hosts)).await.expect("an answer");
        let name = format!("\"name\":\"{name}\"");
        let host = found.kvs().iter().find(|found| String::from_utf8_lossy(found.value()).contains(&name));
        host.expect("the host").lease()
    }

    fn data(&self, member: &Member) -> PathBuf {
        self.directory.path().join(&member.name)
    }
}

/// A loopback address that nobody else uses: there are 16 million, so every member has one, and the usual ports on it. Ports
/// of 127.0.0.1 would not do: while a member is stopped, a connection could get its port as its own.
fn free_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = (id() << 8).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) & 0x00ff_ffff;
        let address = IpAddr::V4(Ipv4Addr::from_bits((127 << 24) | number));
        let is_free = [CLIENTS, PEERS].iter().all(|port| TcpListener::bind((address, *port)).is_ok());
        // The first 65536 are where people keep things, 127.0.0.1 and 127.0.0.53 among them.
        if number > 0x0001_0000 && number & 0xff != 0xff && is_free {
            return address;
        }
    }
}
