//! Every key that a settings or routes file may hold, as data: what the parsers know, and what the reference is made of.

/// A mapping with keys that mean something.
#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is called in the reference.
    pub title: &'static str,
    /// The keys, in the order in which they are told of.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What stands after it.
    pub takes: Takes,
    /// What holds where it is left out.
    pub default: Otherwise,
    /// What it is for.
    pub says: &'static str,
}

/// What stands after a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Takes {
    /// One of these words, each with what it means.
    OneOf(&'static [(&'static str, &'static str)]),
    /// What this is, and one such value as it is written.
    Like(&'static str, &'static str),
    /// Names of this kind, each with such a value.
    Map(&'static str, &'static str, &'static str),
    /// A section.
    One(&'static Section),
    /// Names of this kind, each with a section.
    Named(&'static str, &'static Section),
    /// A list of sections.
    List(&'static Section),
}

/// What holds where a key is left out.
#[derive(Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// This value, as it would be written.
    Value(&'static str),
    /// Something that cannot be written there.
    Is(&'static str),
    /// It must be there.
    Needed,
}

impl Section {
    /// The names of its keys.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }
}

const fn key(name: &'static str, takes: Takes, default: Otherwise, says: &'static str) -> Key {
    Key { name, takes, default, says }
}

use Otherwise::{Is, Needed, Value};
use Takes::{Like, List, Map, Named, One, OneOf};

const AMOUNT: &str = "tokens, for good or in each `hour`, `day`, `week` or `month`";
const DURATION: &str = "a time in `ms`, `s` or `m`, of 10 minutes at most";
const TRUTH: &[(&str, &str)] = &[("true", ""), ("false", "")];
const PREFLIGHT: &[(&str, &str)] = &[
    ("estimate", "the input, as it is estimated"),
    ("exact", "the input, as the provider counts it, with one more request"),
    ("strict", "input and output at their most, so that nothing overshoots"),
    ("off", "nothing"),
];
const SHUTDOWN: &[(&str, &str)] = &[
    ("cutoff", "its gate is cut"),
    ("freeze", "its processes end too, its files and its command are kept"),
    ("kill", "its processes end, its files are removed"),
];

/// `settings.yml`
pub const SETTINGS: Section = Section {
    title: "The file",
    keys: &[
        key("budget", Map("provider", AMOUNT, "5M"), Is("no limit"), "the host's budgets"),
        key(
            "precedence",
            OneOf(&[("nearest", "the nearest budget binds"), ("strict", "every budget on the way does")]),
            Value("nearest"),
            "which budgets bind a request, of agent, bottle, parents and host",
        ),
        key(
            "crossing",
            OneOf(&[("finish", "it is delivered"), ("sever", "it ends where the budget does")]),
            Value("finish"),
            "what becomes of the response that uses a budget up",
        ),
        key(
            "cache_reads",
            OneOf(&[("count", "like other input"), ("ignore", "they make no budget smaller")]),
            Value("count"),
            "how input counts that a provider had cached",
        ),
        key(
            "time_zone",
            Like("a zone of the IANA database", "Europe/Berlin"),
            Value("UTC"),
            "whose calendar windows follow",
        ),
        key(
            "thresholds",
            Like("percentages from 1 to 99, rising, or nothing", "50, 99"),
            Value("80, 90, 95, 99"),
            "parts of a budget that log and audit tell of when they are used",
        ),
        key(
            "preflight",
            OneOf(PREFLIGHT),
            Value("estimate"),
            "what has to fit into what is left before a request is sent",
        ),
        key(
            "durability",
            OneOf(&[("process", "crashes"), ("power", "the loss of power too")]),
            Value("process"),
            "what a recorded request survives",
        ),
        key(
            "enforcer",
            OneOf(&[("auto", "eBPF where the kernel can"), ("ebpf", "eBPF"), ("nftables", "nftables")]),
            Value("auto"),
            "what gates are made of; read when the daemon starts",
        ),
        key(
            "cut_mode",
            OneOf(&[("reset", "TCP resets, 64 a second at most"), ("drop", "silence")]),
            Value("reset"),
            "what a cut bottle hears",
        ),
        key("shutdown", OneOf(SHUTDOWN), Value("cutoff"), "what becomes of a bottle whose budget is gone"),
        key(
            "metrics",
            Like("a loopback address and a port", "127.0.0.1:9464"),
            Is("no port"),
            "where Prometheus may ask: see [metrics](metrics.md)",
        ),
        key("drain", Like(DURATION, "500ms"), Value("1s"), "how long the response that crosses may take to arrive"),
        key("last_word", Like(DURATION, "0"), Value("2s"), "how long a bottle may take to hear why it is cut"),
        key("agents", Named("agent", &AGENT), Is("none"), "agents, wherever they run"),
        key("bottles", Named("bottle", &BOTTLE), Is("none"), "bottles, by their names"),
        key(
            "providers",
            Named("provider", &PROVIDER),
            Is("the built-in ones"),
            "hosts beside the built-in ones, and how they are metered",
        ),
        key("upstream", One(&UPSTREAM), Is("the usual"), "how providers are reached"),
    ],
};

/// An entry of `agents:`
pub const AGENT: Section = Section {
    title: "An agent",
    keys: &[key("budget", Map("provider", AMOUNT, "200k/day"), Is("no limit"), "its budgets")],
};

/// An entry of `bottles:`
pub const BOTTLE: Section = Section {
    title: "A bottle",
    keys: &[
        key(
            "extends",
            Like("a bottle that stands in this file", "base"),
            Is("no parent"),
            "its parent, for which counts what it spends",
        ),
        key("budget", Map("provider", AMOUNT, "1M/day"), Is("no limit"), "its budgets"),
        key(
            "preflight",
            OneOf(PREFLIGHT),
            Is("as its parent's, else the provider's, else the file's"),
            "as in the file",
        ),
        key("shutdown", OneOf(SHUTDOWN), Is("as its parent's, else the file's"), "as in the file"),
    ],
};

/// An entry of `providers:`
pub const PROVIDER: Section = Section {
    title: "A provider",
    keys: &[
        key(
            "hosts",
            Map("host or pattern", "the API it speaks: see [providers](providers.md)", "openai_compatible"),
            Is("a built-in provider's own; another needs some"),
            "its hosts",
        ),
        key(
            "stream_usage",
            OneOf(&[
                ("told", "in any case, and they refuse `stream_options`"),
                ("on_request", "when the request asks for it"),
            ]),
            Is("as the API usually does"),
            "when its servers report the usage of a streamed chat",
        ),
        key("preflight", OneOf(PREFLIGHT), Is("as the file says"), "as in the file"),
    ],
};

/// `upstream:`
pub const UPSTREAM: Section = Section {
    title: "Upstream",
    keys: &[
        key(
            "ca",
            Like("a PEM file, from this directory on", "extra-roots.pem"),
            Is("none"),
            "certificates trusted beside the usual roots; read when the daemon starts",
        ),
        key(
            "idle",
            Like("a time of 1 second to 10 minutes", "90s"),
            Value("300s"),
            "longest silence inside a response",
        ),
        key(
            "resolve",
            Map("host", "address and port", "10.0.0.7:8443"),
            Is("as the resolver says, public addresses only"),
            "where these hosts are instead",
        ),
    ],
};

const OUTBOUND: &[(&str, &str)] = &[
    ("off", "nothing is looked for"),
    ("block", "it is refused"),
    ("redact", "what was found is overwritten"),
    ("supervise", "it waits for an operator"),
];
const INBOUND: &[(&str, &str)] =
    &[("off", "nothing is looked for"), ("block", "it ends there"), ("redact", "what was found is overwritten")];
const LOG: &[(&str, &str)] = &[("off", "none"), ("blocks", "those that are refused"), ("all", "all")];
const PASSTHROUGH: &[(&str, &str)] = &[("passthrough", "what the agent brings passes")];

/// `routes.yaml` and `routes/<bottle>.yaml`
pub const ROUTES: Section = Section {
    title: "A file",
    keys: &[
        key(
            "routes",
            List(&ROUTE),
            Is("none"),
            "where bottles may go beside metered hosts; the first about a request decides",
        ),
        key("inherit", OneOf(TRUTH), Value("true"), "whether the next file is asked: a parent's, then `routes.yaml`"),
        key(
            "providers",
            Like("names, with commas or as a list; `[]` for none", "claude, codex"),
            Is("all"),
            "whose metered hosts are reached without a route",
        ),
        key(
            "auth",
            OneOf(PASSTHROUGH),
            Is("keys of agents are refused there"),
            "keys that agents bring to metered hosts without a route",
        ),
        key(
            "outbound_on_match",
            OneOf(OUTBOUND),
            Value("off"),
            "what becomes of a request in which a detector finds something",
        ),
        key("inbound_on_match", OneOf(INBOUND), Value("off"), "the same of a response"),
        key("approval_timeout", Like(DURATION, "90s"), Value("300s"), "how long an operator may take"),
        key("detectors", List(&DETECTOR), Is("none"), "what is looked for beside what is built in"),
        key(
            "without",
            Like("names, with commas or as a list", "credit-card"),
            Is("none"),
            "built-in detectors that are left out",
        ),
        key("markers", List(&MARKER), Is("none"), "what is looked for in responses beside that"),
        key("log", OneOf(LOG), Value("blocks"), "which requests are logged"),
    ],
};

/// An entry of `routes:`
pub const ROUTE: Section = Section {
    title: "A route",
    keys: &[
        key(
            "host",
            Like("a name, or `\"*.example.com\"` for every name below it", "api.github.com"),
            Needed,
            "the host it is about",
        ),
        key("ports", Like("numbers, with commas or as a list", "443, 8443"), Value("80, 443"), "its ports"),
        key("methods", Like("words, with commas or as a list", "GET, POST"), Is("all"), "methods that pass"),
        key(
            "paths",
            Like("one, or a list; `*` stands for any characters, `/` among them", "/repos/*"),
            Is("all"),
            "paths that pass, without their query",
        ),
        key(
            "intercept",
            OneOf(TRUTH),
            Value("true"),
            "whether TLS is ended here; `false` for clients that trust one certificate only",
        ),
        key(
            "private",
            OneOf(TRUTH),
            Value("false"),
            "whether the name may lead to an address of this host or its network",
        ),
        key("auth", OneOf(PASSTHROUGH), Is("refused by metered hosts, passed to others"), "keys that agents bring"),
        key(
            "auth_scheme",
            Like("`bearer`, `basic`, `header:NAME` or `sigv4`", "bearer"),
            Is("nothing is put in"),
            "how a token of the host's is put in",
        ),
        key("token_env", Like("a variable of the daemon's", "GITHUB_TOKEN"), Is("none"), "where that token is"),
        key("token_file", Like("a file, from this directory on", "keys/github"), Is("none"), "where that token is"),
        key("git_fetch", OneOf(TRUTH), Value("false"), "whether git may clone, fetch and pull"),
        key(
            "git_push",
            Like("a ref or a list; `*` at its end stands for the rest", "refs/heads/bottle/*"),
            Is("none"),
            "refs that git may push to",
        ),
        key("outbound_on_match", OneOf(OUTBOUND), Is("as the file says"), "as in the file"),
        key("inbound_on_match", OneOf(INBOUND), Is("as the file says"), "as in the file"),
        key("log", OneOf(LOG), Is("as the file says"), "as in the file"),
    ],
};

/// An entry of `detectors:`
pub const DETECTOR: Section = Section {
    title: "A detector",
    keys: &[
        NAME,
        key(
            "pattern",
            Like("a regular expression", "'CUST-[0-9]{8}'"),
            Is("one of the three is needed"),
            "what is looked for",
        ),
        key(
            "token_env",
            Like("a variable of the daemon's", "DEPLOY_KEY"),
            Is("one of the three is needed"),
            "its value is looked for",
        ),
        key(
            "token_file",
            Like("a file, from this directory on", "keys/deploy"),
            Is("one of the three is needed"),
            "what is in it is looked for",
        ),
    ],
};

/// An entry of `markers:`
pub const MARKER: Section = Section {
    title: "A marker",
    keys: &[NAME, key("pattern", Like("a regular expression", "\"(?i)open sesame\""), Needed, "what is looked for")],
};

const NAME: Key =
    key("name", Like("a-z, 0-9, `-` and `_`", "customer"), Needed, "what it is called in refusals, logs and the audit");

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Settings, parse, parse_routes};
    use super::*;
    use crate::domain::RouteFile;

    fn settings(text: &str) -> Settings {
        let built_in = [("api.anthropic.com".parse().unwrap(), "claude".parse().unwrap())];
        parse(text, Path::new("settings.yml"), &built_in).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    fn routes(text: &str) -> RouteFile {
        let providers = ["claude", "codex"].map(|name| name.parse().unwrap()).into();
        parse_routes(text, Path::new("routes.yaml"), "routes.yaml", &providers)
            .unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    /// Lines that hold the key with each value that the table tells of.
    fn examples(key: &Key, indent: &str) -> Vec<String> {
        let name = key.name;
        let sample = |kind: &str| if kind == "provider" { "claude" } else { "x.example.com" };
        match &key.takes {
            OneOf(words) => words.iter().map(|(word, _)| format!("{indent}{name}: {word}\n")).collect(),
            Like(_, value) => vec![format!("{indent}{name}: {value}\n")],
            Map(kind, _, value) => vec![format!("{indent}{name}:\n{indent}  {}: {value}\n", sample(kind))],
            One(_) | Named(..) | List(_) => vec![format!("{indent}{name}:\n")],
        }
    }

    /// Reads every key of a section below what leads to it; `beside` are the lines that a key needs.
    fn check(section: &Section, before: &str, indent: &str, beside: fn(&str) -> &str, read: fn(&str)) {
        for key in section.keys {
            for lines in examples(key, indent) {
                read(&format!("{before}{lines}{}", beside(key.name)));
            }
        }
    }

    #[test]
    fn every_value_that_is_told_of_is_understood() {
        let alone = |_: &str| "";
        let as_settings = |text: &str| drop(settings(text));
        check(&SETTINGS, "", "", alone, as_settings);
        check(&AGENT, "agents:\n  a:\n", "    ", alone, as_settings);
        check(&BOTTLE, "bottles:\n  base:\n  web:\n", "    ", alone, as_settings);
        check(&PROVIDER, "providers:\n  claude:\n", "    ", alone, as_settings);
        check(&UPSTREAM, "upstream:\n", "  ", alone, as_settings);
        let as_routes = |text: &str| drop(routes(text));
        check(&ROUTES, "", "", alone, as_routes);
        let token = |name: &str| match name {
            "auth_scheme" => "    token_env: TOKEN\n",
            "token_env" | "token_file" => "    auth_scheme: bearer\n",
            _ => "",
        };
        let host = "routes:\n  - ports: 443\n    host: a.example\n";
        for key in ROUTE.keys.iter().filter(|key| !["host", "ports"].contains(&key.name)) {
            examples(key, "    ").iter().for_each(|lines| as_routes(&format!("{host}{lines}{}", token(key.name))));
        }
        let pattern = |name: &str| if name == "name" { "    pattern: x{8}\n" } else { "    name: own\n" };
        check(&DETECTOR, "detectors:\n  -\n", "    ", pattern, as_routes);
        check(&MARKER, "markers:\n  -\n", "    ", pattern, as_routes);
    }

    #[test]
    fn what_is_left_out_is_as_the_table_says() {
        for key in SETTINGS.keys {
            if let Value(value) = key.default {
                assert_eq!(settings(&format!("{}: {value}", key.name)), Settings::default(), "{}", key.name);
            }
        }
        assert_eq!(settings("upstream:\n  idle: 300s"), Settings::default());
        let usual = routes("routes:\n  - host: a.example").routes;
        for key in ROUTE.keys {
            if let Value(value) = key.default {
                let text = format!("routes:\n  - host: a.example\n    {}: {value}", key.name);
                assert_eq!(routes(&text).routes, usual, "{}", key.name);
            }
        }
    }
}
