//! The caller's environment → the command's. Pure.
//!
//! Which variable makes which client trust a CA was measured; several clients heed exactly one of them, so all are set.

use std::ffi::{OsStr, OsString};
use std::net::Ipv4Addr;

use crate::domain::BottleName;

/// System roots and our CA, inside.
pub(in crate::bottle) const BUNDLE: &str = "/run/egress/ca/bundle.pem";
/// Our CA alone, inside.
pub(in crate::bottle) const AUTHORITY: &str = "/run/egress/ca/egress-ca.pem";
/// The same as the bundle, for Java.
pub(in crate::bottle) const KEY_STORE: &str = "/run/egress/ca/cacerts.jks";

/// Replace the default roots, so they name the bundle that has both.
const NAMES_OF_BUNDLE: [&str; 12] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CODEX_CA_CERTIFICATE",
    "DENO_CERT",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
];

/// Adds to the roots Node is built with.
const NAME_OF_AUTHORITY: &str = "NODE_EXTRA_CA_CERTS";

/// Point at sockets and displays of the host, which are not in the bottle, or turn our CA off.
const REMOVED: [&str; 31] = [
    "CLAUDE_CODE_CERT_STORE",
    "CONTAINERD_ADDRESS",
    "CONTAINER_HOST",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SESSION_BUS_PID",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "DISPLAY",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "GNOME_KEYRING_CONTROL",
    "GPG_AGENT_INFO",
    "I3SOCK",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "PULSE_SERVER",
    "SESSION_MANAGER",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "STY",
    "SWAYSOCK",
    "TMUX",
    "TMUX_PANE",
    "VSCODE_GIT_IPC_HANDLE",
    "VSCODE_IPC_HOOK_CLI",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// What the command sees.
pub(in crate::bottle) fn inside(
    bottle: &BottleName,
    gateway: Ipv4Addr,
    caller: Vec<(OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let ours = NAMES_OF_BUNDLE.map(|name| (name, BUNDLE.to_owned())).into_iter().chain([
        (NAME_OF_AUTHORITY, AUTHORITY.to_owned()),
        ("EGRESS_BOTTLE", bottle.to_string()),
        ("EGRESS_GATEWAY", gateway.to_string()),
    ]);
    let ours: Vec<(OsString, OsString)> = ours.map(|(name, value)| (name.into(), value.into())).collect();
    let is_ours = |name: &OsStr| ours.iter().any(|(our, _)| our == name);
    let mut environment = caller;
    environment.retain(|(name, _)| !is_ours(name) && !is_removed(name));
    environment.extend(ours);
    environment
}

/// Every client is proxied transparently; a proxy variable of the host's would lead it to where it cannot go. They all end
/// alike: `https_proxy`, `NO_PROXY`, `npm_config_https_proxy`.
fn is_removed(name: &OsStr) -> bool {
    let is_proxy = name.to_str().is_some_and(|name| name.to_ascii_lowercase().ends_with("_proxy"));
    is_proxy || REMOVED.iter().any(|removed| name == *removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<&str>) {
        let caller = vec![(OsString::from(name), OsString::from("theirs"))];
        let environment = inside(&"web".parse().unwrap(), Ipv4Addr::new(10, 213, 0, 1), caller);
        let found: Vec<_> = environment.iter().filter(|(found, _)| found == name).collect();
        assert_eq!(found.first().map(|(_, value)| value.to_str().unwrap()), expected, "{name}");
        assert!(found.len() <= 1, "{name} stands twice");
    }

    #[test]
    fn what_leads_out_is_removed_and_the_rest_is_kept() {
        for name in ["http_proxy", "HTTPS_PROXY", "ALL_PROXY", "no_proxy", "npm_config_https_proxy"] {
            check(name, None);
        }
        for name in ["SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "DOCKER_HOST", "XDG_RUNTIME_DIR"] {
            check(name, None);
        }
        for name in ["PATH", "HOME", "GOPROXY", "ANTHROPIC_API_KEY", "TERM"] {
            check(name, Some("theirs"));
        }
    }

    #[test]
    fn our_variables_win() {
        check("SSL_CERT_FILE", Some(BUNDLE));
        check("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", Some(BUNDLE));
        check("NODE_EXTRA_CA_CERTS", Some(AUTHORITY));
        check("EGRESS_BOTTLE", Some("web"));
        check("EGRESS_GATEWAY", Some("10.213.0.1"));
    }
}
