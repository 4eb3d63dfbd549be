//! This program, made to run in any image: its file, the loader it was started by and the libraries it uses, as mounts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bollard::models::{Mount, MountTypeEnum};

/// Where all of it is inside.
pub(super) const PLACE: &str = "/.egress/";
/// The hidden subcommand that waits for the network and becomes the command.
const SUBCOMMAND: &str = "container-init";
/// Stands before the command.
pub(super) const SEPARATOR: &str = "--";

/// What a container needs to start this program, and how it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Host path and path inside.
    pub(super) files: Vec<(PathBuf, String)>,
    /// What stands before the command.
    pub(super) entrypoint: Vec<String>,
}

/// This very program.
pub(super) fn own() -> io::Result<Program> {
    let link = fs::read_link("/proc/self/exe")?;
    // Replaced by another version meanwhile, which does as well.
    let path = link.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map_or(link.clone(), PathBuf::from);
    let maps = fs::read_to_string("/proc/self/maps")?;
    Ok(program(&path, &libraries(&maps), aliases))
}

/// A bind mount, read-only unless said otherwise. No string of paths, in which a colon would have a meaning.
pub(super) fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        typ: Some(MountTypeEnum::BIND),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// Files with code that are mapped and are not the program: the loader and libraries.
fn libraries(maps: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|mode| mode.contains('x'))) {
        let path = line.find('/').and_then(|start| line.get(start..)).map(PathBuf::from);
        found.extend(path.filter(|path| is_library(path) && !found.contains(path)));
    }
    found
}

fn is_library(path: &Path) -> bool {
    name_of(path).is_some_and(|name| name.contains(".so"))
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(|name| name.to_str())
}

/// The names by which programs know a library: its own and those of links beside it that lead to it.
fn aliases(library: &Path) -> Vec<String> {
    let own = name_of(library).map(str::to_owned);
    let beside = library.parent().and_then(|directory| fs::read_dir(directory).ok());
    let links = beside.into_iter().flatten().flatten().filter(|entry| {
        let target = fs::read_link(entry.path()).ok();
        target.is_some_and(|target| target.file_name() == library.file_name()) && is_library(&entry.path())
    });
    own.into_iter().chain(links.filter_map(|entry| entry.file_name().into_string().ok())).collect()
}

fn program(executable: &Path, libraries: &[PathBuf], names: impl Fn(&Path) -> Vec<String>) -> Program {
    let inside = |name: &str| format!("{PLACE}{name}");
    let mut files = vec![(executable.to_owned(), inside("egress"))];
    let is_loader = |path: &&PathBuf| name_of(path).is_some_and(|name| name.starts_with("ld-"));
    let mut entrypoint = Vec::new();
    if let Some(loader) = libraries.iter().find(is_loader) {
        files.push((loader.clone(), inside("ld.so")));
        entrypoint = vec![inside("ld.so"), "--library-path".to_owned(), inside("lib")];
        for library in libraries.iter().filter(|path| !is_loader(path)) {
            files.extend(names(library).into_iter().map(|name| (library.clone(), inside(&format!("lib/{name}")))));
        }
    }
    entrypoint.extend([inside("egress"), SUBCOMMAND.to_owned(), SEPARATOR.to_owned()]);
    Program { files, entrypoint }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0-55d1 r--p 00000000 fe:01 12 /usr/bin/egress
55d1-55d2 r-xp 00001000 fe:01 12 /usr/bin/egress
7f00-7f01 r-xp 00001000 fe:01 13 /usr/lib/x86_64-linux-gnu/libc-2.31.so
7f02-7f03 r--p 00001000 fe:01 14 /usr/lib/locale/locale-archive
7f04-7f05 r-xp 00000000 00:00 0 [vdso]
7f06-7f07 r-xp 00001000 fe:01 15 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
";

    #[test]
    fn what_is_mapped_is_brought_along() {
        let libraries = libraries(MAPS);
        let names = |path: &Path| vec![name_of(path).unwrap().to_owned(), "libc.so.6".to_owned()];
        let program = program(Path::new("/usr/bin/egress"), &libraries, names);
        let inside: Vec<&str> = program.files.iter().map(|(_, inside)| inside.as_str()).collect();
        let expected = ["/.egress/egress", "/.egress/ld.so", "/.egress/lib/libc-2.31.so", "/.egress/lib/libc.so.6"];
        assert_eq!(inside, expected);
        let expected = ["/.egress/ld.so", "--library-path", "/.egress/lib", "/.egress/egress", "container-init", "--"];
        assert_eq!(program.entrypoint, expected);
    }

    #[test]
    fn a_static_program_needs_no_loader() {
        let program = program(Path::new("/usr/bin/egress"), &[], |_| Vec::new());
        assert_eq!(program.files.len(), 1);
        assert_eq!(program.entrypoint, ["/.egress/egress", "container-init", "--"]);
    }
}
