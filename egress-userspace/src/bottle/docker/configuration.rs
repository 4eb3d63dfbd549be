//! What a container is created with. Pure.

use std::collections::HashMap;

use bollard::models::{ContainerConfig, ContainerCreateBody, HostConfig, ImageInspect, Mount, ResourcesUlimits};
use serde::{Deserialize, Serialize};

use super::engine::NO_NETWORK;
use super::inside::{RESOLVER, RESOLVER_PLACE};
use super::program::{PLACE, Program, SEPARATOR, bind};
use crate::domain::BottleName;

/// The label that says whose a container or an image is.
pub(super) const LABEL: &str = "egress.bottle";
/// What belongs to a bottle inside, beside the program: read-only.
pub(super) const OURS: &str = "/run/egress/ca";
/// What Docker gives by default and no command needs behind a gate.
const DROPPED: [&str; 2] = ["NET_ADMIN", "NET_RAW"];

/// What a container is made of, but for what every bottle has. Holds secrets: it is shown nowhere.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) config: ContainerConfig,
    pub(super) host_config: HostConfig,
}

/// A container of this image. `command` replaces the image's own, as its entrypoint's arguments if it has one.
pub(super) fn of_image(name: &str, image: ImageInspect, command: Vec<String>, variables: Vec<String>) -> Made {
    let own = image.config.unwrap_or_default();
    let entrypoint = own.entrypoint.unwrap_or_default();
    let arguments = if command.is_empty() { own.cmd.unwrap_or_default() } else { command };
    let config = ContainerConfig {
        image: Some(name.to_owned()),
        entrypoint: Some(entrypoint),
        cmd: Some(arguments),
        env: Some(variables),
        ..ContainerConfig::default()
    };
    let host_config = HostConfig {
        cap_drop: Some(DROPPED.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        ..HostConfig::default()
    };
    Made { config, host_config }
}

/// The command that a container becomes once it has its network.
pub(super) fn command_of(made: &Made) -> Vec<String> {
    let entrypoint = made.config.entrypoint.iter().flatten();
    entrypoint.chain(made.config.cmd.iter().flatten()).cloned().collect()
}

/// What all bottles of containers have.
pub(super) struct Around<'a> {
    pub(super) bottle: &'a BottleName,
    pub(super) program: Program,
    /// Where our CA is on the host.
    pub(super) authority: std::path::PathBuf,
    /// The variables of every bottle.
    pub(super) variables: Vec<(String, String)>,
    /// Directories of the host that are at the same place inside.
    pub(super) shared: Vec<String>,
    /// Where the command starts, if not where the image says.
    pub(super) directory: Option<String>,
    pub(super) has_terminal: bool,
}

/// What the engine is asked for.
pub(super) fn around(made: Made, around: Around<'_>) -> ContainerCreateBody {
    let Around { bottle, program, authority, variables, shared, directory, has_terminal } = around;
    let command = command_of(&made);
    let Made { config, host_config } = made;
    // Engines make one of their own only for networks of theirs, and not all of them do.
    let own = [bind(&authority, OURS, true), bind(&authority.join(RESOLVER), RESOLVER_PLACE, true)];
    let files = program.files.iter().map(|(source, target)| bind(source, target, true));
    let shares = shared.iter().map(|path| bind(path.as_ref(), path, false));
    let mounts: Vec<Mount> =
        host_config.mounts.unwrap_or_default().into_iter().chain(own).chain(files).chain(shares).collect();
    let is_ours = |variable: &String| variables.iter().any(|(name, _)| name_of(variable) == name);
    let theirs = config.env.unwrap_or_default().into_iter().filter(|variable| !is_ours(variable));
    let ours = variables.iter().map(|(name, value)| format!("{name}={value}"));
    let env: Vec<String> = theirs.chain(ours).collect();
    let labels = config.labels.unwrap_or_default().into_iter().chain([(LABEL.to_owned(), bottle.to_string())]);
    ContainerCreateBody {
        image: config.image,
        hostname: config.hostname.or_else(|| Some(bottle.to_string())),
        user: config.user,
        entrypoint: Some(program.entrypoint),
        cmd: Some(command),
        env: Some(env),
        working_dir: directory.or(config.working_dir),
        labels: Some(labels.collect::<HashMap<_, _>>()),
        stop_signal: config.stop_signal,
        tty: Some(has_terminal),
        open_stdin: Some(true),
        stdin_once: Some(true),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        host_config: Some(HostConfig {
            mounts: Some(mounts),
            network_mode: Some(NO_NETWORK.to_owned()),
            ..host_config
        }),
        ..ContainerCreateBody::default()
    }
}

