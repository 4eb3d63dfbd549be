//! What settings files mean, and what is said of those that mean nothing.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::domain::{
    Api, BottleRules, Budget, CacheReads, CrossingMode, CutMode, CutoffPolicy, EnforcerChoice, Precedence, Preflight,
    Preflights, StreamUsage, Thresholds,
};

/// Reads it beside a small built-in table.
fn read(text: &str) -> Result<Settings, SettingsError> {
    let built_in = [("api.anthropic.com", "claude"), ("api.openai.com", "codex"), ("*.openai.azure.com", "azure")];
    let built_in = built_in.map(|(host, provider)| (host.parse().unwrap(), provider.parse().unwrap()));
    parse(text, Path::new("settings.yml"), &built_in)
}

fn good(text: &str) -> Settings {
    read(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn bad(text: &str, expected: &str) {
    let error = read(text).expect_err(text);
    assert_eq!(error.to_string(), format!("settings.yml:{expected}"), "{text:?}");
}

const EVERYTHING: &str = "\
# The host's.
budget:
  claude: 5000000   # as a number
  codex: 5_000_000
  azure: \"200k/hour\"
  local: 0
precedence: strict
crossing: sever
cache_reads: ignore
time_zone: Europe/Berlin
thresholds: 50, 99
preflight: exact
durability: power
enforcer: nftables
cut_mode: drop
metrics: 127.0.0.1:9464
agents:
  reviewer:
    budget:
      claude: 2M/day
  writer:
bottles:
  web:
    extends: base
    preflight: strict
    shutdown: kill
  base:
    budget:
      local: 1k/month
shutdown: freeze
drain: 500ms
last_word: 0
upstream:
  ca: extra-roots.pem
  idle: 90s
  resolve:
    api.anthropic.com: 127.0.0.1:9443
    API.OpenAI.com: \"[::1]:443\"
    vllm.corp.example: 10.0.0.7:8443
providers:
  local:
    hosts:
      Ollama.corp.example: ollama
      \"*.corp.example\": openai_compatible
    stream_usage: told
  codex:
    stream_usage: on_request
    preflight: off
";

#[test]
fn everything_that_can_be_said() {
    let text = EVERYTHING;
    let expected = Settings {
        rules: everything_laid_down(),
        durability: Durability::Power,
        enforcer: EnforcerChoice::Nftables,
        cut_mode: CutMode::Drop,
        metrics: Some("127.0.0.1:9464".parse().unwrap()),
        drain: Duration::from_millis(500),
        last_word: Duration::ZERO,
        providers: vec![
            Provider {
                name: "local".parse().unwrap(),
                hosts: vec![
                    ("ollama.corp.example".parse().unwrap(), Api::Ollama),
                    ("*.corp.example".parse().unwrap(), Api::OpenAiCompatible),
                ],
                stream_usage: Some(StreamUsage::Told),
            },
            Provider { name: "codex".parse().unwrap(), hosts: Vec::new(), stream_usage: Some(StreamUsage::OnRequest) },
        ],
        upstream_ca: Some("extra-roots.pem".into()),
        upstream_idle: Duration::from_secs(90),
        upstream_resolve: vec![
            ("api.anthropic.com".parse().unwrap(), "127.0.0.1:9443".parse().unwrap()),
            ("api.openai.com".parse().unwrap(), "[::1]:443".parse().unwrap()),
            ("vllm.corp.example".parse().unwrap(), "10.0.0.7:8443".parse().unwrap()),
        ],
    };
    assert_eq!(good(text), expected);
    assert_eq!(good(&text.replace('\n', "\r\n")), expected, "written on Windows");
    assert_eq!(good(&format!("---\n{text}...\n")), expected, "with document marks");
    assert_eq!(good(&format!("\u{feff}{text}")), expected, "with a byte order mark");
}

#[test]
fn metrics_stay_on_this_host() {
    for address in ["127.0.0.1:9464", "127.9.9.9:1", "\"[::1]:9464\""] {
        assert!(good(&format!("metrics: {address}")).metrics.is_some(), "{address}");
    }
    for address in ["0.0.0.0:9464", "10.213.0.1:9464", "192.0.2.7:9464"] {
        let why = "is not an address of this host's loopback: write 127.0.0.1:9464 or \"[::1]:9464\"";
        bad(&format!("drain: 1s\nmetrics: {address}"), &format!("2:10: {address:?} {why}"));
    }
    bad(
        "metrics: \"[::]:9464\"",
        "1:10: \"[::]:9464\" is not an address of this host's loopback: write 127.0.0.1:9464 or \"[::1]:9464\"",
    );
    for address in ["9464", "localhost:9464", "127.0.0.1", "127.0.0.1:0"] {
        let error = read(&format!("metrics: {address}")).unwrap_err().to_string();
        assert!(error.contains("is not an address with a port"), "{error}");
    }
}

fn everything_laid_down() -> Rules {
    let budget = |amounts: &[(&str, &str)]| -> Budget {
        amounts.iter().map(|(provider, limit)| (provider.parse().unwrap(), limit.parse().unwrap())).collect()
    };
    let web = BottleRules {
        extends: Some("base".parse().unwrap()),
        preflight: Some(Preflight::Strict),
        shutdown: Some(CutoffPolicy::Kill),
        ..BottleRules::default()
    };
    let base = BottleRules { budget: budget(&[("local", "1k/month")]), ..BottleRules::default() };
    Rules {
        host: budget(&[("claude", "5M"), ("codex", "5M"), ("azure", "200k/hour"), ("local", "0")]),
        agents: BTreeMap::from([
            ("reviewer".parse().unwrap(), budget(&[("claude", "2M/day")])),
            ("writer".parse().unwrap(), Budget::new()),
        ]),
        bottles: BTreeMap::from([("web".parse().unwrap(), web), ("base".parse().unwrap(), base)]),
        shutdown: CutoffPolicy::Freeze,
        precedence: Precedence::Strict,
        cache_reads: CacheReads::Ignore,
        crossing: CrossingMode::Sever,
        preflight: Preflights {
            usual: Preflight::Exact,
            by_provider: BTreeMap::from([("codex".parse().unwrap(), Preflight::Off)]),
        },
        thresholds: Thresholds(vec![50, 99]),
        zone: "Europe/Berlin".parse().unwrap(),
    }
}

/// The file of a user who wants just that.
#[test]
fn two_keys_are_enough() {
    let settings = good("budget:\n  claude: 5000000\n  codex: 2000000\nshutdown: cutoff\n");
    let budget: Vec<String> =
        settings.rules.host.iter().map(|(provider, limit)| format!("{provider} {limit}")).collect();
    assert_eq!(budget, ["claude 5,000,000", "codex 2,000,000"]);
}

#[test]
fn names_that_stand_for_nothing_are_shown() {
    bad("budget:\n  cluade: 1", "2:3: there is no provider \"cluade\": did you mean \"claude\"?");
    let known = "known here are azure, claude, codex";
    bad("agents:\n  a:\n    budget:\n      gemini: 1", &format!("4:7: there is no provider \"gemini\": {known}"));
    let bottles = "bottles:\n  web:\n    extends: bsae\n  base:\n";
    bad(bottles, "3:14: there is no bottle \"bsae\": did you mean \"base\"?");
    bad("bottles:\n  web:\n    extends: x", "3:14: there is no bottle \"x\": nothing of the kind is named here");
    let circle = "bottles:\n  a:\n    extends: b\n  b:\n    extends: c\n  c:\n    extends: a\n";
    bad(circle, "3:14: bottles extend each other in a circle: a -> b -> c -> a");
    bad("bottles:\n  a:\n    extends: a", "3:14: bottles extend each other in a circle: a -> a");
    good("budget:\n  later: 1\nproviders:\n  later:\n    hosts:\n      a.example: openai_compatible");
}

#[test]
fn words_of_choice() {
    bad(
        "precedence: all",
        "1:13: \"all\" is not a precedence: write nearest (the nearest budget binds) or strict (every budget does)",
    );
    bad(
        "crossing: cut",
        "1:11: \"cut\" is not a way to cross a budget: write finish (the response is delivered) or sever (it ends there)",
    );
    bad("cache_reads: free", "1:14: \"free\" is not a way to treat cache reads: write count or ignore");
    bad(
        "enforcer: iptables",
        "1:11: \"iptables\" is not an enforcer: write auto (eBPF where the kernel can), ebpf or nftables",
    );
    bad(
        "cut_mode: hang",
        "1:11: \"hang\" is not a way to be cut: write reset (TCP is reset, clients fail at once) or drop (silence)",
    );
    bad(
        "durability: disk",
        "1:13: \"disk\" is not a durability: write process (survives crashes) or power (survives the loss of power too)",
    );
    bad(
        "time_zone: CET-ish",
        "1:12: \"CET-ish\" is not a time zone: write a name of the IANA database, such as UTC or Europe/Berlin",
    );
    for text in ["80, 70", "0", "100", "80,80", "80 90", "x", "80,"] {
        let shape = "is not a list of percentages: write 80, 90, 95, 99 — each from 1 to 99, rising — or nothing";
        bad(&format!("thresholds: {text}"), &format!("1:13: {text:?} {shape}"));
    }
    assert_eq!(good("thresholds:").rules.thresholds, Thresholds(Vec::new()));
    bad("bottles:\n  web:\n    budgte:\n", "3:5: unknown key \"budgte\": did you mean \"budget\"?");
    bad("agents:\n  web:\n    extends: x\n", "3:5: unknown key \"extends\": known here are budget");
}

#[test]
fn what_is_not_said_is_as_by_default() {
    for empty in
        ["", "\n\n", "# nothing\n", "---\n", "budget:\nupstream:\n", "providers:\n", "upstream:\n  resolve:\n", "~"]
    {
        assert_eq!(good(empty), Settings::default(), "{empty:?}");
    }
}

#[test]
fn durations() {
    for (text, milliseconds) in [("0", 0), ("0s", 0), ("1ms", 1), ("2s", 2_000), ("1m", 60_000), ("600s", 600_000)] {
        assert_eq!(good(&format!("drain: {text}")).drain, Duration::from_millis(milliseconds), "{text}");
    }
    for text in ["1", "s", "-1s", "1.5s", "1 s", "1h", "1S", "1sms", "+1s", "1_000ms"] {
        bad(&format!("drain: {text}"), &format!("1:8: {text:?} is not a duration: write 0, 500ms, 2s or 1m"));
    }
    bad(
        "upstream:\n  idle: 999ms",
        "2:9: \"999ms\" is too short: at least 1s, or every response ends while the model thinks",
    );
    bad("drain: 601s", "1:8: \"601s\" is too long: at most 10m");
    bad("last_word: 99999999999999999999m", "1:12: \"99999999999999999999m\" is too long: at most 10m");
}

#[test]
fn a_bad_value_is_shown_where_it_stands() {
    let shape = "is not an amount of tokens: write 5000, 5_000, 5k or 5M";
    bad("# x\nbudget:\n  claude: 5x\n", &format!("3:11: \"5x\" {shape}"));
    bad("budget:\n  claude:   '5.5k'\n", &format!("2:13: \"5.5k\" {shape}"));
    bad("budget:\n  claude: -1\n", &format!("2:11: \"-1\" {shape}"));
    bad("budget:\n  claude: 1e6\n", &format!("2:11: \"1e6\" {shape}"));
    bad("budget:\n  claude: ''\n", &format!("2:11: \"\" {shape}"));
    bad(
        "budget:\n  claude: 99999999M\n  codex: 9999999999999M",
        "3:10: \"9999999999999M\" is more tokens than can be counted",
    );
    let window = "is not a window: write an amount alone, or with /hour, /day, /week or /month, such as 2M/day";
    bad("budget:\n  claude: 2M/year", &format!("2:11: \"/year\" {window}"));
    bad("budget:\n  claude: 2M/", &format!("2:11: \"/\" {window}"));
    bad("budget:\n  claude: 2x/day", &format!("2:11: \"2x\" {shape}"));
    let way = "is not a way to look at a request before it is sent: write estimate, exact, strict or off";
    for text in ["on", "Exact", "false"] {
        bad(&format!("preflight: {text}"), &format!("1:12: {text:?} {way}"));
    }
    for preflight in Preflight::ALL {
        assert_eq!(good(&format!("preflight: {}", preflight.as_str())).rules.preflight.usual, preflight);
    }
    bad("shutdown: Cutoff", "1:11: \"Cutoff\" is not a way to shut a bottle down: write cutoff, freeze or kill");
    let address = "is not an address with a port: write 127.0.0.1:9464 or \"[::1]:9464\"";
    for text in ["127.0.0.1", "localhost:443", "127.0.0.1:0", "127.0.0.1:65536", "::1"] {
        bad(&format!("upstream:\n  resolve:\n    a.example: {text}"), &format!("3:16: {text:?} {address}"));
    }
}

#[test]
fn a_bad_key_is_shown_where_it_stands() {
    bad("drain: 1s\nbudgets:\n  claude: 1", "2:1: unknown key \"budgets\": did you mean \"budget\"?");
    bad("Drain: 1s", "1:1: unknown key \"Drain\": did you mean \"drain\"?");
    bad("lastword: 1s", "1:1: unknown key \"lastword\": did you mean \"last_word\"?");
    bad("upstream:\n  resolv:", "2:3: unknown key \"resolv\": did you mean \"resolve\"?");
    bad("upstream:\n  xy: 1", "2:3: unknown key \"xy\": known here are ca, idle, resolve");
    bad(
        "budget:\n  Claude: 1",
        "2:3: \"Claude\" is not a provider name: use 1 to 48 of a-z, 0-9, '-' and '_', beginning with a letter or digit",
    );
    bad(
        "upstream:\n  resolve:\n    10.0.0.1: 10.0.0.1:1",
        "3:5: \"10.0.0.1\" is not a host name: expected dot-separated labels of letters, digits, '-' and '_'",
    );
    bad("drain: 1s\nbudget:\n  a: 1\n  b: 1\n  a: 2", "5:3: \"a\" is there twice, first in line 3");
    bad("drain: 1s\n\"drain\": 1s", "2:1: \"drain\" is there twice, first in line 1");
    bad(
        "upstream:\n  resolve:\n    a.b: 1.1.1.1:1\n    A.b: 1.1.1.1:1",
        "4:5: \"A.b\" is there twice, first in line 3",
    );
}

#[test]
fn providers_are_read_with_their_hosts() {
    for api in Api::ALL {
        let text = format!("providers:\n  mine:\n    hosts:\n      a.example: {}", api.as_str());
        assert_eq!(good(&text).providers[0].hosts, [("a.example".parse().unwrap(), api)]);
    }
    let hosts = |lines: &str| format!("providers:\n  mine:\n    hosts:\n      {lines}\n");
    let apis = "anthropic, openai, chatgpt, gemini, code_assist, vertex, azure, bedrock, openrouter, \
                openai_compatible, ollama";
    bad(&hosts("a.example: vllm"), &format!("4:18: \"vllm\" is not an API: known here are {apis}"));
    bad(&hosts("a.example: open_ai"), "4:18: \"open_ai\" is not an API: did you mean \"openai\"?");
    bad(&hosts("a.example:"), "4:7: \"a.example\" needs one value on its own line");
    let pattern = "expected a host name in which '*' stands for part of a label, not of the last two";
    bad(&hosts("\"*.com\": ollama"), &format!("4:7: \"*.com\" is not a host pattern: {pattern}"));
    bad(&hosts("10.0.0.1: ollama"), &format!("4:7: \"10.0.0.1\" is not a host pattern: {pattern}"));
    let quotes = "a name that begins with '*' is written in quotes: \"*.corp.example\"";
    bad(&hosts("*.corp.example: ollama"), &format!("4:7: {quotes}"));
    bad(&hosts("a.b: ollama\n      A.B.: ollama"), "5:7: \"A.B.\" is there twice, first in line 4");
    let again = format!("{}  other:\n    hosts:\n      a.b: azure", hosts("a.b: ollama"));
    bad(&again, "7:7: \"a.b\" is there twice, first in line 4");
    bad("providers:\n  mine:\n    host:", "3:5: unknown key \"host\": did you mean \"hosts\"?");
    bad(
        "providers:\n  Mine:\n",
        "2:3: \"Mine\" is not a provider name: use 1 to 48 of a-z, 0-9, '-' and '_', beginning with a letter or digit",
    );
    let no_hosts = "has no hosts: name them under `hosts:`, each with its API, such as openai_compatible";
    bad("providers:\n  codes:\n    stream_usage: told", &format!("2:3: provider codes {no_hosts}"));
    bad("providers:\n  codes:\n    hosts:", &format!("2:3: provider codes {no_hosts}"));
    bad(
        "providers:\n  codex:\n    stream_usage: always",
        "3:19: \"always\" is not what servers do about usage: write told (in any case) or on_request (when asked by \
         stream_options)",
    );
}

#[test]
fn values_and_sections_are_not_mixed_up() {
    bad("budget: 5M", "1:9: expected `key: value` lines here");
    bad("just text", "1:1: expected `key: value` lines here");
    bad("drain:\n  a: 1", "2:3: \"drain\" needs one value on its own line");
    bad("last_word: 1s\ndrain:\n", "2:1: \"drain\" needs one value on its own line");
    bad("budget:\n  claude:\n  codex: 1", "2:3: \"claude\" needs one value on its own line");
    bad("upstream:\n  ca: ''", "2:7: \"ca\" needs one value on its own line");
}

#[test]
fn only_plain_yaml_is_read() {
    let refused = |what: &str| format!("{what} are not supported here: write block mappings of `key: value` lines");
    bad("budget: {claude: 1}", &format!("1:9: {}", refused("flow mappings `{…}`")));
    bad("# ä\nbudget: {}", &format!("2:9: {}", refused("flow mappings `{…}`")));
    bad("budget: [claude]", &format!("1:9: {}", refused("lists")));
    bad("budget:\n  - claude", &format!("2:3: {}", refused("lists")));
    bad("drain: |\n  1s\n", &format!("2:3: {}", refused("values of several lines")));
    bad("drain: >-\n  1s\n", &format!("2:3: {}", refused("values of several lines")));
    bad("drain: 1\n  s\n", &format!("1:8: {}", refused("values of several lines")));
    bad("drain: \"1\n  s\"\n", &format!("1:8: {}", refused("values of several lines")));
    bad("drain: &a 1s\nlast_word: *a", &format!("1:8: {}", refused("anchors")));
    bad("budget: &a\n  claude: 1", &format!("1:9: {}", refused("anchors")));
    bad("drain: !!str 1s", &format!("1:8: {}", refused("tags")));
    bad("drain: 1s\n---\ndrain: 1s", &format!("2:1: {}", refused("several documents in one file")));
    let deep: String = (0..40).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    bad(&deep, &format!("17:17: {}", refused("mappings this deep")));
}

#[test]
fn what_is_no_yaml_is_shown_where_it_breaks() {
    for (text, line) in
        [("budget:\n\tclaude: 1", 2), ("drain: \"1s", 1), ("a: b: c", 1), ("drain: 1s\n}", 2), ("drain: *nobody", 1)]
    {
        let error = read(text).expect_err(text);
        assert!(matches!(error.problem, Problem::Syntax(_)), "{text:?}: {error}");
        assert!(error.line.abs_diff(line) <= 1, "{text:?}: {error}");
    }
}
