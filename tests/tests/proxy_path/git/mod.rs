//! Git over HTTPS: the real client, through the proxy, against a real `git http-backend`.

mod backend;

use std::fs;

use egress_userspace::domain::{Auth, AuthScheme, RefusalReason, SecretSource};
use hyper::{Request, Version};

use super::client::{Client, Names, Way, whole};
use super::world::ROUTED;
use backend::{Forge, GUARD, Said};

const BOTTLE_REFS: &[&str] = &["refs/heads/bottle/*"];
/// The protocols that clients speak.
const PROTOCOLS: [&str; 3] = ["protocol.version=0", "protocol.version=1", "protocol.version=2"];
/// More than git sends in one piece.
const LARGE_BYTES: usize = 3 << 20;

impl Forge {
    /// Pushes from `work`, and returns what git says of it.
    async fn push(&self, work: &str, arguments: &[&str]) -> Said {
        self.git(work, &[&["push", "origin"], arguments].concat()).await
    }

    async fn pushes(&self, work: &str, arguments: &[&str]) {
        let said = self.push(work, arguments).await;
        assert!(said.is_well, "{said:?}");
    }

    /// The push is refused with these words, and nothing is there that was not there before.
    async fn is_refused(&self, work: &str, arguments: &[&str], words: &[&str]) {
        let before = (self.refs().await, self.at("refs/heads/bottle/x").await, self.at("refs/heads/main").await);
        let said = self.push(work, arguments).await;
        assert!(!said.is_well, "{said:?}");
        for word in words {
            assert!(said.errors.contains(word), "{word:?} is not in {}", said.errors);
        }
        let after = (self.refs().await, self.at("refs/heads/bottle/x").await, self.at("refs/heads/main").await);
        assert_eq!(after, before);
    }

    /// The refusals that were told of: each once, all of git.
    async fn told(&self) -> Vec<String> {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let refused = self.world.heard.borrow().refused.clone();
        assert!(refused.iter().all(|refused| refused.reason == RefusalReason::GitForbidden && refused.count == 1));
        assert!(refused.iter().all(|refused| refused.rule.as_deref() == Some("routes.yaml:3")));
        refused.into_iter().map(|refused| refused.target).collect()
    }
}

#[tokio::test]
async fn what_may_be_fetched_is_fetched_in_every_protocol() {
    let forge = Forge::start(true, &[]).await;
    for (number, protocol) in PROTOCOLS.into_iter().enumerate() {
        let (url, to) = (format!("https://{ROUTED}/r.git"), number.to_string());
        let said = forge.git("", &["-c", protocol, "clone", &url, &to]).await;
        assert!(said.is_well, "{said:?}");
        assert_eq!(forge.tip(&to).await, forge.at("refs/heads/main").await);
    }
    assert_eq!(forge.told().await, [""; 0]);
}

#[tokio::test]
async fn what_may_not_be_fetched_is_refused_in_words() {
    let forge = Forge::start(false, BOTTLE_REFS).await;
    for protocol in PROTOCOLS {
        let said = forge.git("", &["-c", protocol, "clone", &format!("https://{ROUTED}/r.git"), "clone"]).await;
        assert!(!said.is_well, "{said:?}");
        let words = format!("remote: egress: no route lets this bottle fetch from {ROUTED}/r.git; an operator can");
        assert!(said.errors.contains(&words), "{}", said.errors);
    }
    assert_eq!(forge.told().await, ["GET /r.git/info/refs"; 3]);
}

#[tokio::test]
async fn without_word_of_git_a_route_lets_other_requests_pass() {
    let forge = Forge::start(false, &[]).await;
    forge
        .is_refused("work", &["main"], &["remote: egress: no route lets this bottle push to", "git_push:", "403"])
        .await;
    assert_eq!(forge.told().await, ["GET /r.git/info/refs"]);
    let names = Names { connect: ROUTED, sni: ROUTED };
    let mut client = Client::open_as(&forge.world, Way::Transparent, Version::HTTP_11, names).await.unwrap();
    let (response, ()) = tokio::join!(client.send_to(ROUTED, Request::get("/"), "/r.git", ""), async {
        forge.world.provider.asked().await.whole(hyper::Response::builder(), "a page");
    });
    assert_eq!(&whole(response.unwrap()).await[..], b"a page");
    let upgrade = || Request::get("/").header("connection", "upgrade").header("upgrade", "websocket");
    for (request, path, words) in [
        (Request::post("/"), "/r.git/git-receive-pack", "egress: no route lets this bottle push"),
        (Request::post("/"), "/r.git/git-upload-pack", "ERR egress: no route lets this bottle fetch"),
        (Request::get("/"), "/r.git/info/refs", "egress: no route lets this bottle fetch"),
        (Request::get("/"), "/r.git/HEAD", "egress: no route lets this bottle fetch"),
        (Request::post("/"), "/r.git/info/lfs/objects/batch", "egress: no route lets this bottle"),
        (Request::put("/"), "/r.git/info/refs", "cannot be checked"),
        (upgrade(), "/r.git/info/refs?service=git-upload-pack", "egress: no route lets this bottle fetch"),
    ] {
        let body = whole(client.send_to(ROUTED, request, path, "x").await.unwrap()).await;
        assert!(String::from_utf8_lossy(&body).contains(words), "{path}: {body:?}");
    }
    assert_eq!(forge.told().await.len(), 8);
    assert!(forge.world.provider.is_untouched().await);
}

