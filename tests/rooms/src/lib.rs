//! Checks what the rooms of the crates import. `make lint` and `make test` run it.
//!
//! A pure room decides: values come in and values go out, and the time is handed in. So it names no clock, no file, no
//! process, no socket, and no room that has such effects; then its tests need none of them either. What a room may name
//! stands in the [`table`]; how its names are found, in [`mentions`].
//!
//! Nothing is known of types here. A pure room could be handed a value whose methods have effects; the compiler knows such
//! a value by a trait or a type that has to be imported, and that import is what is found.

pub mod mentions;
pub mod table;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mentions::{Mention, mentions};
use table::{BANNED, BANNED_METHODS, CRATES, ROOMS, Room};

/// Something in a room that does not belong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, from the repository's root.
    pub file: PathBuf,
    /// Its line, from 1 on.
    pub line: usize,
    /// What it names.
    pub name: String,
    /// Why it may not.
    pub why: Why,
}

/// Why a room may not name something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is another room of the crate, which is not among its imports.
    Room,
    /// It is a crate that is not among those of pure rooms.
    Crate,
    /// It asks or changes the world.
    Effect,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, name, why } = self;
        let why = match why {
            Why::Room => {
                "is in a room that this one does not import; move what is needed down into this room or into `model`"
            }
            Why::Crate => {
                "is of a crate that pure rooms do not use; move the type into `model`, or let the caller do it and hand in \
                 the value"
            }
            Why::Effect => "has an effect, and this room is pure; let the caller do it and hand in the value",
        };
        write!(f, "{}:{line}: {name} {why} (tests/rooms/src/table.rs)", file.display())
    }
}

/// All faults of all rooms below `root`, the repository.
///
/// # Errors
/// A file cannot be read, or is not Rust; a room of the table is not there.
pub fn check(root: &Path) -> io::Result<Vec<Fault>> {
    let mut faults = Vec::new();
    for room in ROOMS {
        faults.extend(check_room(root, room)?);
    }
    Ok(faults)
}

fn check_room(root: &Path, room: &Room) -> io::Result<Vec<Fault>> {
    let Some((of_crate, below)) = room.place.split_once("/src") else {
        return Err(io::Error::other(format!("{} is not in the sources of a crate", room.place)));
    };
    let crates = dependencies(&fs::read_to_string(root.join(of_crate).join("Cargo.toml"))?);
    let mut files = Vec::new();
    let alone = root.join(room.place).with_extension("rs");
    files.extend(alone.is_file().then_some(alone));
    find(&root.join(room.place), &mut files)?;
    if files.is_empty() {
        return Err(io::Error::other(format!("there is no room {below} in the crate {of_crate}")));
    }
    let sources = root.join(of_crate).join("src");
    let (mut read, mut of_tests) = (Vec::new(), Vec::new());
    for file in files {
        let module = module_of(file.strip_prefix(&sources).map_err(io::Error::other)?);
        let named = mentions(&fs::read_to_string(&file)?, &module)
            .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
        of_tests.extend(named.test_modules.iter().cloned());
        read.push((file, module.join("::"), named));
    }
    let is_of_tests = |module: &str| of_tests.iter().any(|tests| is_within(module, tests));
    let mut faults = Vec::new();
    for (file, _, named) in
        read.into_iter().filter(|(_, module, _)| !is_of_tests(module) && !is_apart(room, module))
    {
        let file = file.strip_prefix(root).unwrap_or(&file).to_owned();
        faults.extend(judge(room, &crates, &file, &named));
    }
    Ok(faults)
}

/// The faults among what a file of `room` names; `crates` are the ones that its crate depends on.
fn judge(room: &Room, crates: &[String], file: &Path, named: &mentions::Mentions) -> Vec<Fault> {
    let fault = |mention: &Mention, why| Fault {
        file: file.to_owned(),
        line: mention.line,
        name: mention.name.clone(),
        why,
    };
    let of_path = |path: &Mention| why_not(room, crates, path).map(|why| fault(path, why));
    let is_banned = |method: &&Mention| room.pure && BANNED_METHODS.contains(&method.name.as_str());
    let of_methods = named.methods.iter().filter(is_banned).map(|method| fault(method, Why::Effect));
    let mut faults: Vec<_> = named.paths.iter().filter_map(of_path).chain(of_methods).collect();
    faults.sort_by_key(|fault| fault.line);
    // What stands within a name that is told already says nothing new.
    let mut told = Vec::<Fault>::new();
    for fault in faults {
        if !told.iter().any(|earlier| is_within(&fault.name, &earlier.name)) {
            told.push(fault);
        }
    }
    told
}

fn why_not(room: &Room, crates: &[String], path: &Mention) -> Option<Why> {
    let name = path.name.replacen("core::", "std::", usize::from(path.name.starts_with("core::")));
    let first = name.split("::").next().unwrap_or_default();
    let is_any = |allowed: &[&str]| allowed.iter().any(|prefix| is_within(&name, prefix));
    if first == "crate" {
        let is_imported =
            |rooms: &[&str]| rooms.iter().any(|inside| is_within(&name, &format!("crate::{inside}")));
        let is_allowed = !is_apart(room, &name) && room.imports.is_none_or(is_imported);
        return (!is_allowed).then_some(Why::Room);
    }
    if !room.pure {
        return None;
    }
    let hides = |ban: &&str| path.glob && is_within(ban, &name);
    if is_any(BANNED) || BANNED.iter().any(hides) {
        return Some(Why::Effect);
    }
    (crates.iter().any(|of| of == first) && !is_any(CRATES)).then_some(Why::Crate)
}

/// It stands in the room, and is not part of it.
fn is_apart(room: &Room, path: &str) -> bool {
    room.apart.iter().any(|apart| is_within(path, &format!("crate::{apart}")))
}

/// The path is `prefix`, or begins with it.
fn is_within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The names of the crates in `[dependencies]`, as paths have them.
fn dependencies(manifest: &str) -> Vec<String> {
    let section = manifest.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
    let lines = section.take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split(['.', '=', ' ']).next());
    names
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// All Rust files below `folder`, if there is such a folder.
fn find(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The module whose file it is, `file` being below `src`.
fn module_of(file: &Path) -> Vec<String> {
    let parts = file.with_extension("");
    let parts = parts.iter().map(|part| part.to_string_lossy().into_owned());
    let named = parts.filter(|part| !matches!(part.as_str(), "mod" | "lib" | "main"));
    std::iter::once("crate".to_owned()).chain(named).collect()
}

#[cfg(test)]
mod tests;
