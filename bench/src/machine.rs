//! What the numbers were measured on.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

/// The machine and the versions of what takes part. What cannot be found out is left out.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// `uname -sr`
    pub kernel: String,
    /// Model name.
    pub cpu: Option<String>,
    /// CPUs online.
    pub cpus: usize,
    /// Memory in MB.
    pub memory_mb: Option<u64>,
    /// First line of `iperf3 --version`.
    pub iperf3: Option<String>,
    /// First line of `dockerd --version`.
    pub docker: Option<String>,
    /// First line of `vswitch --version`.
    pub vswitch: Option<String>,
    /// The commit that the bench was run in.
    pub commit: Option<String>,
    /// Load over the last minute, before the run: more than a little spoils the numbers.
    pub load: Option<f64>,
}

impl Machine {
    /// Looks around.
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
    /// Says on stderr when others are at work here.
    pub fn warn_if_busy(&self) {
        if let Some(load) = self.load
            && load > 0.25 * self.cpus as f64
        {
            eprintln!("the machine is busy (load {load:.1}): trust the ratios more than the numbers");
        }
    }
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
