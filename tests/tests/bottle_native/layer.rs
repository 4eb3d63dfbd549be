//! What a bottle writes: where it lands, who sees it, and that it opens no way out.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use egress_userspace::bottle::{Caller, Launch};
use nix::sched::{CloneFlags, unshare};

use crate::world::{Bottle, Ended, ROOT, World, in_world, launch, nobody, nowhere};

/// A directory of the host that everybody may write to, with one file in it.
fn place(world: &World, name: &str) -> PathBuf {
    let place = world.directory.path().join(name);
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(place.join("hosts"), "the host's").unwrap();
    fs::set_permissions(place.join("hosts"), fs::Permissions::from_mode(0o666)).unwrap();
    place
}

/// Where a bottle's files are on the host.
fn layer(world: &World, name: &str) -> PathBuf {
    world.directory.path().join("state/bottles").join(name)
}

/// Runs a script that starts in `directory` and shares `shared`, to its end.
async fn run_in(world: &World, bottle: &Bottle, directory: &Path, shared: &[&Path], script: &str) -> (i32, String) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut stdio = nowhere();
    stdio[1] = writer.try_clone().unwrap().into();
    stdio[2] = writer.into();
    let launch = Launch {
        directory: directory.to_owned(),
        shared: shared.iter().map(PathBuf::from).collect(),
        ..launch(nobody(), &["bash", "-c", script], stdio)
    };
    let mut running = world.start(bottle, launch);
    let output = tokio::task::spawn_blocking(move || {
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        output
    });
    (running.wait().await.unwrap(), output.await.unwrap())
}

#[test]
fn what_is_written_stays_in_the_bottle_and_is_there_again() {
    in_world(async |world| {
        let place = place(world, "place");
        let bottle = world.bottle("writer").await;
        let script = format!(
            "cd {} && cat hosts && echo changed > hosts && echo new > new && mkdir sub && echo deep > sub/file && \
             cat hosts new sub/file",
            place.display()
        );
        let ended = world.sh(&bottle, nobody(), &script).await;
        assert_eq!((ended.code, ended.output.as_str()), (0, "the host'schanged\nnew\ndeep\n"), "{ended:?}");
        assert_eq!(fs::read_to_string(place.join("hosts")).unwrap(), "the host's");
        assert!(!place.join("new").exists() && !place.join("sub").exists());

        let ended = world.sh(&bottle, nobody(), &format!("cd {} && cat hosts new && rm hosts", place.display())).await;
        assert_eq!(ended.output, "changed\nnew\n", "{ended:?}");
        let ended = world.sh(&bottle, nobody(), &format!("ls {}", place.display())).await;
        assert_eq!(ended.output, "new\nsub\n", "a removed file of the host stays removed: {ended:?}");
        assert!(place.join("hosts").exists());

        let other = world.bottle("other").await;
        let script = format!("cat {0}/hosts; ls {0}; ls {1} 2>&1", place.display(), layer(world, "writer").display());
        let ended = world.sh(&other, ROOT, &script).await;
        assert!(ended.output.starts_with("the host'shosts\n"), "{ended:?}");
        assert!(ended.output.contains("No such file"), "{ended:?}");
    });
}

#[test]
fn the_layer_outlives_the_bottle_and_is_its_owners() {
    in_world(async |world| {
        let place = place(world, "place");
        let bottle = world.bottle("kept").await;
        let write = format!("echo kept > {}/kept", place.display());
        assert_eq!(world.sh(&bottle, nobody(), &write).await.code, 0);
        world.runtime.take_down(&bottle.spec.name).await.unwrap();

        let again = world.bottle("kept").await;
        let ended = world.sh(&again, nobody(), &format!("cat {}/kept", place.display())).await;
        assert_eq!(ended.output, "kept\n", "{ended:?}");
        let mode = fs::metadata(layer(world, "kept")).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o700);
        let stranger = Caller { uid: 65533, gid: 65533, groups: Vec::new() };
        let refused = world.runtime.start(&again.spec, launch(stranger, &["true"], nowhere())).unwrap_err();
        assert!(refused.to_string().contains("holds files of user 65534"), "{refused}");
        assert!(refused.to_string().contains("egress kill kept"), "{refused}");
    });
}

