//! Do links of pages lead somewhere, and is every page of the book in its table of contents? Pure.

use std::collections::{BTreeMap, BTreeSet};

/// The book, and its table of contents.
const BOOK: &str = "docs/";
const SUMMARY: &str = "docs/SUMMARY.md";

/// What is wrong, each with its page. `files` are all that a link may name, with the text of those that are pages.
pub(super) fn check(files: &[(String, Option<String>)]) -> Vec<String> {
    let names: BTreeSet<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let pages: BTreeMap<&str, &str> =
        files.iter().filter_map(|(name, text)| Some((name.as_str(), text.as_deref()?))).collect();
    let mut findings = Vec::new();
    for (page, text) in &pages {
        for target in links(text) {
            if let Some(problem) = problem(page, target, &names, &pages) {
                findings.push(format!("{page}: {target}: {problem}"));
            }
        }
    }
    let contents = pages.get(SUMMARY).copied().unwrap_or_default();
    let listed: BTreeSet<String> = links(contents).map(|target| resolved(SUMMARY, target)).collect();
    let unlisted = pages.keys().filter(|page| page.starts_with(BOOK) && **page != SUMMARY && !listed.contains(**page));
    findings.extend(unlisted.map(|page| format!("{page}: is not in {SUMMARY}")));
    findings
}

fn problem(page: &str, target: &str, names: &BTreeSet<&str>, pages: &BTreeMap<&str, &str>) -> Option<&'static str> {
    if target.starts_with("https://") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let file = if path.is_empty() { page.to_owned() } else { resolved(page, path) };
    if !names.contains(file.as_str()) {
        return Some("there is no such file");
    }
    if page.starts_with(BOOK) && !file.starts_with(BOOK) {
        return Some("leads out of the book");
    }
    let has_anchor =
        anchor.is_none_or(|anchor| pages.get(file.as_str()).is_some_and(|text| anchors(text).contains(anchor)));
    (!has_anchor).then_some("there is no such heading")
}

/// The targets of links and pictures outside code.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    let prose = text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    // What stands between backticks, every second piece, is code too.
    let pieces = prose.flat_map(|line| line.split('`').step_by(2));
    pieces.flat_map(|piece| piece.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)))
}

/// A path as the page means it, from the top on.
fn resolved(page: &str, path: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What headings are called in addresses.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |letter: char| letter.is_alphanumeric() || "-_ ".contains(letter);
    let anchor = |heading: &str| heading.to_lowercase().chars().filter(|letter| kept(*letter)).collect::<String>();
    headings.map(|heading| anchor(heading).replace(' ', "-")).collect()
}

#[cfg(test)]
mod tests {
    fn check(page: &str, expected: &[&str]) {
        let file = |name: &str, text: &str| (name.to_owned(), Some(text.to_owned()));
        let files = [
            file("README.md", "[a](docs/a.md#one-two)\n# Top"),
            file("docs/SUMMARY.md", "- [a](a.md)\n- [b](sub/b.md)"),
            file("docs/a.md", page),
            file("docs/sub/b.md", "# B\n[back](../a.md)"),
            ("docs/images/x.svg".to_owned(), None),
        ];
        assert_eq!(super::check(&files), expected, "{page:?}");
    }

    #[test]
    fn links_lead_somewhere() {
        let heading = "## One, two\n";
        check(&format!("{heading}[b](sub/b.md#b) ![x](images/x.svg) [y](https://example.com) [z](#one-two)"), &[]);
        check(&format!("{heading}`[b](none.md)`\n```text\n[b](none.md)\n```"), &[]);
        check(&format!("{heading}[`b`](none.md)"), &["docs/a.md: none.md: there is no such file"]);
        check(&format!("{heading}[b](sub/b.md#c)"), &["docs/a.md: sub/b.md#c: there is no such heading"]);
        check(&format!("{heading}[b](../README.md)"), &["docs/a.md: ../README.md: leads out of the book"]);
        check("", &["README.md: docs/a.md#one-two: there is no such heading"]);
    }

    #[test]
    fn pages_outside_the_table_of_contents_are_found() {
        let files = [("docs/a.md".to_owned(), Some(String::new())), ("README.md".to_owned(), Some(String::new()))];
        assert_eq!(super::check(&files), ["docs/a.md: is not in docs/SUMMARY.md"]);
    }
}
