//! Ways out of a bottle that must be closed, tried as root without capabilities and as an ordinary user.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use egress_userspace::bottle::Caller;

use crate::world::{Ended, ROOT, in_world, launch, nobody, nowhere};

/// Each line of the script is a way out; it prints what got through.
fn assert_closed(ended: &Ended) {
    assert!(ended.output.is_empty() && ended.code == 0, "got through: {ended:?}");
}

#[test]
fn our_state_is_not_there() {
    in_world(async |world| {
        let bottle = world.bottle("hidden").await;
        let directory = world.directory.path().display();
        for caller in [nobody(), ROOT] {
            let script = format!(
                "cat {directory}/state/* {directory}/secret-file 2>/dev/null; ls -A {directory}/state {directory}/run | grep -v : | grep .; true"
            );
            assert_closed(&world.sh(&bottle, caller, &script).await);
            let script = format!("echo x 2>/dev/null > {directory}/state/new && echo written; true");
            assert_closed(&world.sh(&bottle, ROOT, &script).await);
        }
    });
}

#[test]
fn the_machines_settings_cannot_be_changed() {
    in_world(async |world| {
        let bottle = world.bottle("settings").await;
        let paths = "/proc/sys/kernel/core_pattern /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/hostname /proc/sysrq-trigger \
            /sys/kernel/mm/ksm/run /sys/kernel/uevent_helper /sys/class/net/eth0/mtu /proc/1/oom_score_adj \
            /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt /etc/bottle-was-here /usr/bin/bottle-was-here";
        let script = format!("for path in {paths}; do {{ echo 1 > $path; }} 2>/dev/null && echo $path; done; true");
        assert_closed(&world.sh(&bottle, nobody(), &script).await);
        assert_closed(&world.sh(&bottle, ROOT, &script.replace("/proc/1/oom_score_adj", "")).await);
        let script = "ls -A /sys/fs/bpf /sys/fs/cgroup /sys/kernel/debug /sys/kernel/tracing 2>/dev/null | grep -v : | grep .; \
            ls /dev | grep -e vda -e kmsg -e mem -e kvm -e vsock; head -c 1 /proc/kcore; head -c 1 /proc/kmsg; \
            mknod /tmp/bottle-device-$$ b 254 0 2>/dev/null && echo device; true";
        assert_closed(&world.sh(&bottle, ROOT, script).await);
    });
}

#[test]
fn masks_cannot_be_taken_off() {
    in_world(async |world| {
        let bottle = world.bottle("masks").await;
        let directory = world.directory.path().display();
        let targets = format!(
            "{directory}/state {directory}/secret-file /run /sys /proc /proc/sys /proc/kcore /dev /etc/resolv.conf"
        );
        let script = format!(
            "for target in {targets}; do umount -l $target 2>/dev/null && echo $target; done; \
             mount -o remount,rw,bind /proc/sys 2>/dev/null && echo remounted; \
             mount -o remount,rw,bind /sys 2>/dev/null && echo remounted; \
             mount -t sysfs none /mnt 2>/dev/null && echo 1 2>/dev/null > /mnt/kernel/mm/ksm/run && echo sysfs; \
             mount -t bpf none /mnt 2>/dev/null && ls /mnt | grep egress; \
             mount -t cgroup2 none /mnt 2>/dev/null && echo cgroup2; \
             mount -t cgroup -o freezer none /mnt 2>/dev/null && echo cgroup; \
             unshare -C true 2>/dev/null && echo group namespace; \
             mount -t proc none /mnt 2>/dev/null && echo proc; \
             mount --bind / /mnt 2>/dev/null && ls -A /mnt{directory}/state /mnt/run; true"
        );
        for caller in [nobody(), ROOT] {
            assert_closed(&world.sh(&bottle, caller.clone(), &script).await);
            for user_namespace in user_namespaces(&caller) {
                let inside = |script: &str| format!("{user_namespace} bash -c '{script}'");
                let probe = "mount -t tmpfs none /mnt && echo privileged";
                let probe = world.sh(&bottle, caller.clone(), &inside(probe)).await;
                assert_eq!(probe.output, "privileged\n", "{user_namespace}: {probe:?}");
                assert_closed(&world.sh(&bottle, caller.clone(), &inside(&script)).await);
            }
        }
    });
}

/// Ways to become privileged over a mount namespace of one's own. The kernel lets root without capabilities map nobody, but
/// keep what it has been given.
fn user_namespaces(caller: &Caller) -> &'static [&'static str] {
    if caller.uid == 0 {
        &["unshare --keep-caps -Um", "unshare --keep-caps -Umpfn"]
    } else {
        &["unshare -Urm", "unshare -Urmpfn"]
    }
}