#[test]
fn what_root_leaves_in_a_layer_is_not_for_the_user_before() {
    in_world(async |world| {
        let place = place(world, "place");
        let bottle = world.bottle("taken").await;
        assert_eq!(world.sh(&bottle, nobody(), "true").await.code, 0);
        let leave = format!("echo private > {0}/left; chmod 644 {0}/left", place.display());
        assert_eq!(world.sh(&bottle, ROOT, &leave).await.code, 0);
        let refused = world.runtime.start(&bottle.spec, launch(nobody(), &["true"], nowhere())).unwrap_err();
        assert!(refused.to_string().contains("holds files of user 0"), "{refused}");
        assert_eq!(world.sh(&bottle, ROOT, "true").await.code, 0);
    });
}

#[test]
fn a_layer_of_any_depth_is_removed() {
    in_world(async |world| {
        let place = place(world, "place");
        let bottle = world.bottle("deep").await;
        // Deeper than the stack of a thread that removes by recursion.
        let dig = "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(18000): os.mkdir('d'); os.chdir('d')\n";
        let ended = world.run(&bottle, nobody(), &["python3", "-c", dig, place.to_str().unwrap()]).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        world.runtime.take_down(&bottle.spec.name).await.unwrap();
        world.runtime.remove_files(&bottle.spec.name).await.unwrap();
        assert!(!layer(world, "deep").exists());
    });
}

#[test]
fn the_work_and_what_is_named_are_shared() {
    in_world(async |world| {
        let (work, named, kept) = (place(world, "work"), place(world, "named"), place(world, "kept"));
        let bottle = world.bottle("sharing").await;
        let script = format!(
            "pwd; for place in {} {} {}; do echo changed > $place/hosts; done",
            work.display(),
            named.display(),
            kept.display()
        );
        let (code, output) = run_in(world, &bottle, &work, &[&named], &script).await;
        assert_eq!((code, output), (0, format!("{}\n", work.display())));
        for (place, expected) in [(&work, "changed\n"), (&named, "changed\n"), (&kept, "the host's")] {
            assert_eq!(fs::read_to_string(place.join("hosts")).unwrap(), expected, "{}", place.display());
        }
        // Our own state is in what is shared here, and is hidden all the same.
        let whole = world.directory.path();
        let (_, output) = run_in(world, &bottle, whole, &[], "cat state/* secret-file; ls -A state run").await;
        assert!(!output.contains("key"), "{output}");
        assert!(output.contains("run:\n") && output.trim_end().ends_with("state:"), "{output}");
    });
}

/// Whoever can use the control socket says what it likes.
#[test]
fn what_would_open_the_host_is_not_shared() {
    in_world(async |world| {
        let (work, directory) = (place(world, "work"), world.directory.path());
        std::os::unix::fs::symlink(&work, directory.join("link")).unwrap();
        let cases = [
            (work.clone(), None),
            (PathBuf::from("."), Some("it is not the real path")),
            (directory.join("link"), Some("it is not the real path")),
            (directory.join("work/../work"), Some("it is not the real path")),
            (work.join("hosts"), Some("it is not the real path")),
            (directory.join("missing"), Some("it is not the real path")),
            (directory.to_owned(), Some("egress itself keeps")),
            (directory.join("state"), Some("egress itself keeps")),
        ];
        let as_work =
            |directory: &Path| Launch { directory: directory.to_owned(), ..launch(ROOT, &["true"], nowhere()) };
        let as_share = |share: &Path| Launch { shared: vec![share.to_owned()], ..as_work(Path::new("/")) };
        for (path, expected) in cases {
            for launch in [as_work(&path), as_share(&path)] {
                let refused = world.runtime.check_shares(&launch).await.err().map(|error| error.to_string());
                let is_expected = match (&refused, expected) {
                    (Some(refused), Some(expected)) => refused.contains(expected),
                    (refused, expected) => refused.is_none() && expected.is_none(),
                };
                assert!(is_expected, "{}: {refused:?}", path.display());
            }
        }
        // The directory of the whole host is nobody's work, and not shared.
        world.runtime.check_shares(&as_work(Path::new("/"))).await.unwrap();
        let whole = world.runtime.check_shares(&as_share(Path::new("/"))).await.unwrap_err();
        assert!(whole.to_string().contains("/ cannot be shared"), "{whole}");
    });
}

