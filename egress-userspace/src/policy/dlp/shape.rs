//! Tokens that say what they are: a fixed beginning, and so many letters of a kind.
//!
//! Where a shape comes from stands beside it: the issuer's own page, or tokens as its documentation shows them. Lengths are
//! as wide as issuers leave themselves room for, and as narrow as keeps ordinary words out.

use super::place::Letters::{self, Alphanumeric, Base64, Dashed, Dotted, Hex, Upper, Word};
use super::place::{Place, Verdict};

/// What a token looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// What its detector is called.
    pub(super) name: &'static str,
    /// So it begins, case and all.
    pub(super) beginning: &'static str,
    /// So many letters stand in front of that.
    pub(super) before: usize,
    /// Those that follow.
    pub(super) letters: Letters,
    /// At least so many.
    pub(super) least: usize,
    /// At most so many.
    pub(super) most: usize,
}

/// Most letters in front of a beginning.
pub(super) const BEFORE_BYTES_MAX: usize = 52;

const fn shape(name: &'static str, beginning: &'static str, letters: Letters, least: usize, most: usize) -> Shape {
    Shape { name, beginning, before: 0, letters, least, most }
}

/// Every token that says what it is.
pub(super) const SHAPES: &[Shape] = &[
    // platform.claude.com: keys, administrators' keys, and the tokens of Claude Code's login.
    shape("anthropic-key", "sk-ant-", Word, 20, 255),
    // platform.openai.com: keys of projects, service accounts and administrators; older ones of users.
    shape("openai-key", "sk-proj-", Word, 20, 255),
    shape("openai-key", "sk-svcacct-", Word, 20, 255),
    shape("openai-key", "sk-admin-", Word, 20, 255),
    shape("openai-key", "sk-None-", Word, 20, 255),
    // openrouter.ai/docs.
    shape("openrouter-key", "sk-or-v1-", Hex, 32, 128),
    // Older keys of OpenAI, and those of DeepSeek, Moonshot and others that speak its API.
    shape("openai-key", "sk-", Alphanumeric, 32, 64),
    // cloud.google.com/docs/authentication/api-keys; developers.google.com/identity: access tokens and client secrets.
    shape("google-key", "AIza", Word, 35, 35),
    shape("google-token", "ya29.", Dotted, 20, 2048),
    shape("google-token", "GOCSPX-", Word, 20, 64),
    // console.groq.com, docs.x.ai, docs.perplexity.ai, huggingface.co/docs/hub/security-tokens, replicate.com/docs.
    shape("groq-key", "gsk_", Alphanumeric, 32, 128),
    shape("xai-key", "xai-", Alphanumeric, 32, 160),
    shape("perplexity-key", "pplx-", Alphanumeric, 32, 128),
    shape("huggingface-token", "hf_", Alphanumeric, 30, 64),
    shape("replicate-token", "r8_", Alphanumeric, 37, 40),
    // build.nvidia.com, inference-docs.cerebras.ai, docs.together.ai, docs.fireworks.ai.
    shape("nvidia-key", "nvapi-", Word, 50, 128),
    shape("cerebras-key", "csk-", Alphanumeric, 40, 64),
    shape("together-key", "tgp_v1_", Word, 32, 128),
    shape("fireworks-key", "fw_", Alphanumeric, 22, 40),
    // docs.aws.amazon.com/bedrock: keys of Bedrock alone.
    shape("aws-bedrock-key", "ABSK", Base64, 100, 300),
    shape("aws-bedrock-key", "bedrock-api-key-", Base64, 40, 4096),
    // learn.microsoft.com: connection strings of storage, Service Bus and Event Hubs.
    shape("azure-key", "AccountKey=", Base64, 80, 100),
    shape("azure-key", "SharedAccessKey=", Base64, 40, 100),
    // learn.microsoft.com: what marks keys of Azure AI, and client secrets of Entra.
    Shape {
        name: "azure-key",
        beginning: "JQQJ99",
        before: BEFORE_BYTES_MAX,
        letters: Alphanumeric,
        least: 20,
        most: 26,
    },
    Shape { name: "azure-key", beginning: "8Q~", before: 3, letters: Dotted, least: 31, most: 37 },
    // github.blog, "Behind GitHub's new authentication token formats".
    shape("github-token", "ghp_", Alphanumeric, 36, 251),
    shape("github-token", "gho_", Alphanumeric, 36, 251),
    shape("github-token", "ghu_", Alphanumeric, 36, 251),
    shape("github-token", "ghs_", Alphanumeric, 36, 251),
    shape("github-token", "ghr_", Alphanumeric, 36, 251),
    shape("github-token", "github_pat_", Word, 40, 251),
    // docs.gitlab.com/security/tokens: prefixes.
    shape("gitlab-token", "glpat-", Dotted, 20, 300),
    shape("gitlab-token", "gldt-", Word, 20, 300),
    shape("gitlab-token", "glrt-", Dotted, 20, 300),
    shape("gitlab-token", "glptt-", Word, 20, 300),
    shape("gitlab-token", "glcbt-", Word, 20, 300),
    shape("gitlab-token", "glsoat-", Word, 20, 300),
    shape("gitlab-token", "glft-", Word, 20, 300),
    shape("gitlab-token", "glimt-", Word, 20, 300),
    shape("gitlab-token", "glagent-", Word, 20, 300),
    shape("gitlab-token", "gloas-", Hex, 64, 64),
    // api.slack.com/authentication/token-types, and incoming webhooks.
    shape("slack-token", "xoxb-", Dashed, 20, 255),
    shape("slack-token", "xoxp-", Dashed, 20, 255),
    shape("slack-token", "xoxa-", Dashed, 20, 255),
    shape("slack-token", "xoxr-", Dashed, 20, 255),
    shape("slack-token", "xoxs-", Dashed, 20, 255),
    shape("slack-token", "xoxe-", Dashed, 20, 255),
    shape("slack-token", "xoxe.xox", Dashed, 20, 255),
    shape("slack-token", "xapp-", Dashed, 20, 255),
    shape("slack-webhook", "hooks.slack.com/services/T", Base64, 30, 100),
    shape("slack-webhook", "hooks.slack.com/triggers/", Base64, 30, 120),
    // docs.stripe.com/keys: those that move money.
    shape("stripe-key", "sk_live_", Alphanumeric, 16, 255),
    shape("stripe-key", "rk_live_", Alphanumeric, 16, 255),
    // Registries: docs.npmjs.com, pypi.org/help, docs.docker.com, rubygems.org.
    shape("npm-token", "npm_", Alphanumeric, 36, 36),
    shape("pypi-token", "pypi-AgE", Word, 50, 255),
    shape("docker-token", "dckr_pat_", Word, 20, 64),
    shape("rubygems-token", "rubygems_", Hex, 48, 48),
    // Platforms, as their documentation shows their tokens.
    shape("sendgrid-key", "SG.", Dotted, 60, 70),
    shape("digitalocean-token", "dop_v1_", Hex, 64, 64),
    shape("shopify-token", "shpat_", Hex, 32, 32),
    shape("vault-token", "hvs.", Word, 24, 255),
    shape("databricks-token", "dapi", Hex, 32, 32),
    shape("linear-key", "lin_api_", Alphanumeric, 32, 64),
    shape("notion-token", "ntn_", Alphanumeric, 40, 64),
    shape("grafana-token", "glsa_", Word, 32, 64),
    shape("postman-key", "PMAK-", Dashed, 50, 64),
    shape("age-key", "AGE-SECRET-KEY-1", Upper, 58, 58),
];