#[tokio::test]
async fn refs_of_the_pattern_are_made_and_move_forward() {
    let forge = Forge::start(false, BOTTLE_REFS).await;
    for (number, protocol) in PROTOCOLS.into_iter().enumerate() {
        forge.commit("work", &format!("change {number}")).await;
        let said = forge.git("work", &["-c", protocol, "push", "origin", "HEAD:refs/heads/bottle/x"]).await;
        assert!(said.is_well, "{said:?}");
        assert_eq!(forge.at("refs/heads/bottle/x").await, forge.tip("work").await);
    }
    // Over a merge, and with a history that its pack holds as changes.
    forge.local("work", &["checkout", "--quiet", "-b", "side", "HEAD~3"]).await;
    for number in 0..20 {
        forge.commit("work", &format!("side {number}")).await;
    }
    forge.local("work", &["merge", "--quiet", "--no-edit", "main"]).await;
    forge.pushes("work", &["HEAD:refs/heads/bottle/x"]).await;
    forge.pushes("work", &["--atomic", "HEAD:refs/heads/bottle/y", "HEAD~1:refs/heads/bottle/z"]).await;
    assert_eq!(forge.at("refs/heads/bottle/x").await, forge.tip("work").await);
    assert_eq!(forge.told().await, [""; 0]);
}

#[tokio::test]
async fn no_other_ref_is_pushed_and_none_loses_commits() {
    let forge = Forge::start(true, BOTTLE_REFS).await;
    forge.commit("work", "first").await;
    forge.pushes("work", &["HEAD:refs/heads/bottle/x"]).await;
    forge.commit("work", "second").await;
    let only = "(egress: only refs/heads/bottle/* may be pushed to)";
    let remote = "remote: egress: this push to tools.corp.example/r.git is refused: refs/heads/main: only";
    forge.is_refused("work", &["main"], &["! [remote rejected] main -> main", only, remote]).await;
    forge.local("work", &["tag", "v1"]).await;
    forge.is_refused("work", &["v1"], &["! [remote rejected] v1 -> v1", only]).await;
    forge
        .is_refused("work", &["--delete", "bottle/x"], &["[remote rejected] bottle/x (egress: refs are not deleted)"])
        .await;
    let beside = "(egress: not pushed, because refs/heads/main is refused)";
    let both = ["HEAD:refs/heads/bottle/x", "HEAD:refs/heads/bottle/new", "HEAD:refs/heads/main"];
    forge.is_refused("work", &both, &[beside, only, "HEAD -> bottle/new"]).await;
    let mirror = ["HEAD:refs/heads/bottle/x", ":refs/heads/main"];
    forge.is_refused("work", &mirror, &[only, beside]).await;
    let options = ["--push-option=ci.skip", "HEAD:refs/heads/bottle/new"];
    forge.is_refused("work", &options, &["egress: it has options"]).await;

    let lost = "(egress: the push does not show that no commit is lost";
    forge.local("work", &["commit", "--quiet", "--amend", "--message", "other"]).await;
    forge.local("work", &["reset", "--quiet", "--hard", "HEAD~2"]).await;
    forge.is_refused("work", &["--force", "HEAD:refs/heads/bottle/x"], &[lost, "push without force"]).await;
    forge.commit("work", "instead").await;
    forge.is_refused("work", &["--force", "HEAD:refs/heads/bottle/x"], &[lost]).await;
    assert_eq!(forge.told().await, ["POST /r.git/git-receive-pack"; 8]);
    forge.pushes("work", &["HEAD:refs/heads/bottle/instead"]).await;
}

#[tokio::test]
async fn an_option_that_only_git_would_see_does_not_reach_it() {
    let forge = Forge::start(false, BOTTLE_REFS).await;
    let names = Names { connect: ROUTED, sni: ROUTED };
    let mut client = Client::open_as(&forge.world, Way::Transparent, Version::HTTP_11, names).await.unwrap();
    let (none, tip) = ("0".repeat(40), forge.tip("work").await.unwrap());
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let command = line(&format!("{none} {tip} refs/heads/bottle/x\0 report-status push-options\0"));
    let body = [command.as_str(), "0000", &line("merge_request.create"), "0000"].concat();
    let request = Request::post("/").header("content-type", "application/x-git-receive-pack-request");
    let response = client.send_to(ROUTED, request, "/r.git/git-receive-pack", body).await.unwrap();
    assert_eq!(response.status(), 403);
    let said = whole(response).await;
    assert!(String::from_utf8_lossy(&said).contains("its list of refs is malformed"), "{said:?}");
    assert_eq!(forge.told().await, ["POST /r.git/git-receive-pack"]);
    assert!(forge.world.provider.is_untouched().await);
}