#[test]
fn a_share_that_is_not_what_it_was_is_not_mounted() {
    in_world(async |world| {
        let (work, target) = (place(world, "work"), place(world, "target"));
        let bottle = world.bottle("moved").await;
        let script = format!("cd {} && rm -r work && ln -s target work", world.directory.path().display());
        assert_eq!(world.sh(&bottle, ROOT, &script).await.code, 0);
        let mut stdio = nowhere();
        let (mut reader, writer) = std::io::pipe().unwrap();
        stdio[2] = writer.into();
        let launch = Launch { directory: work.clone(), ..launch(ROOT, &["touch", "through"], stdio) };
        let mut running = world.start(&bottle, launch);
        assert_eq!(running.wait().await.unwrap(), 125);
        let mut errors = String::new();
        reader.read_to_string(&mut errors).unwrap();
        assert!(errors.contains("removed or replaced it") && errors.contains("egress kill"), "{errors}");
        assert!(!work.join("through").exists() && !target.join("through").exists());
        // On the host, the same: a link is not shared in place of what it stands for.
        let link = world.directory.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let fresh = world.bottle("linked").await;
        let (code, output) = run_in(world, &fresh, &link, &[], "touch through").await;
        assert_eq!(code, 125, "{output}");
    });
}

#[test]
fn without_a_layer_nothing_runs() {
    in_world(async |world| {
        let place = place(world, "place");
        let bottle = world.bottle("refused").await;
        fs::create_dir_all(layer(world, "refused")).unwrap();
        fs::write(layer(world, "refused").join("files"), "in the way").unwrap();
        let ended = world.sh(&bottle, nobody(), &format!("echo x > {}/through", place.display())).await;
        assert_eq!(ended.code, 125, "{ended:?}");
        assert!(ended.errors.contains("cannot hold what the bottle writes"), "{ended:?}");
        assert!(!place.join("through").exists());
    });
}

#[test]
fn a_separate_filesystem_is_layered_too() {
    in_world(async |world| {
        // This thread's own mounts, and those of what it starts.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let (disk, still) = (place(world, "disk"), place(world, "still"));
        let system = |words: &[&str]| assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success());
        system(&["mount", "--make-rprivate", "/"]);
        for place in [&disk, &still] {
            system(&["mount", "-t", "tmpfs", "-o", "mode=1777", "disk", place.to_str().unwrap()]);
            fs::write(place.join("hosts"), "on the disk").unwrap();
            fs::set_permissions(place.join("hosts"), fs::Permissions::from_mode(0o666)).unwrap();
        }
        system(&["mount", "-o", "remount,ro", still.to_str().unwrap()]);
        let bottle = world.bottle("disks").await;
        let script = format!(
            "cat {0}/hosts {1}/hosts && echo changed > {0}/hosts && cat {0}/hosts && touch {1}/new 2>/dev/null || echo refused",
            disk.display(),
            still.display()
        );
        let ended = world.sh(&bottle, nobody(), &script).await;
        assert_eq!(ended.output, "on the diskon the diskchanged\nrefused\n", "{ended:?}");
        assert_eq!(fs::read_to_string(disk.join("hosts")).unwrap(), "on the disk");
        let again = world.sh(&bottle, nobody(), &format!("cat {}/hosts", disk.display())).await;
        assert_eq!(again.output, "changed\n", "{again:?}");
        for place in [&disk, &still] {
            system(&["umount", place.to_str().unwrap()]);
        }
    });
}

/// Whatever an earlier command did to the way there.
#[test]
fn what_is_hidden_stays_hidden() {
    in_world(async |world| {
        let bottle = world.bottle("digger").await;
        let directory = world.directory.path().display().to_string();
        let name = world.directory.path().file_name().unwrap().to_str().unwrap();
        for place in [directory.as_str(), "/tmp"] {
            let rename =
                format!("import os\ntry: os.rename('{place}', '{place}-moved')\nexcept OSError as e: print(e.errno)");
            let ended = world.run(&bottle, ROOT, &["python3", "-c", &rename]).await;
            assert_eq!(ended.output, "18\n", "a directory of the host can be renamed, masks and all: {ended:?}");
        }
        let script = format!("cd /tmp; mv {name} moved-{name}; rm -rf {name}; ln -s moved-{name} {name}; true");
        world.sh(&bottle, ROOT, &script).await;
        let look = format!("cat /tmp*/*{name}*/state/secret /tmp*/*{name}*/secret-file 2>/dev/null; true");
        for _ in 0..2 {
            let ended = world.sh(&bottle, ROOT, &look).await;
            assert!(ended.output.is_empty() && ended.code == 0, "{ended:?}");
        }
    });
}

