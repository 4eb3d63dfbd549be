//! The house rules as data. Change a rule here, and say why in the commit.

/// Which modules of `egress-userspace` a module may import.
pub(super) enum May {
    /// These and itself.
    Import(&'static [&'static str]),
    /// All of them: the composition root.
    ImportAll,
}

/// The table of imports. Files directly in `src/` join everything and are not in it.
pub(super) const IMPORTS: &[(&str, May)] = &[
    ("domain", May::Import(&[])),
    ("fault", May::Import(&[])),
    ("signals", May::Import(&[])),
    ("meter", May::Import(&["domain"])),
    ("budget", May::Import(&["domain"])),
    ("policy", May::Import(&["domain"])),
    ("settings", May::Import(&["domain"])),
    ("ledger", May::Import(&["domain", "budget"])),
    ("kernel", May::Import(&["domain", "fault"])),
    ("bottle", May::Import(&["domain", "fault", "signals"])),
    ("broker", May::Import(&["domain", "policy"])),
    ("proxy", May::Import(&["domain", "meter", "policy", "broker"])),
    ("metrics", May::Import(&["domain"])),
    ("control", May::Import(&["domain"])),
    ("doctor", May::Import(&["domain", "kernel", "bottle", "control", "ledger"])),
    ("daemon", May::ImportAll),
    ("cli", May::Import(&["domain", "signals", "control", "meter", "doctor"])),
    ("tui", May::Import(&["domain", "control"])),
];

/// Files and folders without async, I/O, clock, randomness or `unsafe`: they get bytes, values and the time, and return values.
pub(super) const PURE: &[&str] = &[
    "egress-common/src/",
    "egress-ebpf/src/classify.rs",
    "egress-ebpf/src/reset.rs",
    "egress-userspace/src/domain/",
    "egress-userspace/src/meter/",
    "egress-userspace/src/budget/",
    "egress-userspace/src/policy/",
    "egress-userspace/src/settings/",
    "egress-userspace/src/metrics/",
    "egress-userspace/src/kernel/nft/expression.rs",
    "egress-userspace/src/kernel/nft/label.rs",
    "egress-userspace/src/kernel/nft/message.rs",
    "egress-userspace/src/kernel/nft/render.rs",
    "egress-userspace/src/kernel/nft/wire.rs",
    "egress-userspace/src/bottle/plan.rs",
    "egress-userspace/src/bottle/docker/exposed.rs",
    "egress-userspace/src/daemon/cutting.rs",
    "egress-userspace/src/daemon/gate_check.rs",
    "egress-userspace/src/daemon/live/shown.rs",
    "egress-userspace/src/daemon/traffic.rs",
    "egress-userspace/src/proxy/framing.rs",
    "egress-userspace/src/proxy/in_flight.rs",
    "egress-userspace/src/doctor/attacks/",
    "egress-userspace/src/doctor/frame.rs",
    "egress-userspace/src/tui/state/",
    "egress-userspace/src/tui/update/",
    "egress-userspace/src/tui/view/",
];

/// What pure code must not name: a crate by its first segment, anything else by consecutive segments.
pub(super) const IMPURE: &[&str] = &[
    "tokio",
    "futures_util",
    "hyper",
    "nix",
    "rand",
    "getrandom",
    "std::env",
    "std::fs",
    "std::os",
    "std::process",
    "std::thread",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "Instant::now",
    "SystemTime::now",
    "Zoned::now",
    "Timestamp::now",
];

/// Keywords that pure code must not hold.
pub(super) const IMPURE_KEYWORDS: &[&str] = &["async", "unsafe"];

/// Where the `Pod` promise needs `unsafe`, although the rest of the crate is pure.
pub(super) const UNSAFE_THOUGH_PURE: &[&str] = &["egress-common/src/lib.rs"];

/// The only files that may hold `unsafe`.
pub(super) const UNSAFE: &[&str] = &[
    "egress-common/src/lib.rs",
    "egress-ebpf/src/main.rs",
    "egress-ebpf/src/maps.rs",
    "egress-ebpf/src/packet.rs",
    "egress-ebpf/src/report.rs",
    "egress-userspace/src/bottle/native/raw.rs",
    "egress-userspace/src/control/peer.rs",
    "egress-userspace/src/proxy/socket.rs",
    "tests/src/heap.rs",
];

