//! Which of the host's directories a bottle may share.
//!
//! What is ours is covered in a bottle. In a shared directory that is not enough: whoever may write there can put another
//! directory in its place, and the daemon goes by the path.

use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{NativeRuntime, files, on_thread};
use crate::bottle::{BottleError, Launch};

/// Why a directory is not shared.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotShared {
    /// Nobody means that.
    #[error("/ cannot be shared with a bottle: name the directories that the command writes to")]
    Whole,
    /// What is checked has to be what is shared.
    #[error("{} cannot be shared with a bottle: it is not the real path of a directory", .0.display())]
    NotReal(PathBuf),
    /// It holds our state, or is in it.
    #[error(
        "{} cannot be shared with a bottle, as egress itself keeps {} there: run the command in a directory of its own \
         (`mkdir -p ~/work && cd ~/work`), and share no more than it needs",
        directory.display(), ours.display()
    )]
    Ours {
        /// What was to be shared.
        directory: PathBuf,
        /// What is ours.
        ours: PathBuf,
    },
}

impl NativeRuntime {
    /// Whether what a launch shares with the host may be shared.
    ///
    /// # Errors
    /// When not, and when the system refuses to say.
    pub async fn check_shares(&self, launch: &Launch) -> Result<(), BottleError> {
        // A container's command starts where it is told; that alone shares nothing.
        let work = Some(&launch.directory).filter(|work| launch.container.is_none() && *work != Path::new("/"));
        let shared = files::shared(work.into_iter().chain(&launch.shared).cloned());
        let ours = [&*self.wiring.hidden, &launch.hidden].concat();
        let view = self.wiring.view.clone();
        let look = move || {
            view.enter()?;
            let ours: Vec<Ours> = ours.iter().map(|path| Ours::look(path)).collect();
            Ok(shared.iter().try_for_each(|directory| check(directory, real(directory), &ours)))
        };
        let step = "looking at what it shares";
        let failed = |source| BottleError::Step { bottle: self.wiring.bridge.clone(), step, source };
        Ok(on_thread(look).await.map_err(failed)??)
    }
}

/// Something of ours, by the names it goes by.
struct Ours {
    path: PathBuf,
    real: PathBuf,
    /// Each of these leads to it: the entry of a directory, by that directory's real path.
    on_the_way: Vec<PathBuf>,
}

impl Ours {
    fn look(path: &Path) -> Self {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let entry = |path: &Path| Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
        Self { path: path.to_owned(), real, on_the_way: path.ancestors().filter_map(entry).collect() }
    }
}

/// Where a directory really is, if it is one.
fn real(directory: &Path) -> Option<PathBuf> {
    fs::canonicalize(directory).ok().filter(|real| real.is_dir())
}

/// `real` is where `directory` really is.
fn check(directory: &Path, real: Option<PathBuf>, ours: &[Ours]) -> Result<(), NotShared> {
    if directory == Path::new("/") {
        return Err(NotShared::Whole);
    }
    if real.is_none_or(|real| real != directory) {
        return Err(NotShared::NotReal(directory.to_owned()));
    }
    let holds = |ours: &&Ours| {
        let is_in_it = ours.on_the_way.iter().chain([&ours.real]).any(|path| path.starts_with(directory));
        is_in_it || directory.starts_with(&ours.real)
    };
    let refused = |ours: &Ours| NotShared::Ours { directory: directory.to_owned(), ours: ours.path.clone() };
    ours.iter().find(holds).map_or(Ok(()), |ours| Err(refused(ours)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_leads_to_us_is_not_shared() {
        let host = tempfile::tempdir().unwrap();
        let at = |path: &str| host.path().canonicalize().unwrap().join(path);
        for path in ["user/work", "state/home/bottles", "run"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        symlink(at("state/home"), at("user/.home")).unwrap();
        symlink(at("user/work"), at("link")).unwrap();
        fs::write(at("user/work/file"), "").unwrap();
        let ours = [Ours::look(&at("user/.home")), Ours::look(&at("run"))];
        let of = |path: &str, ours: &str| Err(NotShared::Ours { directory: at(path), ours: at(ours) });
        let cases = [
            ("user/work", Ok(())),
            ("user", of("user", "user/.home")),
            ("state", of("state", "user/.home")),
            ("state/home", of("state/home", "user/.home")),
            ("state/home/bottles", of("state/home/bottles", "user/.home")),
            ("run", of("run", "run")),
            ("link", Err(NotShared::NotReal(at("link")))),
            ("user/work/file", Err(NotShared::NotReal(at("user/work/file")))),
            ("missing", Err(NotShared::NotReal(at("missing")))),
            ("user/work/../work", Err(NotShared::NotReal(at("user/work/../work")))),
        ];
        for (path, expected) in cases {
            assert_eq!(check(&at(path), real(&at(path)), &ours), expected, "{path}");
        }
        assert_eq!(check(Path::new("/"), Some("/".into()), &ours), Err(NotShared::Whole));
        let relative = Path::new("work");
        assert_eq!(check(relative, Some(at("user/work")), &ours), Err(NotShared::NotReal(relative.to_owned())));
    }
}