#[test]
fn there_is_no_way_out_of_the_root() {
    in_world(async |world| {
        let bottle = world.bottle("root").await;
        let directory = world.directory.path().display();
        let secrets = format!("{directory}/state/secret {directory}/secret-file");
        let script = format!(
            "cd /; for secret in {secrets}; do cat ../../..$secret /proc/1/root$secret /proc/self/root$secret \
             /proc/1/cwd/..$secret /proc/self/cwd/../..$secret; done 2>/dev/null; \
             ls /proc/1/root/ 2>/dev/null; grep -e upperdir=/tmp -e {directory}/state/bottles /proc/self/mountinfo; \
             mkdir -p /tmp/m; \
             for below in / {directory}; do mount -t overlay -o lowerdir=$below:/usr none /tmp/m 2>/dev/null && \
             cat /tmp/m/state/secret /tmp/m{directory}/state/secret 2>/dev/null && echo overlay; done; \
             mount --bind {directory} /tmp/m 2>/dev/null && cat /tmp/m/state/secret; \
             mount --rbind / /tmp/m 2>/dev/null && umount -l /tmp/m{directory}/state 2>/dev/null && echo unmasked; true"
        );
        let chroot = format!(
            "import os\nos.makedirs('/tmp/jail', exist_ok=True)\nout = os.open('/', os.O_RDONLY)\n\
             try: os.chroot('/tmp/jail')\nexcept PermissionError: raise SystemExit(0)\n\
             os.fchdir(out)\n[os.chdir('..') for _ in range(64)]\nos.chroot('.')\n\
             for path in '{secrets}'.split():\n\x20   try: print(end=open(path).read())\n\x20   except OSError: pass\n"
        );
        let namespaces: [(Caller, &[&str]); 2] =
            [(nobody(), &["", "unshare -Urm", "unshare -Urmpfn"]), (ROOT, &["", "unshare --keep-caps -Um"])];
        for (caller, prefixes) in namespaces {
            for prefix in prefixes {
                let closed = |ended: &Ended| {
                    assert!(ended.output.is_empty() && ended.code == 0, "{prefix} {}: {ended:?}", caller.uid);
                };
                let line = format!("{prefix} bash -c '{script}'");
                closed(&world.sh(&bottle, caller.clone(), &line).await);
                let words: Vec<&str> = prefix.split_whitespace().chain(["python3", "-c", &chroot]).collect();
                closed(&world.run(&bottle, caller.clone(), &words).await);
            }
        }
    });
}

#[test]
fn a_socket_that_the_host_makes_later_is_not_reached() {
    in_world(async |world| {
        let (work, kept) = (place(world, "work"), place(world, "kept"));
        let bottle = world.bottle("late").await;
        let script = format!(
            "touch ready; while ! test -e made; do sleep 0.02; done; python3 -c '\nimport socket\n\
             for path in (\"{0}\", \"{1}\"):\n\x20   try: socket.socket(socket.AF_UNIX).connect(path + \"/late.sock\"); print(\"reached\")\n\
             \x20   except OSError as error: print(error.errno)'",
            kept.display(),
            work.display()
        );
        let listen = |place: &Path| {
            let path = place.join("late.sock");
            let listener = UnixListener::bind(&path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
            listener
        };
        let make = async {
            crate::world::eventually("the command runs", || work.join("ready").exists()).await;
            let listeners = (listen(&kept), listen(&work));
            fs::write(work.join("made"), "").unwrap();
            listeners
        };
        let ((code, output), _listeners) = tokio::join!(run_in(world, &bottle, &work, &[], &script), make);
        // 111 is a refused connection: nobody listens on the layer's view of the socket. What is shared is shared.
        assert_eq!((code, output.as_str()), (0, "111\nreached\n"));
    });
}

#[test]
fn neither_devices_nor_set_id_bits_work_in_the_layer() {
    in_world(async |world| {
        let bottle = world.bottle("bits").await;
        let place = place(world, "place").display().to_string();
        let nodes = format!(
            "for node in \"b 254 0\" \"c 1 1\" \"c 0 0\"; do mknod {place}/node $node 2>/dev/null && echo $node; done; true"
        );
        let script = format!("cp /usr/bin/id {place}/id && chmod 6755 {place}/id && stat -c %a {place}/id");
        let ended = world.sh(&bottle, nobody(), &script).await;
        assert_eq!(ended.output, "6755\n", "{ended:?}");
        for caller in [nobody(), ROOT] {
            let ended = world.sh(&bottle, caller, &nodes).await;
            assert!(ended.output.is_empty() && ended.code == 0, "{ended:?}");
        }
        let ended = world.sh(&bottle, ROOT, &format!("{place}/id -u; {place}/id -g")).await;
        assert_eq!(ended.output, "0\n0\n", "{ended:?}");
        let reach = ["--reuid=65534", "--regid=65534", "--clear-groups", "ls"];
        let listed = Command::new("setpriv").args(reach).arg(layer(world, "bits")).output().unwrap();
        assert!(!listed.status.success(), "an ordinary user of the host reaches the layer");
    });
}
