//! The rules: a file or a manifest in, findings out. Pure.

use super::source::{Source, UsedPath};
use super::tables::{
    ANYONE, FILE_LINES_MAX, FUNCTION_LINES_MAX, IMPORTS, IMPURE, IMPURE_KEYWORDS, May, OWNERS, PURE, RECORDINGS,
    SIZE_EXEMPT, TEXT, THIS_FILE, TOP, UNSAFE, UNSAFE_THOUGH_PURE, WORDS,
};

/// Something to put right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    /// Relative to the workspace.
    pub(super) path: String,
    /// From 1; 0 for the whole file.
    pub(super) line: usize,
    /// What is wrong and what to do.
    pub(super) message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line.max(1), self.message)
    }
}

const USERSPACE: &str = "egress-userspace/src/";

/// Everything there is to say about one committed file.
pub(super) fn check_file(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Findings { path, found: Vec::new() };
    words(&mut findings, text);
    if path.ends_with(".rs") {
        match Source::read(text) {
            Ok(source) => rust(&mut findings, text, &source),
            Err(error) => findings.add(error.span().start().line, format!("this is no Rust: {error}")),
        }
    }
    if path.ends_with("/Cargo.toml") {
        manifest(&mut findings, text);
    }
    findings.found
}

/// The changelog has an open section that says something.
pub(super) fn check_changelog(text: Option<&str>) -> Option<Finding> {
    let unreleased = text.and_then(|text| text.split("\n## ").find(|section| section.starts_with("Unreleased")));
    let says_something = unreleased.is_some_and(|section| section.lines().any(|line| line.starts_with("- ")));
    (!says_something).then(|| Finding {
        path: "CHANGELOG.md".to_owned(),
        line: 1,
        message: "has no `## Unreleased` section with a line in it: say there what a user can see".to_owned(),
    })
}

/// The lock file knows one registry, and no mirror of it.
pub(super) fn check_lock(text: &str) -> Vec<Finding> {
    let mut findings = Findings { path: "Cargo.lock", found: Vec::new() };
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("source = ") && !line.ends_with("crates.io-index\"") {
            findings.add(index + 1, "a dependency from elsewhere than the public registry".to_owned());
        }
    }
    findings.found
}

struct Findings<'a> {
    path: &'a str,
    found: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, line: usize, message: String) {
        self.found.push(Finding { path: self.path.to_owned(), line, message });
    }
}

fn rust(findings: &mut Findings<'_>, text: &str, source: &Source) {
    let path = findings.path;
    sizes(findings, text, source);
    for line in &source.allows {
        findings.add(*line, "`allow` hides a lint for ever: use `#[expect(…, reason = \"…\")]`".to_owned());
    }
    for keyword in source.keywords.iter().filter(|keyword| keyword.word == "unsafe") {
        if !UNSAFE.contains(&path) {
            findings.add(keyword.line, format!("`unsafe` outside the files of UNSAFE in {THIS_FILE}"));
        }
    }
    if is_test(path) || source.is_test {
        return;
    }
    if PURE.iter().any(|pure| path.starts_with(pure)) {
        purity(findings, source);
    }
    if let Some(inside) = path.strip_prefix(USERSPACE) {
        let modules = module_path(inside);
        imports(findings, &modules, source);
        owners(findings, modules.first().map_or(TOP, String::as_str), source);
    }
}

fn sizes(findings: &mut Findings<'_>, text: &str, source: &Source) {
    let path = findings.path;
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX && !SIZE_EXEMPT.contains(&path) {
        findings.add(1, format!("{lines} lines, at most {FILE_LINES_MAX}: give a part of it its own file"));
    }
    for function in source.functions.iter().filter(|function| function.lines > FUNCTION_LINES_MAX) {
        let (name, lines) = (&function.name, function.lines);
        if !SIZE_EXEMPT.contains(&format!("{path}::{name}").as_str()) {
            findings
                .add(function.line, format!("{name} has {lines} lines, at most {FUNCTION_LINES_MAX}: name its parts"));
        }
    }
}

fn purity(findings: &mut Findings<'_>, source: &Source) {
    for keyword in source.keywords.iter().filter(|keyword| IMPURE_KEYWORDS.contains(&keyword.word.as_str())) {
        if keyword.word != "unsafe" || !UNSAFE_THOUGH_PURE.contains(&findings.path) {
            findings.add(keyword.line, format!("`{}` in pure code: move it to a shell around it", keyword.word));
        }
    }
    for path in &source.paths {
        if let Some(impure) = IMPURE.iter().find(|impure| names(path, impure)) {
            findings.add(path.line, format!("`{impure}` in pure code: take the value as an argument"));
        }
    }
}

