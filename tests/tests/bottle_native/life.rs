//! Building and taking down: nothing is left, whatever happened.

use std::fs;
use std::path::Path;
use std::process::Command;

use futures_util::future::join_all;

use crate::world::{ROOT, World, eventually, in_world, launch, nobody, nowhere};

fn links(world: &World) -> String {
    let _in_its_namespace = world;
    let listed = Command::new("ip").args(["-brief", "link"]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

fn assert_nothing_left(world: &World) {
    assert_eq!(world.runtime.leftovers().unwrap(), []);
    assert!(!links(world).contains("eg-"), "{}", links(world));
    let left: Vec<_> =
        fs::read_dir(world.group().unwrap()).unwrap().flatten().filter(|entry| entry.path().is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.directory.path().to_str().unwrap()), "{mounts}");
}

fn runs(pid: u32) -> bool {
    // A zombie that its parent has not fetched yet does not run.
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Processes on the host whose command line contains `text`.
fn processes(text: &str) -> usize {
    let lines =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).replace('\0', " ").contains(text)).count()
}

#[test]
fn the_host_is_prepared_twice_and_cleared() {
    in_world(async |world| {
        world.runtime.prepare_host().await.unwrap();
        let addresses = Command::new("ip").args(["-brief", "address", "show", "egress0"]).output().unwrap();
        let addresses = String::from_utf8(addresses.stdout).unwrap();
        assert!(addresses.contains("10.213.0.1/32") && !addresses.contains("fe80"), "{addresses}");
        world.runtime.remove_host().await.unwrap();
        assert!(!links(world).contains("egress0"));
        world.runtime.remove_host().await.unwrap();
    });
}

#[test]
fn a_built_bottle_is_down_and_known_by_its_number() {
    in_world(async |world| {
        let bottle = world.build("a-bottle-with-a-long-name").await;
        let name = &bottle.built.interface_name;
        assert!(name.len() <= 15, "{name}");
        let listed = Command::new("ip").args(["-o", "link", "show", name]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.starts_with(&format!("{}: ", bottle.built.interface)), "{listed}");
        assert!(listed.contains("state DOWN") && !listed.contains(",UP"), "{listed}");
    });
}

#[test]
fn taking_down_leaves_nothing_and_can_be_repeated() {
    in_world(async |world| {
        let bottle = world.bottle("gone").await;
        let script = "setsid sleep 5318 & disown; exec sleep 5318";
        let mut running = world.start(&bottle, launch(nobody(), &["bash", "-c", script], nowhere()));
        eventually("both run", || processes("sleep 5318") >= 2).await;
        world.runtime.take_down(&bottle.spec.name).await.unwrap();
        assert_eq!(processes("sleep 5318"), 0);
        assert_eq!(running.wait().await.unwrap(), 137);
        assert_nothing_left(world);
        world.runtime.take_down(&bottle.spec.name).await.unwrap();
        let again = world.runtime.build(&bottle.spec).await.unwrap();
        assert_eq!(again.interface_name, bottle.built.interface_name);
    });
}

#[test]
fn the_namespace_of_a_bottle_ends_although_others_run() {
    in_world(async |world| {
        let (first, second) = (world.bottle("first").await, world.bottle("second").await);
        let _running = world.start(&second, launch(ROOT, &["sleep", "6419"], nowhere()));
        eventually("the second runs", || processes("sleep 6419") == 1).await;
        let mounts = world.sh(&second, ROOT, "grep -c nsfs /proc/self/mountinfo").await;
        assert_eq!(mounts.output, "0\n");
        world.runtime.take_down(&first.spec.name).await.unwrap();
        assert_eq!(processes("sleep 6419"), 1);
        assert_eq!(world.runtime.leftovers().unwrap(), [second.spec.name]);
    });
}

#[test]
fn bottles_are_built_at_once_where_nobody_has_mounted_control_groups() {
    in_world(async |world| {
        world.unmount_groups();
        let specs: Vec<_> = (0..8).map(|number| world.spec(&format!("at-once-{number}"))).collect();
        let built = join_all(specs.iter().map(|spec| world.runtime.build(spec))).await;
        built.into_iter().for_each(|built| drop(built.unwrap()));
        for spec in &specs {
            world.runtime.take_down(&spec.name).await.unwrap();
        }
    });
}

#[test]
fn a_second_bottle_of_the_same_name_does_not_disturb_the_first() {
    in_world(async |world| {
        let bottle = world.bottle("twice").await;
        let error = world.runtime.build(&bottle.spec).await.unwrap_err();
        assert!(error.to_string().contains("directory"), "{error}");
        assert_eq!(world.sh(&bottle, nobody(), "exit 5").await.code, 5);
    });
}

#[test]
fn a_build_that_fails_in_the_middle_leaves_nothing() {
    in_world(async |world| {
        let spec = world.spec("blocked");
        let blocker = ["link", "add", "eg-blocked", "type", "bridge"];
        assert!(Command::new("ip").args(blocker).status().unwrap().success());
        let error = world.runtime.build(&spec).await.unwrap_err();
        assert!(error.to_string().contains("network interfaces"), "{error}");
        assert_eq!(world.runtime.leftovers().unwrap(), []);
        assert!(links(world).contains("eg-blocked"), "what stood in the way is somebody else's");
    });
}

#[test]
fn leftovers_of_a_crash_are_found_and_taken_down() {
    in_world(async |world| {
        let bottle = world.bottle("crashed").await;
        let running = world.start(&bottle, launch(ROOT, &["sleep", "7520"], nowhere()));
        let pid = running.init_pid();
        eventually("it runs", || processes("sleep 7520") == 1).await;
        // Whoever held it is gone; the bottle is not.
        drop(running);
        assert!(runs(pid));
        let after_the_crash = world.runtime.clone();
        assert_eq!(after_the_crash.leftovers().unwrap(), std::slice::from_ref(&bottle.spec.name));
        after_the_crash.take_down(&bottle.spec.name).await.unwrap();
        assert_eq!(processes("sleep 7520"), 0);
        assert_nothing_left(world);
    });
}

#[test]
fn half_of_a_bottle_is_taken_down_too() {
    in_world(async |world| {
        let bottle = world.build("half").await;
        let interface = bottle.built.interface_name;
        assert!(Command::new("ip").args(["link", "delete", &interface]).status().unwrap().success());
        let namespace = world.directory.path().join("run/half/netns");
        assert!(Command::new("umount").arg(&namespace).status().unwrap().success());
        fs::remove_file(Path::new(&namespace)).unwrap();
        world.runtime.take_down(&bottle.spec.name).await.unwrap();
        assert_nothing_left(world);
    });
}

#[test]
fn killing_the_supervisor_ends_the_command() {
    in_world(async |world| {
        let bottle = world.bottle("killed").await;
        let mut running = world.start(&bottle, launch(nobody(), &["sleep", "8621"], nowhere()));
        eventually("it runs", || processes("sleep 8621") == 1).await;
        running.signaller().send(9).unwrap();
        assert_eq!(running.wait().await.unwrap(), 137);
        eventually("the command has ended", || processes("sleep 8621") == 0).await;
    });
}