#[test]
fn processes_outside_are_neither_seen_nor_reached() {
    in_world(async |world| {
        let (one, two) = (world.bottle("one").await, world.bottle("two").await);
        let _other = world.start(&one, launch(ROOT, &["sleep", "4217"], nowhere()));
        let script = "ls -d /proc/[0-9]* | wc -l; cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 421[7]'; ipcs -m | grep -c 0x; cat /proc/1/comm";
        let nothing_open = world.sh(&two, nobody(), "ls /proc/self/fd | tr '\\n' ' '").await;
        assert_eq!(nothing_open.output, "0 1 2 3 ", "3 is the directory being listed");
        let ended = world.sh(&two, ROOT, script).await;
        let lines: Vec<&str> = ended.output.lines().collect();
        assert!(lines[0].parse::<u32>().unwrap() <= 6, "{ended:?}");
        assert_eq!(&lines[1..], ["0", "0", "egress"], "{ended:?}");
        let reach = "cat /proc/1/environ /proc/1/mem 2>/dev/null; readlink /proc/1/fd/* /proc/1/exe; ls /proc/1/root/ 2>/dev/null; \
            { exec 3>>/proc/1/exe; } 2>/dev/null && echo program; kill -9 1; kill -0 1 || echo killed; true";
        assert_closed(&world.sh(&two, ROOT, reach).await);
    });
}

