//! What a command finds in a bottle.

use std::fs::File;
use std::io::{Read, Write};

use nix::pty::{Winsize, openpty};

use crate::world::{CA, GATEWAY, ROOT, in_world, launch, nobody};

/// 32 and 33 belong to the C library, which lets nobody change them.
const SIGNALS_OF_THE_LIBRARY: u64 = 0b11 << 31;

#[test]
fn the_command_is_the_caller_and_has_no_privilege() {
    in_world(async |world| {
        let bottle = world.bottle("who").await;
        for caller in [nobody(), ROOT] {
            let ended = world.run(&bottle, caller.clone(), &["cat", "/proc/self/status"]).await;
            let field = |name: &str| {
                let line = ended.output.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.trim_start_matches(':').split_whitespace().map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(field("Uid"), vec![caller.uid.to_string(); 4]);
            assert_eq!(field("Gid"), vec![caller.gid.to_string(); 4]);
            let mut groups = caller.groups.clone();
            groups.sort_unstable();
            assert_eq!(field("Groups"), groups.iter().map(u32::to_string).collect::<Vec<_>>());
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(field(set), ["0000000000000000"], "{set}");
            }
            assert_eq!(field("NoNewPrivs"), ["1"]);
            assert_eq!(field("SigBlk"), ["0000000000000000"]);
            let ignored = u64::from_str_radix(&field("SigIgn").concat(), 16).unwrap();
            assert_eq!(ignored & !SIGNALS_OF_THE_LIBRARY, 0, "{ignored:x}");
        }
    });
}

#[test]
fn exit_codes_are_the_commands() {
    in_world(async |world| {
        let bottle = world.bottle("codes").await;
        for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
            assert_eq!(world.sh(&bottle, nobody(), script).await.code, code, "{script}");
        }
        let missing = world.run(&bottle, nobody(), &["no-such-program"]).await;
        assert_eq!(missing.code, 127);
        assert!(missing.errors.contains("no-such-program"), "{}", missing.errors);
        let no_entry = world.run(&world.bottle("of-root").await, ROOT, &["/no/such/program"]).await;
        assert_eq!(no_entry.code, 127, "{}", no_entry.errors);
        let text = world.directory.path().join("not-executable");
        std::fs::write(&text, "text").unwrap();
        let refused = world.run(&bottle, nobody(), &[text.to_str().unwrap()]).await;
        assert_eq!(refused.code, 126, "{}", refused.errors);
        assert!(refused.errors.contains("not-executable"), "{}", refused.errors);
    });
}

#[test]
fn a_megabyte_passes_through_pipes_unchanged() {
    in_world(async |world| {
        let bottle = world.bottle("pipes").await;
        let input: Vec<u8> = (0..1 << 20).map(|position: u32| b'a' + (position % 23) as u8).collect();
        let ended = world.run_with_input(&bottle, nobody(), &["cat"], input.clone()).await;
        assert_eq!(ended.code, 0);
        assert!(ended.output.as_bytes() == input, "{} bytes came back", ended.output.len());
    });
}

#[test]
fn a_terminal_is_the_commands_own() {
    in_world(async |world| {
        let bottle = world.bottle("terminal").await;
        let size = Winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let stdio = [pty.slave.try_clone().unwrap(), pty.slave.try_clone().unwrap(), pty.slave];
        let script = "tty; stty size; echo hello > /dev/tty; exec sleep 30";
        let launch = launch(nobody(), &["bash", "-c", script], stdio);
        let mut running = world.start(&bottle, egress_userspace::bottle::Launch { has_terminal: true, ..launch });
        let mut master = File::from(pty.master);
        let mut writer = master.try_clone().unwrap();
        let seen = tokio::task::spawn_blocking(move || {
            let (mut seen, mut buffer) = (String::new(), [0; 512]);
            while !seen.contains("hello") {
                let length = master.read(&mut buffer).unwrap();
                seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
            }
            (seen, master)
        });
        let (seen, _master) = seen.await.unwrap();
        assert_eq!(seen, "/dev/console\r\n31 97\r\nhello\r\n");
        writer.write_all(b"\x03").unwrap();
        assert_eq!(running.wait().await.unwrap(), 130);
    });
}

#[test]
fn signals_reach_the_whole_process_group() {
    in_world(async |world| {
        let bottle = world.bottle("signals").await;
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut stdio = crate::world::nowhere();
        stdio[1] = writer.into();
        let script = "trap 'echo got it; exit 7' TERM; sleep 60 & echo ready; wait";
        let mut running = world.start(&bottle, launch(nobody(), &["bash", "-c", script], stdio));
        let mut ready = [0; 6];
        reader.read_exact(&mut ready).unwrap();
        running.signaller().send(15).unwrap();
        assert_eq!(running.wait().await.unwrap(), 7);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("got it"), "{rest}");
        assert!(running.signaller().send(15).is_err(), "it has ended");
    });
}