/// A container's own part of how it was created, to create it again from the image that its files become. What the bottle
/// adds is left out, as is what the engine may not have twice.
pub(super) fn without_ours(config: ContainerConfig, host_config: HostConfig, image: &str, shared: &[String]) -> Made {
    let entrypoint = config.entrypoint.filter(|entrypoint| !is_wrapper(entrypoint));
    let is_own = |target: &str| {
        let is_ours = target.starts_with(PLACE) || target == OURS || target == RESOLVER_PLACE;
        !is_ours && !shared.iter().any(|path| path == target)
    };
    let mounts = host_config.mounts.unwrap_or_default().into_iter();
    let mounts = mounts.filter(|mount| is_own(mount.target.as_deref().unwrap_or_default())).collect();
    // `source:target:options`: how Podman tells of all mounts.
    let binds = host_config.binds.into_iter().flatten();
    let binds: Vec<String> = binds.filter(|bind| is_own(bind.split(':').nth(1).unwrap_or_default())).collect();
    let labels = config.labels.unwrap_or_default().into_iter().filter(|(name, _)| name != LABEL).collect();
    Made {
        config: ContainerConfig {
            image: Some(image.to_owned()),
            entrypoint,
            labels: Some(labels),
            // The image's, which Docker has merged in already, come with the image.
            healthcheck: None,
            ..config
        },
        host_config: HostConfig {
            mounts: Some(mounts),
            binds: Some(binds).filter(|binds| !binds.is_empty()),
            network_mode: None,
            port_bindings: None,
            restart_policy: None,
            auto_remove: None,
            links: None,
            ulimits: host_config.ulimits.map(|limits| limits.into_iter().map(plain).collect()),
            container_id_file: None,
            console_size: None,
            ..host_config
        },
    }
}

/// Podman tells a limit by the kernel's name and takes it by the short one.
fn plain(limit: ResourcesUlimits) -> ResourcesUlimits {
    let name = limit.name.map(|name| name.trim_start_matches("RLIMIT_").to_ascii_lowercase());
    ResourcesUlimits { name, ..limit }
}

fn name_of(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

/// The variables of every bottle, as text.
pub(super) fn variables(inside: Vec<(std::ffi::OsString, std::ffi::OsString)>) -> Vec<(String, String)> {
    let text =
        |(name, value): (std::ffi::OsString, std::ffi::OsString)| name.into_string().ok().zip(value.into_string().ok());
    inside.into_iter().filter_map(text).collect()
}

/// Is it this program's, before the command?
fn is_wrapper(entrypoint: &[String]) -> bool {
    entrypoint.first().is_some_and(|first| first.starts_with(PLACE))
        && entrypoint.last().is_some_and(|last| last == SEPARATOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ImageConfig;

    fn image(entrypoint: &[&str], command: &[&str]) -> ImageInspect {
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        let config = ImageConfig { entrypoint: words(entrypoint), cmd: words(command), ..ImageConfig::default() };
        ImageInspect { config: Some(config), ..ImageInspect::default() }
    }

    fn created(made: Made) -> ContainerCreateBody {
        let bottle: BottleName = "web".parse().unwrap();
        let program = Program {
            files: vec![("/usr/bin/egress".into(), "/.egress/egress".to_owned())],
            entrypoint: ["/.egress/egress", "container-init", "--"].map(str::to_owned).to_vec(),
        };
        let variables = vec![("SSL_CERT_FILE".to_owned(), "/run/egress/ca/bundle.pem".to_owned())];
        let authority = "/run/egress/bottles/web/ca".into();
        let shared = vec!["/work".to_owned()];
        let (directory, has_terminal) = (Some("/work/a".to_owned()), false);
        around(made, Around { bottle: &bottle, program, authority, variables, shared, directory, has_terminal })
    }

    fn check((entrypoint, own, command): (&[&str], &[&str], &[&str]), expected: &[&str]) {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let made = of_image("I", image(entrypoint, own), command, vec!["KEY=k".into(), "SSL_CERT_FILE=x".into()]);
        let body = created(made);
        assert_eq!(body.cmd.unwrap(), expected);
        assert!(is_wrapper(&body.entrypoint.unwrap()));
        assert_eq!(body.env.unwrap(), ["KEY=k", "SSL_CERT_FILE=/run/egress/ca/bundle.pem"]);
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.cap_drop.unwrap(), ["NET_ADMIN", "NET_RAW"]);
        assert_eq!(host.mounts.unwrap().len(), 4);
    }

    #[test]
    fn the_command_is_what_docker_would_run() {
        check((&[], &["sh"], &[]), &["sh"]);
        check((&[], &["sh"], &["ls", "/"]), &["ls", "/"]);
        check((&["tini", "--"], &["sh"], &[]), &["tini", "--", "sh"]);
        check((&["tini", "--"], &["sh"], &["ls"]), &["tini", "--", "ls"]);
    }

    #[test]
    fn what_is_ours_is_left_out_and_put_around_again() {
        let made = of_image("I", image(&["tini"], &["sh"]), Vec::new(), vec!["KEY=k".to_owned()]);
        let body = created(made);
        let config = ContainerConfig {
            image: body.image.clone(),
            entrypoint: body.entrypoint.clone(),
            cmd: body.cmd.clone(),
            env: body.env.clone(),
            labels: body.labels.clone(),
            working_dir: body.working_dir.clone(),
            hostname: body.hostname.clone(),
            ..ContainerConfig::default()
        };
        let mut host_config = body.host_config.clone().unwrap();
        host_config.binds = Some(vec!["/run/x/egress:/.egress/egress:ro".to_owned(), "/a:/work:rw".to_owned()]);
        let kept = without_ours(config, host_config, "egress-frozen/web", &["/work".to_owned()]);
        assert_eq!(command_of(&kept), ["tini", "sh"]);
        assert_eq!((kept.host_config.mounts.as_deref(), &kept.host_config.binds), (Some([].as_slice()), &None));
        let expected = ContainerCreateBody { image: Some("egress-frozen/web".to_owned()), ..body };
        assert_eq!(created(kept), expected);
    }
}
