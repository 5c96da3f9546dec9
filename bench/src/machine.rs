//! The machine on which the results were measured.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

/// The machine and the versions of the programs in use. Values that cannot be determined are
/// `None`.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Output of `uname -sr`.
    pub kernel: String,
    /// Model name.
    pub cpu: Option<String>,
    /// Number of CPUs online.
    pub cpus: usize,
    /// Memory in MB.
    pub memory_mb: Option<u64>,
    /// First line of `iperf3 --version`.
    pub iperf3: Option<String>,
    /// First line of `dockerd --version`.
    pub docker: Option<String>,
    /// First line of `vswitch --version`.
    pub vswitch: Option<String>,
    /// The git commit of the working directory.
    pub commit: Option<String>,
    /// Load average of the last minute before the run. A high load distorts the results.
    pub load: Option<f64>,
}

impl Machine {
    /// Collects the values.
    pub fn describe(vswitch: Option<&Path>) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_matches([' ', '\t', ':']).to_owned()))
        };
        Self {
            kernel: first_line(Command::new("uname").arg("-sr")).unwrap_or_default(),
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mb: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
                .map(|kib| kib / 1024),
            iperf3: first_line(Command::new("iperf3").arg("--version")),
            docker: first_line(Command::new("dockerd").arg("--version")),
            vswitch: vswitch.and_then(|path| first_line(Command::new(path).arg("--version"))),
            commit: first_line(Command::new("git").args(["describe", "--always", "--dirty"])),
            load: read("/proc/loadavg").split(' ').next().and_then(|text| text.parse().ok()),
        }
    }
}

impl Machine {
    /// Warns on stderr if the machine is loaded.
    pub fn warn_if_busy(&self) {
        if let Some(load) = self.load
            && load > 0.25 * self.cpus as f64
        {
            eprintln!("the machine is busy (load {load:.1}): the ratios are more reliable than the absolute values");
        }
    }
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
