//! `vswitch engine`: puts what a container engine needs where it looks, and takes it away again.

mod files;
mod found;
mod manifest;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::failure::Failure;
use super::output::{Output, list, or_dash};
use crate::api::{Client, EndpointView, NetworkView};
use crate::model::Instance;
use files::Planned;
use found::Places;
use manifest::Manifest;

pub use found::Sight;

/// A container engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Docker, by its network and IPAM plugin
    Docker,
    /// podman, by its netavark plugin
    Podman,
    /// Runtimes with CNI: containerd, CRI-O, podman before 5
    Cni,
}

impl Engine {
    pub const ALL: [Self; 3] = [Self::Docker, Self::Podman, Self::Cni];

    /// Returns the name, which is also the owner of its endpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Cni => "cni",
        }
    }
}

/// The commands about engines.
#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// List the engines, whether they are found here, and whether they see vswitch
    #[command(after_help = "Example:\n  vswitch engine ls")]
    Ls {
        #[command(flatten)]
        root: Root,
    },
    /// Write the files that an engine needs to use vswitch
    #[command(after_help = "Example:\n  vswitch engine install docker")]
    Install(Which),
    /// Remove the files that `engine install` wrote
    #[command(after_help = "Example:\n  vswitch engine remove docker")]
    Remove(Which),
}

#[derive(Debug, Args)]
pub struct Which {
    /// The engine
    #[arg(value_enum)]
    engine: Engine,
    #[command(flatten)]
    root: Root,
}

#[derive(Debug, Args)]
pub struct Root {
    /// The root of the file system in which the engine is
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub fn run(command: EngineCommand, instance: &Instance, output: Output) -> Result<(), Failure> {
    match command {
        EngineCommand::Ls { root } => ls(&Places::of(root.root, instance)?, instance, output),
        EngineCommand::Install(Which { engine, root }) => install(engine, &Places::of(root.root, instance)?, output),
        EngineCommand::Remove(Which { engine, root }) => remove(engine, &Places::of(root.root, instance)?, output),
    }
}

/// A file, and what was done with it.
#[derive(Debug, Serialize)]
struct Done {
    file: PathBuf,
    done: &'static str,
}

fn print_done(done: &[Done], next: Option<String>, output: Output) -> Result<(), Failure> {
    output.print(&done, |done| {
        let mut lines: String = done.iter().map(|Done { file, done }| format!("{done} {}\n", file.display())).collect();
        lines.extend(next.map(|next| format!("{next}\n")));
        lines
    })
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let (action, path) = (action.to_owned(), path.display().to_string());
    move |error| Failure::new("file", &format!("cannot {action} {path}: {error} (run it as root)"))
}

/// Writes the files of an engine: all or none.
fn install(engine: Engine, places: &Places, output: Output) -> Result<(), Failure> {
    let mut manifest = Manifest::read(&places.manifest())?;
    let planned = files::of(engine, places);
    for file in &planned {
        // A link is the operator's, wherever it leads.
        let Ok(there) = file.path.symlink_metadata() else { continue };
        let text = fs::read(&file.path).unwrap_or_default();
        let is_ours = text == file.text.as_bytes() || manifest.has(&file.path, &text);
        if !there.is_file() || !is_ours {
            let message = format!("{} is there, and vswitch did not write it (move it away)", file.path.display());
            return Err(Failure::new("foreign_file", &message));
        }
    }
    let mut done = Vec::new();
    let before = manifest.clone();
    let written = planned.into_iter().try_for_each(|file| {
        let same = fs::read(&file.path).is_ok_and(|text| text == file.text.as_bytes());
        if !same {
            for folder in missing_folders(&file.path) {
                DirBuilder::new().mode(0o755).create(&folder).map_err(failed("create", &folder))?;
                manifest.add_folder(folder);
            }
            // A file that is there already is the operator's, or listed.
            manifest.add(engine, &file.path, file.text.as_bytes());
            write(&file)?;
        }
        done.push(Done { file: file.path, done: if same { "unchanged" } else { "wrote" } });
        Ok(())
    });
    let written = written.and_then(|()| manifest.write(&places.manifest()));
    if let Err(failure) = written {
        for path in manifest.files_beside(&before) {
            // A file that was not written is not there.
            let _ = fs::remove_file(path);
        }
        for folder in manifest.folders_beside(&before) {
            let _ = fs::remove_dir(folder);
        }
        return Err(failure);
    }
    print_done(&done, files::next(engine, places), output)
}

/// Returns the folders of a file that do not exist, the outermost first.
fn missing_folders(path: &Path) -> Vec<PathBuf> {
    let mut missing: Vec<PathBuf> =
        path.ancestors().skip(1).take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
    missing.reverse();
    missing
}

/// Writes a file under another name first, so that an engine never reads half of it.
fn write(file: &Planned) -> Result<(), Failure> {
    let mut name = file.path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.path.with_file_name(name);
    let written = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(file.mode);
        options.open(&new)?.write_all(file.text.as_bytes())?;
        fs::rename(&new, &file.path)
    };
    written().map_err(failed("write", &file.path))
}

