use super::rules::{check_changelog, check_file, check_lock};

/// The findings of a small file, as `line: message`.
fn findings(path: &str, text: &str) -> Vec<String> {
    check_file(path, text).into_iter().map(|finding| format!("{}: {}", finding.line, finding.message)).collect()
}

fn check(path: &str, text: &str, expected: &[&str]) {
    let found = findings(path, text);
    assert_eq!(found.len(), expected.len(), "{path}: {found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{path}: {found} lacks {expected}");
    }
}

#[test]
fn imports_point_down_only() {
    let kernel = "egress-userspace/src/kernel/ebpf.rs";
    check(kernel, "use crate::domain::BottleId;", &[]);
    check(kernel, "use crate::bottle::BottleSpec;", &["1: kernel must not import bottle; it may import domain"]);
    check(kernel, "use crate::{domain::Tokens,\n bottle::{Launch, Caller}};", &["2: kernel", "2: kernel"]);
    check(kernel, "fn f() { crate::ledger::open() }", &["1: kernel must not import ledger"]);
    check(kernel, "fn f() { println!(\"{}\", crate::ledger::open()) }", &["1: kernel must not import ledger"]);
    check(kernel, "use super::super::bottle::Launch;", &["1: kernel must not import bottle"]);
    check(kernel, "use super::bottle::Launch;", &[]);
    check("egress-userspace/src/kernel/mod.rs", "use super::bottle::Launch;", &["1: kernel must not import bottle"]);
    check("egress-userspace/src/daemon/mod.rs", "use crate::bottle::Launch; use crate::kernel::Gate;", &[]);
    check("egress-userspace/src/main.rs", "use egress_userspace::daemon::run;", &[]);
    check(
        "egress-userspace/src/cli/run.rs",
        "use egress_userspace::ledger::Ledger;",
        &["1: cli must not import ledger"],
    );
    check("egress-userspace/src/domain/name.rs", "use crate::meter::Usage;", &["it may import nothing"]);
    check("egress-userspace/src/novel/mod.rs", "", &["1: module novel has no row"]);
}

#[test]
fn comments_strings_and_tests_import_nothing() {
    let path = "egress-userspace/src/meter/sse.rs";
    check(path, "//! See crate::ledger::Ledger.\nconst A: &str = \"crate::ledger::x\";", &[]);
    check(path, "#[cfg(test)]\nmod tests {\n use crate::ledger::Ledger;\n use std::fs::read;\n}", &[]);
    check(path, "#[cfg(test)]\nuse std::fs;\nuse std::env;", &["3: `std::env`"]);
    check("egress-userspace/src/meter/tests.rs", "use std::fs::read;", &[]);
}

#[test]
fn pure_code_takes_arguments() {
    let path = "egress-userspace/src/budget/window.rs";
    check(path, "use std::time::Instant;\nfn f(now: Instant) {}", &[]);
    check(path, "fn f() { let now = std::time::Instant::now(); }", &["1: `Instant::now` in pure code"]);
    check(path, "fn f() { Instant::now() }", &["1: `Instant::now`"]);
    check(path, "use std::net::IpAddr;\nuse std::net::{Ipv4Addr, TcpStream};", &["2: `std::net::TcpStream`"]);
    check(path, "use std::{fs, env as e};", &["1: `std::fs`", "1: `std::env`"]);
    check(path, "async fn f() { tokio::spawn(g()); }", &["1: `async`", "1: `tokio`"]);
    check("egress-userspace/src/ledger/mod.rs", "use std::fs; async fn f() {}", &[]);
}

#[test]
fn a_dependency_has_one_owner() {
    check("egress-userspace/src/ledger/mod.rs", "use rusqlite::Connection;", &[]);
    check(
        "egress-userspace/src/daemon/mod.rs",
        "use rusqlite::Connection;",
        &["1: rusqlite belongs to ledger, not to daemon"],
    );
    check("egress-userspace/src/main.rs", "fn main() -> anyhow::Result<()> { Ok(()) }", &[]);
    check("egress-userspace/src/proxy/tls.rs", "fn f() -> anyhow::Result<()> { Ok(()) }", &["1: anyhow belongs to"]);
    check("egress-userspace/src/proxy/tls.rs", "use crate::domain::rustls;", &[]);
    check(
        "egress-userspace/Cargo.toml",
        "[dependencies]\ntokio.workspace = true\nsmoltcp.workspace = true\n\n[lints]\nworkspace = true\n",
        &["3: dependency smoltcp has no row"],
    );
}

#[test]
fn lints_are_expected_not_allowed() {
    let path = "egress-userspace/src/proxy/mod.rs";
    check(path, "#[allow(dead_code)]\nfn f() {}", &["1: `allow`"]);
    check(path, "\n#![cfg_attr(not(test), allow(dead_code))]", &["2: `allow`"]);
    check(path, "#[expect(dead_code, reason = \"as yet unused\")]\nfn allow() {}", &[]);
}

#[test]
fn unsafe_has_its_files() {
    check("egress-userspace/src/proxy/mod.rs", "fn f() {\n unsafe { g() } }", &["2: `unsafe` outside"]);
    check("egress-ebpf/src/packet.rs", "fn f() { unsafe { g() } }", &[]);
    check("egress-common/src/lib.rs", "unsafe impl Pod for Gate {}", &[]);
}

#[test]
fn sizes_are_limited_at_the_limit() {
    let function = |lines: usize| format!("fn long() {{\n{}}}", "    g();\n".repeat(lines));
    check("xtask/src/main.rs", &function(70), &[]);
    check("xtask/src/main.rs", &function(71), &["1: long has 71 lines, at most 70"]);
    let padded = function(70).replace("g();\n", "g();\n\n    // why\n");
    check("xtask/src/main.rs", &padded, &[]);
    check("xtask/src/main.rs", &"//\n".repeat(600), &[]);
    check("xtask/src/main.rs", &"//\n".repeat(601), &["601 lines, at most 600"]);
}

#[test]
fn some_words_stay_at_home() {
    let todo = ["TO", "DO"].concat();
    check("README.md", &format!("{todo}: more"), &["must not be committed: do it"]);
    check("README.md", "a TODOLIST and mastodon", &[]);
    let home = ["/ho", "me/"].concat();
    check("docs/a.md", &format!("see {home}someone/x"), &["name no one's home directory"]);
    check("egress-userspace/src/meter/testdata/a.md", &format!("see {home}someone/x"), &[]);
}

#[test]
fn manifests_inherit_lints() {
    check("xtask/Cargo.toml", "[package]\nname = \"x\"\n", &["1: does not inherit the lints"]);
    check("xtask/Cargo.toml", "[lints]\nworkspace = true\n", &[]);
    check("egress-ebpf/Cargo.toml", "[package]\n", &[]);
}

#[test]
fn changelog_has_an_open_section() {
    assert_eq!(check_changelog(Some("# Changelog\n\n## Unreleased\n\n- Do.\n")), None);
    assert!(check_changelog(Some("# Changelog\n\n## Unreleased\n\n## 0.1\n\n- Do.\n")).is_some());
    assert!(check_changelog(None).is_some());
}

#[test]
fn the_lock_names_one_registry() {
    let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
    assert!(check_lock(public).is_empty());
    assert_eq!(check_lock(&format!("{public}source = \"registry+https://mirror.example/index\"\n")).len(), 1);
}
