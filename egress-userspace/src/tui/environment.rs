//! What the caller's environment says: is there a terminal, what can it show, where do files go.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use super::state::Look;

/// Whether there is a terminal to draw on, and why not.
pub(super) fn check_terminal() -> Result<(), &'static str> {
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    can_draw(is_terminal, std::env::var("TERM").ok().as_deref())
}

fn can_draw(is_terminal: bool, term: Option<&str>) -> Result<(), &'static str> {
    match term {
        _ if !is_terminal => Err("this is none"),
        None | Some("") => Err("TERM does not say which this is"),
        Some("dumb") => Err("this one can only print lines (TERM is dumb)"),
        Some(_) => Ok(()),
    }
}

/// What the terminal can show.
pub(super) fn look() -> Look {
    let variable = |name: &str| std::env::var(name).ok();
    look_of(variable("NO_COLOR"), [variable("LC_ALL"), variable("LC_CTYPE"), variable("LANG")])
}

/// The first of `locales` that says anything decides, as everywhere.
fn look_of(no_color: Option<String>, locales: [Option<String>; 3]) -> Look {
    let says = |text: &String| !text.is_empty();
    let locale = locales.into_iter().flatten().find(says).unwrap_or_default().to_lowercase();
    let has_unicode = locale.contains("utf-8") || locale.contains("utf8");
    Look { has_colour: !no_color.is_some_and(|text| says(&text)), has_unicode }
}

/// Where output of resumed bottles goes: `$XDG_STATE_HOME/egress`.
pub(super) fn log_directory() -> Option<PathBuf> {
    log_directory_of(std::env::var_os("XDG_STATE_HOME"), std::env::home_dir())
}

fn log_directory_of(state: Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    // A relative path there is to be ignored (XDG Base Directory Specification).
    let state = state.map(PathBuf::from).filter(|path| path.is_absolute());
    Some(state.or_else(|| Some(home?.join(".local/state")))?.join("egress"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_to_be_one() {
        assert_eq!(can_draw(true, Some("xterm-256color")), Ok(()));
        for (is_terminal, term) in [(false, Some("xterm")), (true, Some("dumb")), (true, Some("")), (true, None)] {
            assert!(can_draw(is_terminal, term).is_err(), "{is_terminal} {term:?}");
        }
    }

    #[test]
    fn the_locale_and_no_color_decide_how_it_looks() {
        let check = |no_color: Option<&str>, locales: [Option<&str>; 3], expected: (bool, bool)| {
            let look = look_of(no_color.map(str::to_owned), locales.map(|locale| locale.map(str::to_owned)));
            assert_eq!((look.has_colour, look.has_unicode), expected, "{no_color:?} {locales:?}");
        };
        check(None, [None, None, Some("en_GB.UTF-8")], (true, true));
        check(None, [None, None, Some("C.utf8")], (true, true));
        check(Some("1"), [Some("C"), None, Some("en_GB.UTF-8")], (false, false));
        check(Some(""), [Some(""), Some("de_DE.UTF-8"), None], (true, true));
        check(None, [None, None, None], (true, false));
    }

    #[test]
    fn files_go_where_state_goes() {
        let check = |state: Option<&str>, home: Option<&str>, expected: Option<&str>| {
            assert_eq!(
                log_directory_of(state.map(OsString::from), home.map(PathBuf::from)),
                expected.map(PathBuf::from)
            );
        };
        check(Some("/s"), Some("/h"), Some("/s/egress"));
        check(Some("s"), Some("/h"), Some("/h/.local/state/egress"));
        check(None, Some("/h"), Some("/h/.local/state/egress"));
        check(None, None, None);
    }
}