#[test]
fn sockets_of_the_host_are_not_there() {
    in_world(async |world| {
        let path = world.directory.path().join("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let bottle = world.bottle("sockets").await;
        let ended =
            world.sh(&bottle, ROOT, &format!("test -S {} && echo socket; ls -A /run; true", path.display())).await;
        assert_eq!(ended.output, expected_run(), "{ended:?}");
    });
}

/// What is in a fresh `/run`: ours, the lock directory, and the host's links.
fn expected_run() -> String {
    let links = fs::read_dir("/run").unwrap().flatten().filter(|entry| entry.path().is_symlink());
    let mut names: Vec<String> = links.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.extend(["egress".to_owned(), "lock".to_owned()]);
    names.sort();
    names.join("\n") + "\n"
}

#[test]
fn the_network_cannot_be_rewired() {
    in_world(async |world| {
        let bottle = world.bottle("wires").await;
        let script = "ip address add 10.213.0.99/32 dev eth0 2>/dev/null && echo address; \
             ip link set eth0 address 02:00:00:00:00:99 2>/dev/null && echo hardware; \
             ip link set eth0 promisc on 2>/dev/null && echo promiscuous; \
             ip link add extra type bridge 2>/dev/null && echo device; \
             ip route add 192.0.2.0/24 dev eth0 2>/dev/null && echo route; \
             ip neighbour replace 10.213.0.98 lladdr 02:00:00:00:00:98 dev eth0 2>/dev/null && echo neighbour; \
             nsenter --net=/proc/1/ns/net true 2>/dev/null && echo namespace; true";
        for caller in [nobody(), ROOT] {
            assert_closed(&world.sh(&bottle, caller.clone(), script).await);
            for user_namespace in user_namespaces(&caller).iter().filter(|words| !words.ends_with('n')) {
                let inside = format!("{user_namespace} bash -c '{script}'");
                assert_closed(&world.sh(&bottle, caller.clone(), &inside).await);
            }
        }
    });
}

#[test]
fn calls_that_no_namespace_holds_are_refused() {
    in_world(async |world| {
        let bottle = world.bottle("calls").await;
        let script = "import ctypes, socket, sys\n\
            libc = ctypes.CDLL(None, use_errno=True)\n\
            def refused(*call):\n\
            \x20   return libc.syscall(*call) == -1 and ctypes.get_errno() == 1\n\
            numbers = {'keyctl': 250, 'add_key': 248, 'bpf': 321, 'perf_event_open': 298, 'io_uring_setup': 425}\n\
            print([name for name, number in numbers.items() if not refused(number, 0, 0, 0, 0, 0)])\n\
            for family in (40, 17, 16, 2, 1):\n\
            \x20   try: socket.socket(family, socket.SOCK_DGRAM if family != 40 else socket.SOCK_STREAM); print(family)\n\
            \x20   except PermissionError: pass\n";
        if !cfg!(target_arch = "x86_64") {
            println!("skipped: the numbers of the calls are those of x86-64");
            return;
        }
        let ended = world.run(&bottle, ROOT, &["python3", "-c", script]).await;
        assert_eq!(ended.output, "[]\n16\n2\n1\n", "{ended:?}");
    });
}

/// Runs a line of Python where nothing is mounted on anything of the `root` as far as the kernel can see: in a mount namespace
/// of one's own whose old root has been detached. Removing or renaming what is mounted on is refused nowhere else.
fn among_no_mounts(deed: &str) -> String {
    AMONG_NO_MOUNTS.replace("DEED", deed)
}

const AMONG_NO_MOUNTS: &str = "import ctypes, os\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    def call(name, *rest):\n\
    \x20   if getattr(libc, name)(*rest): raise OSError(ctypes.get_errno(), name)\n\
    root = os.open('/', os.O_RDONLY)\n\
    if os.fork() == 0:\n\
    \x20   call('unshare', 0x10020000)\n\
    \x20   call('mount', b'none', b'/mnt', b'tmpfs', 0, None)\n\
    \x20   os.chdir('/mnt')\n\
    \x20   if libc.syscall(155, b'.', b'.'): raise OSError(ctypes.get_errno(), 'pivot_root')\n\
    \x20   call('umount2', b'.', 2)\n\
    \x20   DEED\n\
    \x20   os._exit(0)\n\
    print(os.wait()[1])\n";

#[test]
fn what_takes_the_place_of_proc_leads_the_next_run_nowhere() {
    if !cfg!(target_arch = "x86_64") {
        println!("skipped: the number of the call is that of x86-64");
        return;
    }
    in_world(async |world| {
        let bottle = world.bottle("planter").await;
        // What is mounted on `/proc` comes to lie on `/a`, and `/proc` to lead to a decoy that looks masked.
        let plant = "for path in ('a/self/root', 'fake/self', 'fake/sys'): os.makedirs('/' + path)\n\
            os.symlink('/a', '/a/self/root/fake')\n\
            os.symlink('/a/self/root/fake', '/proc')\n\
            for name in ('fd', 'task'): os.symlink('/a/self/' + name, '/fake/self/' + name)\n\
            os.symlink('/a/thread-self', '/fake/thread-self')\n\
            open('/fake/self/mountinfo', 'w').close()\n";
        let take_off = among_no_mounts("os.rmdir('proc', dir_fd=root)");
        let ended = world.run(&bottle, ROOT, &["python3", "-c", &format!("{take_off}{plant}")]).await;
        assert_eq!((ended.code, ended.output.as_str()), (0, "0\n"), "{ended:?}");
        let script = "for root in /a /fake /proc; do \
            { exec 3>>$root/sys/kernel/core_pattern; } 2>/dev/null && echo $root; head -c 1 $root/kcore 2>/dev/null; done; \
            test -L /proc && echo link; test -e /proc/self/status || echo missing; true";
        assert_closed(&world.sh(&bottle, ROOT, script).await);
    });
}

#[test]
fn links_in_the_layer_lead_no_mount_elsewhere() {
    in_world(async |world| {
        let bottle = world.bottle("links").await;
        assert_eq!(world.sh(&bottle, ROOT, "mkdir /elsewhere").await.code, 0);
        let upper = world.directory.path().join("state/bottles/links/files/%2f/upper");
        let places = ["dev", "proc", "sys", "run"];
        let look = "for place in /dev /proc /sys /run; do test -L $place && echo link $place; \
            awk -v place=$place '$5 == place { found = 1 } END { exit !found }' /proc/self/mountinfo || echo $place; done; \
            ls -A /elsewhere; test -w /dev/null || echo null; true";
        let plant = |place: &str, what: fn(&Path)| {
            let path = upper.join(place);
            let _whatever_was_there = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
            what(&path);
        };
        for what in [
            |path: &Path| symlink("/elsewhere", path).unwrap(),
            |path: &Path| symlink("nowhere", path).unwrap(),
            |path: &Path| fs::write(path, "a file").unwrap(),
        ] {
            places.iter().for_each(|place| plant(place, what));
            assert_closed(&world.sh(&bottle, ROOT, look).await);
        }
    });
}

#[test]
fn a_hidden_file_is_not_there_under_another_name_either() {
    if !cfg!(target_arch = "x86_64") {
        println!("skipped: the number of the call is that of x86-64");
        return;
    }
    in_world(async |world| {
        let bottle = world.bottle("renamer").await;
        let directory = world.directory.path().display();
        let place = directory.to_string().trim_start_matches('/').to_owned();
        let rename = format!("os.rename('{place}/secret-file', '{place}/moved', src_dir_fd=root, dst_dir_fd=root)");
        world.run(&bottle, ROOT, &["python3", "-c", &among_no_mounts(&rename)]).await;
        let script = format!("cat {directory}/moved {directory}/secret-file 2>/dev/null; true");
        assert_closed(&world.sh(&bottle, ROOT, &script).await);
        let script = format!("echo mine > {directory}/secret-file && cat {directory}/secret-file");
        assert_eq!(world.sh(&bottle, ROOT, &script).await.output, "mine\n");
        assert_eq!(fs::read_to_string(world.directory.path().join("secret-file")).unwrap(), "key");
    });
}