#[tokio::test]
async fn a_guarded_repository_is_used_with_the_routes_credential() {
    let forge = Forge::start(true, BOTTLE_REFS).await;
    fs::write(forge.path(GUARD), "Basic eC1hY2Nlc3MtdG9rZW46czNjcmV0").unwrap();
    let url = format!("https://agent:own@{ROUTED}/r.git");
    assert!(!forge.git("", &["clone", &url, "clone"]).await.is_well);
    let auth = Auth::Inject(AuthScheme::Basic, SecretSource::Env("LOGIN".to_owned()));
    forge.world.secrets(&[("LOGIN", "x-access-token:s3cret")]);
    forge.allow_with(true, BOTTLE_REFS, auth).await;
    let said = forge.git("", &["clone", &url, "clone"]).await;
    assert!(said.is_well, "{said:?}");
    forge.commit("clone", "first").await;
    forge.pushes("clone", &["HEAD:refs/heads/bottle/x"]).await;
    assert_eq!(forge.at("refs/heads/bottle/x").await, forge.tip("clone").await);
}

#[tokio::test]
async fn a_large_push_is_judged_by_its_beginning() {
    let forge = Forge::start(false, BOTTLE_REFS).await;
    let mut state = 1u64;
    let mut noise = || {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..LARGE_BYTES).map(next).collect::<Vec<u8>>()
    };
    for version in ["HTTP/1.1", "HTTP/2"] {
        forge.local("work", &["config", "http.version", version]).await;
        fs::write(forge.path("work/large"), noise()).unwrap();
        forge.commit("work", &format!("first {}", version.len())).await;
        forge.is_refused("work", &["main"], &["only refs/heads/bottle/* may be pushed to"]).await;
        forge.pushes("work", &["HEAD:refs/heads/bottle/x"]).await;
        fs::write(forge.path("work/large"), noise()).unwrap();
        forge.commit("work", &format!("second {}", version.len())).await;
        forge.pushes("work", &["HEAD:refs/heads/bottle/x"]).await;
        assert_eq!(forge.at("refs/heads/bottle/x").await, forge.tip("work").await);
    }
}

#[tokio::test]
async fn a_shallow_clone_pushes_too() {
    let forge = Forge::start(true, BOTTLE_REFS).await;
    let url = format!("https://{ROUTED}/r.git");
    let said = forge.git("", &["clone", "--depth=1", &url, "shallow"]).await;
    assert!(said.is_well, "{said:?}");
    for name in ["first", "second"] {
        forge.commit("shallow", name).await;
        forge.pushes("shallow", &["HEAD:refs/heads/bottle/x"]).await;
    }
    assert_eq!(forge.at("refs/heads/bottle/x").await, forge.tip("shallow").await);
    forge.is_refused("shallow", &["HEAD:main"], &["only refs/heads/bottle/* may be pushed to"]).await;
}

#[tokio::test]
async fn large_files_follow_what_is_said_of_fetching_and_pushing() {
    let forge = Forge::start(true, &[]).await;
    let names = Names { connect: ROUTED, sni: ROUTED };
    let mut client = Client::open_as(&forge.world, Way::Transparent, Version::HTTP_11, names).await.unwrap();
    let path = "/r.git/info/lfs/objects/batch";
    for (fetch, push, operation, passes) in [
        (true, &[][..], "download", true),
        (true, &[], "upload", false),
        (false, BOTTLE_REFS, "upload", true),
        (false, BOTTLE_REFS, "download", false),
    ] {
        forge.allow(fetch, push).await;
        let request = Request::post("/").header("content-type", "application/vnd.git-lfs+json");
        let body = format!(r#"{{"operation":"{operation}","objects":[]}}"#);
        let asking = client.send_to(ROUTED, request, path, body.clone());
        let response = if passes {
            let (response, ()) = tokio::join!(asking, async {
                let asked = forge.world.provider.asked().await;
                assert_eq!(&asked.body[..], body.as_bytes());
                asked.whole(hyper::Response::builder(), "{}");
            });
            response.unwrap()
        } else {
            asking.await.unwrap()
        };
        assert_eq!(response.status(), if passes { 200 } else { 403 }, "{operation}");
        let body = whole(response).await;
        assert!(passes || body.starts_with(br#"{"message":"egress: no route lets"#), "{body:?}");
    }
}