/// Is a token of this shape here?
pub(super) fn check(shape: &Shape, place: Place<'_>) -> Verdict {
    let beginning = shape.before + shape.beginning.len();
    let spelled = place.rest().get(shape.before..).unwrap_or_default();
    let spelled = spelled.get(..shape.beginning.len()).unwrap_or(spelled);
    if !shape.beginning.as_bytes().starts_with(spelled) || !place.begins_word() {
        return Verdict::No;
    }
    if spelled.len() < shape.beginning.len() {
        return if place.is_end { Verdict::No } else { Verdict::More };
    }
    let before = place.rest().get(..shape.before).unwrap_or_default();
    if !before.iter().all(|byte| Letters::Any.hold(*byte)) {
        return Verdict::No;
    }
    let from = place.at + beginning;
    let run = place.moved(from).run(|byte| shape.letters.hold(byte), shape.most);
    if run.is_open {
        return Verdict::More;
    }
    let tail = place.text.get(from..run.end).unwrap_or_default();
    if tail.len() < shape.least || tail.len() > shape.most || is_placeholder(shape, tail) {
        return Verdict::No;
    }
    Verdict::Found(place.at..run.end)
}

/// `ghp_xxxxxxxx`; and after the shortest beginning, words with hyphens that are no key.
fn is_placeholder(shape: &Shape, tail: &[u8]) -> bool {
    let is_filler = |byte: &u8| matches!(byte, b'x' | b'X' | b'.' | b'-' | b'_');
    tail.iter().all(is_filler) || (shape.beginning == "sk-" && !tail.iter().any(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_found_in_full_and_not_when_it_is_short_or_inside_a_word() {
        for shape in SHAPES {
            let before = "a".repeat(shape.before);
            let found = |front: &str, length: usize, is_end| {
                let text = format!("{front}{before}{}{}", shape.beginning, "7".repeat(length));
                let end = text.len();
                (check(shape, Place { text: text.as_bytes(), at: front.len(), is_end }), front.len()..end)
            };
            let (verdict, all) = found("=", shape.least, true);
            assert_eq!(verdict, Verdict::Found(all), "{shape:?}");
            let (verdict, all) = found("", shape.most, true);
            assert_eq!(verdict, Verdict::Found(all), "{shape:?}");
            for (front, length) in [("=", shape.least - 1), ("=", shape.most + 1), ("a", shape.least)] {
                assert_eq!(found(front, length, true).0, Verdict::No, "{shape:?} {front} {length}");
            }
            assert_eq!(found("=", shape.least, false).0, Verdict::More, "{shape:?}");
        }
    }

    #[test]
    fn a_line_break_that_is_written_out_is_not_part_of_a_word() {
        let shape = SHAPES.iter().find(|shape| shape.beginning == "ghp_").unwrap();
        let token = format!("ghp_{}", "k".repeat(36));
        for front in ["\\n", "%3D", "x="] {
            let text = format!("{front}{token}");
            let place = Place { text: text.as_bytes(), at: front.len(), is_end: true };
            assert_eq!(check(shape, place), Verdict::Found(front.len()..text.len()), "{front}");
        }
        let text = format!("ghp_{}", "x".repeat(36));
        assert_eq!(check(shape, Place { text: text.as_bytes(), at: 0, is_end: true }), Verdict::No);
    }
}