/// Who may name a dependency of `egress-userspace`; `TOP` are the files directly in `src/`.
pub(super) const OWNERS: &[(&str, &[&str])] = &[
    ("aho_corasick", &["policy"]),
    ("anyhow", &[TOP, "cli"]),
    ("aya", &["kernel"]),
    ("base64", &["meter", "policy"]),
    ("bollard", &["bottle"]),
    ("brotli_decompressor", &["meter"]),
    ("bytes", ANYONE),
    ("caps", &["bottle", "proxy", "daemon"]),
    ("clap", &[TOP, "cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("crc32fast", &["meter"]),
    ("egress_common", &["kernel", "doctor", "daemon"]),
    ("flate2", &["meter", "policy"]),
    ("futures_util", ANYONE),
    ("hickory_proto", &["proxy"]),
    ("hickory_resolver", &["proxy"]),
    ("http", &["policy", "proxy"]),
    ("http_body_util", &["proxy", "control"]),
    ("hyper", &["proxy", "control"]),
    ("hyper_util", &["proxy", "control"]),
    ("jiff", &["domain", "budget", "policy", "cli", "tui", "daemon", "doctor"]),
    ("landlock", &["proxy"]),
    ("memchr", &["meter", "policy", "proxy"]),
    ("netlink_packet_core", &["kernel"]),
    ("netlink_packet_route", &["kernel"]),
    ("netlink_sys", &["kernel"]),
    ("nix", ANYONE),
    ("prometheus_client", &["metrics"]),
    ("ratatui", &["tui"]),
    ("rcgen", &["daemon"]),
    ("regex_automata", &["policy"]),
    ("ring", &["bottle", "ledger", "policy", "proxy", "daemon"]),
    ("rtnetlink", &["bottle"]),
    ("rusqlite", &["ledger"]),
    ("rustix", ANYONE),
    ("rustls", &["proxy"]),
    ("rustls_native_certs", &["proxy"]),
    ("rustls_pki_types", &["bottle", "proxy", "daemon", "doctor"]),
    ("saphyr_parser", &["settings"]),
    ("seccompiler", &["bottle", "proxy"]),
    ("serde", ANYONE),
    ("serde_json", ANYONE),
    ("strsim", &["settings"]),
    ("thiserror", ANYONE),
    ("tiktoken", &["meter"]),
    ("tokio", ANYONE),
    ("tokio_rustls", &["proxy"]),
    ("tower_service", &["proxy"]),
    ("tracing", ANYONE),
    ("tracing_subscriber", &[TOP, "cli", "daemon"]),
    ("webpki_roots", &["proxy"]),
    ("zeroize", ANYONE),
    ("zstd", &["meter"]),
];

/// The files directly in `src/`.
pub(super) const TOP: &str = "(top)";

/// A dependency every module may use; the pure list still binds.
pub(super) const ANYONE: &[&str] = &["*"];

/// Lines of a source file.
pub(super) const FILE_LINES_MAX: usize = 600;

/// Lines of a function that hold code.
pub(super) const FUNCTION_LINES_MAX: usize = 70;

/// Data tables, which are as long as what they list: a file, or `file::function`.
pub(super) const SIZE_EXEMPT: &[&str] = &[];

/// What no committed text holds, and what to do instead. Whole words only.
pub(super) const WORDS: &[(&str, &str)] = &[
    ("TODO", "do it, or file an issue"),
    ("FIXME", "do it, or file an issue"),
    ("/home/", "name no one's home directory; write ~/"),
    ("/root/", "name no one's home directory; write ~/"),
    ("sparse+http", "name no registry"),
    ("index-url", "name no registry"),
    ("replace-with", "name no registry"),
    ("\"resolved\":", "name no registry; `.npmrc` beside the lock file keeps it out"),
];

/// Text files by ending; others (fixtures, objects) may hold anything.
pub(super) const TEXT: &[&str] =
    &["rs", "toml", "md", "yml", "yaml", "sql", "sh", "run", "py", "mjs", "txt", "json", "npmrc"];

/// Folders of recorded bytes.
pub(super) const RECORDINGS: &[&str] = &["/testdata/", "/fixtures/", "/corpus/"];

/// This table names what it forbids.
pub(super) const THIS_FILE: &str = "xtask/src/tidy/tables.rs";
