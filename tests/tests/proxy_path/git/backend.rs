//! A real repository behind a real `git http-backend`, served by the provider of the world, and real clients of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use egress_userspace::domain::{Auth, RefPattern, Route, RouteFile};
use hyper::Response;
use hyper::http::header::{HeaderName, HeaderValue};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::super::provider::{Asked, Provider};
use super::super::world::{PATIENCE, ROUTED, World};

/// What came of a command of git.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) is_well: bool,
    pub(super) output: String,
    pub(super) errors: String,
}

/// A world with one repository at `https://ROUTED/r.git` and a directory for clients.
pub(super) struct Forge {
    pub(super) world: World,
    directory: TempDir,
}

impl Forge {
    /// The repository has a branch `main` with three commits.
    pub(super) async fn start(fetch: bool, push: &[&str]) -> Self {
        let forge = Self { world: World::start().await, directory: tempfile::tempdir().unwrap() };
        let pem = format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            STANDARD.encode(&forge.world.bottle_roots)
        );
        fs::write(forge.path("ca.pem"), pem).unwrap();
        forge.allow(fetch, push).await;
        forge.local("", &["init", "--quiet", "--bare", "--initial-branch=main", "r.git"]).await;
        forge.local("r.git", &["config", "http.receivepack", "true"]).await;
        forge.local("r.git", &["config", "receive.advertisePushOptions", "true"]).await;
        forge.local("", &["init", "--quiet", "--initial-branch=main", "work"]).await;
        for name in ["one", "two", "three"] {
            forge.commit("work", name).await;
        }
        forge.local("work", &["push", "--quiet", "../r.git", "main"]).await;
        forge.local("work", &["remote", "add", "origin", &format!("https://{ROUTED}/r.git")]).await;
        forge
    }

    /// From now on routes say this.
    pub(super) async fn allow(&self, fetch: bool, push: &[&str]) {
        self.allow_with(fetch, push, Auth::Unsaid).await;
    }

    /// The same with a credential.
    pub(super) async fn allow_with(&self, fetch: bool, push: &[&str], auth: Auth) {
        let mut route = Route::to(ROUTED.parse().unwrap(), "routes.yaml:3".to_owned());
        (route.git_fetch, route.auth) = (fetch, auth);
        route.git_push = push.iter().map(|pattern| pattern.parse::<RefPattern>().unwrap()).collect();
        self.world.route(RouteFile { routes: vec![route], ..RouteFile::default() });
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A new commit in a work tree.
    pub(super) async fn commit(&self, work: &str, name: &str) {
        fs::write(self.path(work).join(name), name).unwrap();
        self.local(work, &["add", "."]).await;
        self.local(work, &["commit", "--quiet", "--message", name]).await;
    }

    /// What a ref of the repository is, or nothing.
    pub(super) async fn at(&self, name: &str) -> Option<String> {
        let said = self.run("r.git", &["rev-parse", "--verify", "--quiet", name]).await;
        said.is_well.then(|| said.output.trim().to_owned())
    }

    /// What it is in a work tree.
    pub(super) async fn tip(&self, work: &str) -> Option<String> {
        Some(self.local(work, &["rev-parse", "HEAD"]).await.output.trim().to_owned())
    }

    /// All refs of the repository.
    pub(super) async fn refs(&self) -> Vec<String> {
        let said = self.local("r.git", &["for-each-ref", "--format=%(refname)"]).await;
        said.output.lines().map(str::to_owned).collect()
    }

    /// Git without the proxy, which must do what it is told.
    pub(super) async fn local(&self, work: &str, arguments: &[&str]) -> Said {
        let said = self.run(work, arguments).await;
        assert!(said.is_well, "git {arguments:?}: {said:?}");
        said
    }

    async fn run(&self, work: &str, arguments: &[&str]) -> Said {
        let run = self.command(work).args(arguments).output();
        of(&timeout(PATIENCE, run).await.expect("git does not end").unwrap())
    }

    /// Git in the bottle: its requests go through the proxy, and the repository answers them.
    pub(super) async fn git(&self, work: &str, arguments: &[&str]) -> Said {
        let mut command = self.command(work);
        command.arg("-c").arg(format!("http.proxy=http://{}", self.world.doors.explicit));
        let run = command.args(arguments).output();
        tokio::select! {
            run = timeout(PATIENCE, run) => of(&run.expect("git does not end").unwrap()),
            () = serve(&self.world.provider, self.directory.path()) => unreachable!("it serves for ever"),
        }
    }

    fn command(&self, work: &str) -> Command {
        let mut command = Command::new("git");
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.current_dir(self.path(work)).env_clear().env("PATH", path).env("HOME", self.directory.path());
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C");
        command.env("GIT_SSL_CAINFO", self.path("ca.pem"));
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "A").env(format!("GIT_{who}_EMAIL"), "a@example.com");
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

fn of(output: &std::process::Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { is_well: output.status.success(), output: text(&output.stdout), errors: text(&output.stderr) }
}

async fn serve(provider: &Provider, root: &Path) {
    loop {
        let asked = provider.next().await;
        tokio::spawn(answer(asked, root.to_owned()));
    }
}

/// Who may use the repository, where not everybody may: a line of `Authorization`.
pub(super) const GUARD: &str = "authorization";

/// One request as a web server hands it to a CGI program.
async fn answer(asked: Asked, root: PathBuf) {
    let guard = fs::read_to_string(root.join(GUARD)).ok();
    if guard.is_some_and(|guard| asked.head.headers.get(GUARD).is_none_or(|value| *value != *guard)) {
        let head = Response::builder().status(401).header("www-authenticate", "Basic realm=\"r\"");
        return asked.whole(head, "");
    }
    let header = |name: &str| asked.head.headers.get(name).map_or("", |value| value.to_str().unwrap());
    let mut command = Command::new("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("REQUEST_METHOD", asked.head.method.as_str()).env("PATH_INFO", asked.head.uri.path());
    command.env("QUERY_STRING", asked.head.uri.query().unwrap_or_default());
    command.env("CONTENT_TYPE", header("content-type")).env("CONTENT_LENGTH", asked.body.len().to_string());
    command.env("HTTP_CONTENT_ENCODING", header("content-encoding")).env("GIT_PROTOCOL", header("git-protocol"));
    command.env("REMOTE_USER", "bottle").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut backend = command.spawn().unwrap();
    let (mut input, body) = (backend.stdin.take().unwrap(), asked.body.clone());
    let writing = async move {
        // A backend that has heard enough closes it.
        let _ = input.write_all(&body).await;
    };
    let (output, ()) = tokio::join!(backend.wait_with_output(), writing);
    let output = output.unwrap().stdout;
    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let mut head = Response::builder();
    for line in std::str::from_utf8(&output[..end]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        head = match name {
            "Status" => head.status(value.split(' ').next().unwrap()),
            name => head.header(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()),
        };
    }
    asked.whole(head, output[end + 4..].to_vec());
}
