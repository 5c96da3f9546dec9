//! A real etcd of one member process or three, which end when it is dropped. The end-to-end tests
//! use it, too.

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

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// An etcd. One member is enough for every test that does not stop a member.
pub struct Etcd {
    members: Vec<Member>,
    /// Creates the command of a member, in the network namespace of its address.
    program: Box<dyn Fn() -> Command + Send + Sync>,
    directory: TempDir,
    certificates: Option<Certificates>,
    /// Number of times that the data was deleted.
    generation: u32,
}

struct Member {
    name: String,
    address: IpAddr,
    process: Option<Process>,
}

/// A child process, killed on drop, and therefore on panic, too.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may already have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Etcd {
    /// Starts an etcd of one member and waits until it answers.
    pub async fn start() -> Self {
        let mut etcd = Self::new(false);
        etcd.start_all().await;
        etcd
    }

    /// Like [`Etcd::start`], with three members: one may be stopped or hang.
    pub async fn start_three() -> Self {
        let mut etcd = Self::at(&[(); 3].map(|()| free_address()), false, || Command::new("etcd"));
        etcd.start_all().await;
        etcd
    }

    /// Like [`Etcd::start`], with TLS and required client certificates.
    pub async fn with_tls() -> Self {
        let mut etcd = Self::new(true);
        etcd.start_all().await;
        etcd
    }

    /// Creates an etcd of one member without starting it.
    pub fn new(tls: bool) -> Self {
        Self::at(&[free_address()], tls, || Command::new("etcd"))
    }

    /// Creates an etcd with members at these addresses, without starting it.
    pub fn at(addresses: &[IpAddr], tls: bool, program: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        let member = |(number, address)| Member { name: format!("m{number}"), address, process: None };
        let members: Vec<_> = addresses.iter().copied().enumerate().map(member).collect();
        // In memory: several etcds on one disk slow each other down with their syncs.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let directory = directory.expect("a directory");
        let certificates = tls.then(|| Certificates::write(directory.path(), addresses));
        Self { members, program: Box::new(program), directory, certificates, generation: 0 }
    }

    /// Starts all stopped members and waits until etcd answers.
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
        // The answer of an etcd that requires users.
        answer.is_ok() || answer.is_err_and(|error| error.to_string().contains("user name is empty"))
    }

    /// Returns the log of the first member.
    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("m0.log")).unwrap_or_default()
    }

    /// Starts a member if it is not running.
    pub fn start_member(&mut self, number: usize) {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        let peers = |member: &Member| format!("http://{}", SocketAddr::new(member.address, PEER_PORT));
        let all: Vec<_> = self.members.iter().map(|member| format!("{}={}", member.name, peers(member))).collect();
        let member = &self.members[number];
        if member.process.is_some() {
            return;
        }
        let log = self.directory.path().join(format!("{}.log", member.name));
        let log = File::options().create(true).append(true).open(log).expect("a log");
        let clients = format!("{scheme}://{}", SocketAddr::new(member.address, CLIENT_PORT));
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

    /// Stops a member without closing its connections.
    pub fn hang_member(&self, number: usize) {
        let process = self.members[number].process.as_ref().expect("a running member");
        let id = nix::unistd::Pid::from_raw(process.0.id().cast_signed());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGSTOP).expect("a signal to a child process");
    }

    /// Kills all members.
    pub fn stop_all(&mut self) {
        for member in &mut self.members {
            member.process = None;
        }
    }

    /// Deletes all data. No member may be running.
    pub fn delete_data(&mut self) {
        for member in &self.members {
            fs::remove_dir_all(self.data(member)).expect("the data directory");
        }
        self.generation += 1;
    }

    /// Returns the addresses of all members, as for `--cluster`.
    pub fn url(&self) -> String {
        let address = |member: &Member| SocketAddr::new(member.address, CLIENT_PORT).to_string();
        format!("etcd://{}", self.members.iter().map(address).collect::<Vec<_>>().join(","))
    }

    /// Returns options for all members.
    pub fn options(&self) -> Options {
        Options::parse(&self.url()).expect("valid options")
    }

    /// Returns options for one member only.
    pub fn options_of(&self, number: usize) -> Options {
        Options::parse(&format!("etcd://{}:{CLIENT_PORT}", self.members[number].address)).expect("valid options")
    }

    /// Returns the certificates of an etcd with TLS.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("an etcd with TLS")
    }

    /// Returns a directory for files of the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Connects etcd's own client to the running members.
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
            running.map(|member| format!("{scheme}://{}", SocketAddr::new(member.address, CLIENT_PORT))).collect();
        Client::connect(urls, Some(options)).await.ok()
    }

    /// Creates the user `vswitch` with the password `secret` and access to the prefix only, and
    /// enables authentication.
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

    /// Returns the lease of the host with this name. The name must be unique.
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

/// Returns an unused loopback address for a member, on which it uses the usual ports. There are 16
/// million loopback addresses. Ports of 127.0.0.1 would not do: while a member is stopped, an
/// outgoing connection could take its port.
fn free_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = (id() << 8).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) & 0x00ff_ffff;
        let address = IpAddr::V4(Ipv4Addr::from_bits((127 << 24) | number));
        let is_free = [CLIENT_PORT, PEER_PORT].iter().all(|port| TcpListener::bind((address, *port)).is_ok());
        // Skip the first 65536 addresses, which are often in use, such as 127.0.0.1 and 127.0.0.53.
        if number > 0x0001_0000 && number & 0xff != 0xff && is_free {
            return address;
        }
    }
}
