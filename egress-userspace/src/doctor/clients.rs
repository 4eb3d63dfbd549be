//! Ordinary clients, each in a bottle of the running daemon: names lead to the gateway, its CA is trusted, egress answers, and
//! a host that no route allows is refused.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Options;
use super::report::{Area, Verdict};
use crate::control::StatusReply;

/// Of one client, from the start of its bottle to its end.
const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);
/// Printed by what has worked.
const REACHED: &str = "egress-reached";
const REFUSED: &str = "egress-refused";
const NOT_HERE: &str = "egress-not-here";

/// A client, and how it is had to ask. Both lines print what came of it.
struct Program {
    name: &'static str,
    reach: &'static str,
    refuse: &'static str,
}

/// What `git` is answered at a path that is nothing: it got that far.
const PROGRAMS: [Program; 5] = [
    Program {
        name: "curl",
        reach: "test \"$(curl -sS --max-time 10 https://_egress.local/healthz)\" = ok && echo egress-reached",
        refuse: "curl -sS --max-time 10 -o /dev/null https://unlisted.example/ || echo egress-refused",
    },
    Program {
        name: "python3",
        reach: "python3 -c \"import urllib.request as u; \
                print('egress-reached' if u.urlopen('https://_egress.local/healthz', timeout=10).read() == b'ok' else '')\"",
        refuse: "python3 -c \"import urllib.request as u; u.urlopen('https://unlisted.example/', timeout=10)\" 2>&1 || \
                 echo egress-refused",
    },
    Program {
        name: "node",
        reach: "node -e \"fetch('https://_egress.local/healthz').then(r => r.text())\
                .then(t => console.log(t === 'ok' ? 'egress-reached' : t))\"",
        refuse: "node -e \"fetch('https://unlisted.example/').then(() => process.exit(0), () => process.exit(1))\" || \
                 echo egress-refused",
    },
    Program {
        name: "go",
        reach: "d=$(mktemp -d) && cd $d && printf 'package main\\nimport (\"fmt\";\"io\";\"net/http\")\\nfunc main() { \
                r, e := http.Get(\"https://_egress.local/healthz\"); if e != nil { fmt.Println(e); return }; \
                b, _ := io.ReadAll(r.Body); if string(b) == \"ok\" { fmt.Println(\"egress-reached\") }; \
                if _, e = http.Get(\"https://unlisted.example/\"); e != nil { fmt.Println(\"egress-refused\") } }' \
                > main.go && HOME=$d GOTOOLCHAIN=local go run main.go",
        refuse: ":",
    },
    Program {
        name: "git",
        reach: "git ls-remote https://_egress.local/repository.git 2>&1 | grep -q 'not found' && echo egress-reached",
        refuse: "GIT_TERMINAL_PROMPT=0 git ls-remote https://unlisted.example/repository.git 2>&1 || echo egress-refused",
    },
];

/// Runs each that is here.
pub(super) fn try_all(options: &Options, status: &StatusReply, area: &mut Area<'_>) {
    for program in PROGRAMS {
        let Program { name, reach, refuse } = program;
        // A name leads to the gateway in the same bottle.
        let resolves = format!("getent ahostsv4 _egress.local | grep -q '^{} ' && ", status.gateway);
        let line = format!(
            "command -v {name} >/dev/null || {{ echo {NOT_HERE}; exit 0; }}; {resolves} {{ {reach}; }}; ( {refuse} )"
        );
        area.begin(format!("running {name} in a bottle"));
        match run(options, &line) {
            Err(problem) => area.check(name, Verdict::Failed, problem),
            Ok(said) if said.contains(NOT_HERE) => area.check(name, Verdict::NotChecked, "not here"),
            Ok(said) => {
                let (reached, refused) = (said.contains(REACHED), said.contains(REFUSED));
                let (verdict, says) = match (reached, refused) {
                    (true, true) => {
                        (Verdict::Holds, "answered by egress over trusted TLS; other hosts refused".to_owned())
                    }
                    (false, _) => {
                        (Verdict::Failed, format!("got no answer by egress over trusted TLS: {}", tail(&said)))
                    }
                    (true, false) => (Verdict::Failed, "reached a host that no route allows".to_owned()),
                };
                area.check(name, verdict, says);
            }
        }
    }
}

fn tail(said: &str) -> &str {
    let lines = || said.lines().filter(|line| !line.trim().is_empty() && !line.contains(REFUSED));
    lines().next_back().unwrap_or("it said nothing")
}

/// What a line of shell says in a bottle that is there for nothing else.
fn run(options: &Options, line: &str) -> Result<String, String> {
    let bottle = format!("doctor-{}", std::process::id());
    let egress = |arguments: &[&str]| {
        let mut command = Command::new(&options.executable);
        command.arg("--run-dir").arg(&options.run_directory).args(arguments).current_dir(Path::new("/"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let result = egress(&["run", &bottle, "--", "sh", "-c", line]).spawn().map_err(|error| error.to_string());
    let said = result.and_then(wait);
    // Its files, if it has written any.
    let _ = egress(&["kill", &bottle]).output();
    said
}

fn wait(mut child: Child) -> Result<String, String> {
    let (output, errors) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => {
                let said = [output.join().unwrap_or_default(), errors.join().unwrap_or_default()].concat();
                return Ok(said);
            }
            Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
            Ok(None) => {
                // It ends with its front-end.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn collect(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            // What was read before it broke is what was said.
            let _ = from.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_told() {
        for (said, expected) in [("", "it said nothing"), ("a\nb\n\n", "b"), ("a\negress-refused\n", "a")] {
            assert_eq!(tail(said), expected);
        }
    }

    #[test]
    fn every_line_says_what_is_looked_for() {
        for Program { name, reach, refuse } in PROGRAMS {
            assert!(reach.contains(REACHED) && [reach, refuse].concat().contains(REFUSED), "{name}");
        }
    }
}
