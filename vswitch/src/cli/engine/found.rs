//! What is on the machine: the engines, and the places where they look.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::Engine;
use super::files;
use crate::cli::failure::Failure;
use crate::model::Instance;

/// The folders of programs.
const PROGRAMS: [&str; 6] = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];
/// The folders of CNI plugins, in the order in which they are preferred.
const CNI: [&str; 3] = ["opt/cni/bin", "usr/lib/cni", "usr/libexec/cni"];
/// The time after which the plugin's socket counts as silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// The places that matter to engines.
#[derive(Clone, Debug)]
pub struct Places {
    /// The root of the file system.
    pub root: PathBuf,
    /// This program.
    pub program: PathBuf,
    /// The name of the instance.
    pub instance: String,
    /// The socket of Docker's plugin.
    pub socket: PathBuf,
    /// The folder of CNI plugins, below the root.
    pub cni: String,
}

impl Places {
    /// Looks at a file system.
    ///
    /// # Errors
    /// The root is no folder.
    pub fn of(root: PathBuf, instance: &Instance) -> Result<Self, Failure> {
        if !root.is_dir() {
            return Err(Failure::new("file", &format!("{} is no directory (give one with --root)", root.display())));
        }
        let program = std::env::current_exe();
        let program = program.map_err(|error| Failure::new("file", &format!("cannot find this program: {error}")))?;
        let cni = CNI.into_iter().find(|folder| root.join(folder).is_dir()).unwrap_or(CNI[0]).to_owned();
        let (instance, socket) = (instance.name().to_string(), instance.docker_socket());
        Ok(Self { root, program, instance, socket, cni })
    }

    /// Returns the file that lists what was written.
    pub fn manifest(&self) -> PathBuf {
        self.root.join("var/lib/vswitch/engines.json")
    }

    fn has(&self, program: &str) -> bool {
        PROGRAMS.into_iter().any(|folder| self.root.join(folder).join(program).is_file())
    }
}

/// What an engine sees of vswitch.
#[derive(Clone, Debug, Serialize)]
pub struct Sight {
    /// The programs of the engine that are here.
    pub programs: Vec<&'static str>,
    /// All files of `engine install` are there.
    pub installed: bool,
    /// The engine can use vswitch now.
    pub works: bool,
    /// The same in words, with what to do.
    pub says: String,
}

impl Sight {
    pub fn of(engine: Engine, places: &Places) -> Self {
        let names: &[&'static str] = match engine {
            Engine::Docker => &["dockerd"],
            Engine::Podman => &["podman"],
            Engine::Cni => &["containerd", "crio"],
        };
        let programs: Vec<_> = names.iter().copied().filter(|name| places.has(name)).collect();
        let planned = files::of(engine, places);
        // The sample configuration may be changed or removed.
        let needed = planned.iter().filter(|file| engine != Engine::Cni || file.mode == 0o755);
        let installed = needed.clone().all(|file| fs::read(&file.path).is_ok_and(|text| text == file.text.as_bytes()));
        let answers = installed && activate(&places.socket);
        let (works, says) = match () {
            () if !installed => (false, format!("no: vswitch engine install {}", engine.name())),
            () if !answers => (false, "no: the vswitch daemon does not answer: systemctl start vswitch".to_owned()),
            () => (true, "yes".to_owned()),
        };
        Self { programs, installed, works, says }
    }
}

/// Asks the plugin as Docker does.
fn activate(socket: &Path) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"POST /Plugin.Activate HTTP/1.0\r\nHost: vswitch\r\nContent-Length: 0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("NetworkDriver"))
}