/// Removes the files that `install` wrote and that are as it wrote them.
fn remove(engine: Engine, places: &Places, output: Output) -> Result<(), Failure> {
    let mut manifest = Manifest::read(&places.manifest())?;
    let mut done = Vec::new();
    for path in manifest.files_of(engine) {
        match fs::read(&path) {
            Ok(text) if manifest.has(&path, &text) => {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                done.push(Done { file: path.clone(), done: "removed" });
            }
            // The operator's changes are not ours to remove.
            Ok(_) => done.push(Done { file: path.clone(), done: "left (it was changed; remove it by hand)" }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &path)(error)),
        }
        manifest.forget(&path);
    }
    for folder in manifest.empty_folders() {
        // Another program may have put a file there at this moment.
        if fs::remove_dir(&folder).is_ok() {
            done.push(Done { file: folder.clone(), done: "removed" });
        }
        manifest.forget_folder(&folder);
    }
    manifest.write(&places.manifest())?;
    print_done(&done, None, output)
}

/// What `engine ls` says of an engine.
#[derive(Debug, Serialize)]
struct Row {
    engine: Engine,
    #[serde(flatten)]
    sight: Sight,
    /// The number of its networks, if the daemon answers.
    networks: Option<usize>,
    /// The number of its endpoints, if the daemon answers.
    endpoints: Option<usize>,
}

fn ls(places: &Places, instance: &Instance, output: Output) -> Result<(), Failure> {
    let mut known: Option<(Vec<NetworkView>, Vec<EndpointView>)> = None;
    super::block_on(async {
        if let Ok(mut client) = Client::connect(instance).await {
            known = client.get("/networks").await.ok().zip(client.get("/endpoints").await.ok());
        }
        Ok(())
    })?;
    let rows = Engine::ALL.map(|engine| {
        let of_engine = |owner: &str| owner == engine.name();
        let (networks, endpoints) = known.as_ref().map_or((None, None), |(networks, endpoints)| {
            let networks = networks.iter().filter(|network| of_engine(&network.owner)).count();
            (Some(networks), Some(endpoints.iter().filter(|endpoint| of_engine(&endpoint.owner)).count()))
        });
        Row { engine, sight: Sight::of(engine, places), networks, endpoints }
    });
    output.rows(
        &rows,
        |row| row.engine.name().to_owned(),
        ["ENGINE", "FOUND", "INSTALLED", "SEES VSWITCH", "NETWORKS", "ENDPOINTS"],
        |row| {
            [
                row.engine.name().to_owned(),
                list(&row.sight.programs),
                if row.sight.installed { "yes" } else { "no" }.to_owned(),
                row.sight.says.clone(),
                or_dash(row.networks),
                or_dash(row.endpoints),
            ]
        },
    )
}

/// Returns what the engines on this machine see of vswitch, for `doctor`.
pub fn sights(instance: &Instance) -> Vec<(Engine, Sight)> {
    let Ok(places) = Places::of("/".into(), instance) else { return Vec::new() };
    let sights = Engine::ALL.map(|engine| (engine, Sight::of(engine, &places)));
    sights.into_iter().filter(|(_, sight)| !sight.programs.is_empty()).collect()
}