#[test]
fn the_network_inside_is_one_address_and_one_way_out() {
    in_world(async |world| {
        let bottle = world.bottle("network").await;
        let addresses = world.sh(&bottle, nobody(), "ip -brief address; cat /sys/class/net/eth0/address").await;
        let address = bottle.spec.address;
        assert!(addresses.output.contains(&format!("{address}/32")), "{addresses:?}");
        assert!(!addresses.output.contains("fe80"), "{addresses:?}");
        assert!(addresses.output.contains("127.0.0.1/8"), "{addresses:?}");
        assert!(addresses.output.contains("02:00:00:00:00:0a"), "{addresses:?}");
        let routes = world.sh(&bottle, nobody(), "ip route; ip neighbour; ls /sys/class/net").await;
        assert!(routes.output.contains(&format!("default via {GATEWAY} dev eth0")), "{routes:?}");
        assert!(routes.output.contains(&format!("{GATEWAY} dev eth0 proto static scope link")), "{routes:?}");
        assert!(routes.output.contains("PERMANENT"), "{routes:?}");
        assert!(routes.output.ends_with("eth0\nlo\n"), "{routes:?}");
    });
}

#[test]
fn packets_flow_only_once_the_interface_is_brought_up() {
    in_world(async |world| {
        let bottle = world.build("closed").await;
        let listener = tokio::net::TcpListener::bind((GATEWAY, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{GATEWAY}/{port} && echo connected'");
        let before = world.sh(&bottle, nobody(), &connect).await;
        assert!(before.code != 0 && before.output.is_empty(), "{before:?}");
        world.runtime.bring_up(&bottle.spec, &bottle.built).await.unwrap();
        let after = world.sh(&bottle, nobody(), &connect).await;
        assert_eq!(after.output, "connected\n", "{after:?}");
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), bottle.spec.address);
    });
}

#[test]
fn our_authority_is_trusted_everywhere() {
    in_world(async |world| {
        let bottle = world.bottle("trust").await;
        let script = "cat $SSL_CERT_FILE | sha256sum; cat /etc/ssl/certs/ca-certificates.crt | sha256sum; \
            grep -c BEGIN $REQUESTS_CA_BUNDLE; cat $NODE_EXTRA_CA_CERTS; env | grep -i proxy";
        let ended = world.sh(&bottle, nobody(), script).await;
        let lines: Vec<&str> = ended.output.lines().collect();
        assert_eq!(lines[0], lines[1], "{ended:?}");
        assert!(lines[2].parse::<u32>().unwrap() > 1, "{ended:?}");
        assert_eq!(lines[3..].join("\n") + "\n", *CA, "{ended:?}");
        let bundle = world.sh(&bottle, nobody(), "cat $CURL_CA_BUNDLE").await;
        assert!(bundle.output.ends_with(CA.as_str()), "{bundle:?}");
    });
}

#[test]
fn java_trusts_our_authority() {
    in_world(async |world| {
        let bottle = world.bottle("java").await;
        let list = "which keytool || exit 77; keytool -list -rfc -cacerts -storepass changeit";
        let ended = world.sh(&bottle, nobody(), list).await;
        if ended.code == 77 {
            println!("skipped: there is no Java");
            return;
        }
        assert_eq!(ended.code, 0, "{}", ended.errors);
        let body = CA.lines().nth(1).unwrap();
        assert!(ended.output.replace('\r', "").contains(body), "{}", ended.output);
        assert!(ended.output.matches("trustedCertEntry").count() > 1);
    });
}

#[test]
fn names_are_resolved_by_the_gateway_only() {
    in_world(async |world| {
        let bottle = world.bottle("resolver").await;
        let ended =
            world.sh(&bottle, nobody(), "cat /etc/resolv.conf; hostname; echo $EGRESS_BOTTLE $EGRESS_GATEWAY").await;
        assert_eq!(
            ended.output,
            format!("nameserver {GATEWAY}\noptions timeout:1 attempts:3\nresolver\nresolver {GATEWAY}\n")
        );
        let hosts = world.sh(&bottle, nobody(), "getent hosts resolver").await;
        assert!(hosts.output.contains("127.0.0.1"), "{hosts:?}");
    });
}

#[test]
fn the_usual_devices_work() {
    in_world(async |world| {
        let bottle = world.bottle("devices").await;
        let script = "set -e; echo x > /dev/null; head -c 4 /dev/urandom | wc -c; echo x > /dev/shm/x; \
            script -qec 'echo in a terminal' /dev/null < /dev/null; ls /dev";
        for caller in [nobody(), ROOT] {
            let ended = world.sh(&bottle, caller, script).await;
            assert_eq!(ended.code, 0, "{ended:?}");
            assert!(ended.output.starts_with("4\nin a terminal\r\n"), "{ended:?}");
            let expected = "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n";
            assert!(ended.output.ends_with(expected), "{ended:?}");
        }
    });
}
