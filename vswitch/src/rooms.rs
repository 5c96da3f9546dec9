//! The dependencies between rooms, the top-level modules of this crate: no two rooms depend on each
//! other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The rooms that each room imports, outside of its tests.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn imports() -> Imports {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut imports = Imports::new();
    for entry in fs::read_dir(&source).expect("the source folder") {
        let path = entry.expect("an entry").path();
        let room = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        if !["lib", "main", "rooms"].contains(&room.as_str()) {
            // `daemon.rs` and `daemon/` are one room.
            read(&path, imports.entry(room).or_default());
        }
    }
    for (room, imported) in &mut imports {
        imported.remove(room);
    }
    imports
}

/// Adds the rooms that a file, or the files in a folder, import.
fn read(path: &Path, imported: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            read(&entry.expect("an entry").path(), imported);
        }
        return;
    }
    if path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests")) {
        return;
    }
    let text = fs::read_to_string(path).expect("a source file");
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for after in line.split("crate::").skip(1) {
            let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            assert!(!name.is_empty(), "{}: import from one room at a time: {line}", path.display());
            imported.insert(name.to_owned());
        }
    }
}

/// Returns a circle that starts at the last room of `way`.
fn circle(imports: &Imports, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
    let room = way.last().cloned()?;
    for next in imports.get(&room).into_iter().flatten() {
        if let Some(start) = way.iter().position(|before| before == next) {
            return Some(way[start..].to_vec());
        }
        if !done.contains(next) {
            way.push(next.clone());
            if let Some(found) = circle(imports, way, done) {
                return Some(found);
            }
            way.pop();
        }
    }
    done.insert(room);
    None
}

#[test]
fn rooms_do_not_import_each_other_in_a_circle() {
    let imports = imports();
    assert!(imports.len() > 15, "{imports:#?}");
    let mut done = BTreeSet::new();
    for room in imports.keys() {
        let found = circle(&imports, &mut vec![room.clone()], &mut done);
        assert_eq!(found, None, "each of these rooms imports the next, and the last imports the first");
    }
}

#[test]
fn the_api_is_messages_and_a_client_and_the_switch_does_not_know_it() {
    let imports = imports();
    assert!(!imports["api"].contains("switch") && !imports["api"].contains("server"), "{:?}", imports["api"]);
    assert!(!imports["switch"].contains("api") && !imports["switch"].contains("server"), "{:?}", imports["switch"]);
}
