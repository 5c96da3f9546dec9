//! The list of what `engine install` wrote, so that `engine remove` takes exactly that away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Engine, failed};
use crate::cli::failure::Failure;

/// Files with their engine and the hash of what was written, and folders that were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    files: BTreeMap<PathBuf, Written>,
    folders: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    engine: String,
    /// SHA-256 in hexadecimal digits.
    hash: String,
}

fn hash(text: &[u8]) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    /// Reads the list; an empty one if there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other).map_err(failed("read", path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(failed("read", path)(error)),
        }
    }

    /// Writes the list, or removes the file of an empty one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        if *self == Self::default() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
                _ => Ok(()),
            };
        }
        let written = || -> io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            let new = path.with_extension("new");
            fs::write(&new, serde_json::to_vec_pretty(self).map_err(io::Error::other)?)?;
            fs::rename(&new, path)
        };
        written().map_err(failed("write", path))
    }

    /// Returns whether a file was written with this text.
    pub fn has(&self, path: &Path, text: &[u8]) -> bool {
        self.files.get(path).is_some_and(|written| written.hash == hash(text))
    }

    pub fn add(&mut self, engine: Engine, path: &Path, text: &[u8]) {
        self.files.insert(path.to_owned(), Written { engine: engine.name().to_owned(), hash: hash(text) });
    }

    pub fn add_folder(&mut self, folder: PathBuf) {
        self.folders.insert(folder);
    }

    pub fn files_of(&self, engine: Engine) -> Vec<PathBuf> {
        self.files.iter().filter(|(_, written)| written.engine == engine.name()).map(|(path, _)| path.clone()).collect()
    }

    /// Returns the files that an earlier list does not have.
    pub fn files_beside<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a PathBuf> {
        self.files.keys().filter(|file| !before.files.contains_key(*file))
    }

    /// Returns the folders that an earlier list does not have, the innermost first.
    pub fn folders_beside<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a PathBuf> {
        self.folders.difference(&before.folders).collect::<Vec<_>>().into_iter().rev()
    }

    pub fn forget(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// Returns the folders that no file of the list is in, the innermost first.
    pub fn empty_folders(&self) -> Vec<PathBuf> {
        let is_used = |folder: &&PathBuf| self.files.keys().any(|file| file.starts_with(folder));
        self.folders.iter().rev().filter(|folder| !is_used(folder)).cloned().collect()
    }

    pub fn forget_folder(&mut self, folder: &Path) {
        self.folders.remove(folder);
    }
}