/// A crate must come first; longer patterns may stand anywhere in the path.
fn names(path: &UsedPath, pattern: &str) -> bool {
    let wanted: Vec<&str> = pattern.split("::").collect();
    match wanted.as_slice() {
        [first] => path.segments.first().is_some_and(|segment| segment == first),
        _ => path.segments.windows(wanted.len()).any(|window| window == wanted.as_slice()),
    }
}

fn imports(findings: &mut Findings<'_>, modules: &[String], source: &Source) {
    let Some(own) = modules.first() else {
        return;
    };
    let Some((_, may)) = IMPORTS.iter().find(|(name, _)| name == own) else {
        findings.add(1, format!("module {own} has no row in IMPORTS of {THIS_FILE}: say what it may import"));
        return;
    };
    let May::Import(allowed) = may else {
        return;
    };
    for path in &source.paths {
        let Some(target) = top_module(path, modules.len()) else {
            continue;
        };
        let is_module = IMPORTS.iter().any(|(name, _)| *name == target);
        if is_module && target != own && !allowed.contains(&target) {
            let may = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
            findings.add(path.line, format!("{own} must not import {target}; it may import {may}"));
        }
    }
}

/// The module of the crate's top that a path leads into, if it leads out of its own.
fn top_module(path: &UsedPath, depth: usize) -> Option<&str> {
    let depth = depth + path.inline_depth;
    let ups = path.segments.iter().take_while(|segment| *segment == "super").count();
    let first = match path.segments.first()?.as_str() {
        "crate" | "egress_userspace" => 1,
        "super" if ups == depth => ups,
        _ => return None,
    };
    path.segments.get(first).map(String::as_str)
}

fn owners(findings: &mut Findings<'_>, module: &str, source: &Source) {
    for path in &source.paths {
        let Some((name, owners)) = OWNERS.iter().find(|(name, _)| names(path, name)) else {
            continue;
        };
        if *owners != ANYONE && !owners.contains(&module) {
            findings.add(path.line, format!("{name} belongs to {}, not to {module}", owners.join(", ")));
        }
    }
}

/// `kernel/ebpf.rs` → kernel, ebpf; `kernel/mod.rs` → kernel; `main.rs` → nothing.
fn module_path(inside: &str) -> Vec<String> {
    let stem = inside.strip_suffix(".rs").unwrap_or(inside);
    let mut parts: Vec<String> = stem.split('/').map(str::to_owned).collect();
    let is_folder = parts.last().is_some_and(|last| last == "mod");
    if is_folder || parts.len() == 1 {
        parts.pop();
    }
    parts
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/")
}

fn words(findings: &mut Findings<'_>, text: &str) {
    let path = findings.path;
    let ending = path.rsplit(['.', '/']).next().unwrap_or_default();
    if path == THIS_FILE || !TEXT.contains(&ending) || RECORDINGS.iter().any(|folder| path.contains(folder)) {
        return;
    }
    for (index, line) in text.lines().enumerate() {
        for (word, instead) in WORDS.iter().filter(|(word, _)| holds_word(line, word)) {
            findings.add(index + 1, format!("`{word}` must not be committed: {instead}"));
        }
    }
}

fn holds_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|text| text.chars().next());
        let joins = |next: Option<char>| next.is_some_and(|next| next.is_alphanumeric() || next == '_');
        // A word that ends in punctuation is a beginning: whatever follows belongs to it.
        !joins(before) && (!word.ends_with(char::is_alphanumeric) || !joins(after))
    })
}

fn manifest(findings: &mut Findings<'_>, text: &str) {
    // The eBPF crate is a workspace of its own and cannot inherit.
    if findings.path.starts_with("egress-ebpf/") || findings.path.contains("/fuzz/") {
        return;
    }
    let lints = section(text, "[lints]").any(|(_, line)| line.replace(' ', "") == "workspace=true");
    if !lints {
        findings.add(1, "does not inherit the lints: add `[lints]` with `workspace = true`".to_owned());
    }
    if findings.path == "egress-userspace/Cargo.toml" {
        for (line, text) in section(text, "[dependencies]") {
            let name: String =
                text.chars().take_while(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect();
            if !name.is_empty() && !OWNERS.iter().any(|(known, _)| *known == name.replace('-', "_")) {
                findings.add(line, format!("dependency {name} has no row in OWNERS of {THIS_FILE}: say whose it is"));
            }
        }
    }
}

/// The numbered lines of one section of a manifest.
fn section<'a>(text: &'a str, header: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.lines()
        .enumerate()
        .skip_while(move |(_, line)| line.trim() != header)
        .skip(1)
        .take_while(|(_, line)| !line.starts_with('['))
        .map(|(index, line)| (index + 1, line.trim()))
}
