//! What comes in by the sockets of the command and of `wg`, from programs that misbehave: it ends their connection and
//! nothing else.
#![allow(clippy::unwrap_used)]

mod common;

use common::{hosts, Host, Mesh};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn bad_requests_and_too_many_connections_end_nothing_else() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(2);
    let daemon = a.run("prod");
    a.apply("prod", &(mesh.interface(1, "") + &mesh.peer(2, "")));
    let sockets = ["meshd", "wireguard"]
        .map(|folder| format!("/proc/{}/root/run/{folder}/prod.sock", a.holder()));
    let connect = |path: &str| {
        let stream = UnixStream::connect(path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
    };

    for request in [
        "{}\n",
        "[[[[\n",
        "null\n",
        "{\"do\":\"dance\"}\n",
        "\0\n",
        "\n",
    ] {
        let mut stream = connect(&sockets[0]);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let len = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
        assert!(
            answer.contains("the request cannot be read"),
            "{request:?}: {answer}"
        );
    }
    // Deeper than any request, and cut off.
    for path in &sockets {
        let mut stream = connect(path);
        stream.write_all(&vec![b'['; 1 << 20]).unwrap();
        stream.write_all(b"\n\n").unwrap();
        let _ = stream.read(&mut [0]);
        stream.write_all(b"{\"do\":\"sw").unwrap();
    }
    for path in &sockets {
        let many: Vec<UnixStream> = (0..300).map(|_| connect(path)).collect();
        let mut last = many.last().unwrap();
        assert_eq!(
            last.read(&mut [0]).unwrap(),
            0,
            "one too many is hung up on"
        );
    }
    assert_eq!(a.status("prod")["state"], "running");
    assert!(a.sh("wg show prod").contains("interface: prod"));
    assert!(!a.has_ended(daemon));
}

/// What a process has taken so far: bytes of memory, and hundredths of a second.
fn taken(host: &Host, pid: u32) -> (u64, u64) {
    // Fields 14, 15 and 24 of proc_pid_stat(5); the name before has no space here.
    let stat = host.sh(&format!("cat /proc/{pid}/stat"));
    let field = |n: usize| stat.split(' ').nth(n - 1).unwrap().parse::<u64>().unwrap();
    (field(24) * 4096, field(14) + field(15))
}

#[test]
fn who_asks_and_never_reads_costs_no_memory_and_no_time() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(2);
    let daemon = a.run("prod");
    a.apply("prod", &(mesh.interface(1, "") + &mesh.peer(2, "")));
    let pid = a.pid(daemon);
    let (memory, _) = taken(&a, pid);
    let asks = [
        ("meshd", "{\"do\":\"status\"}\n"),
        ("meshd", "{\"do\":\"ping\",\"wait_s\":600}\n"),
        ("wireguard", "get=1\n\n"),
    ];
    let mut clients = Vec::new();
    for (folder, request) in asks {
        let path = format!("/proc/{}/root/run/{folder}/prod.sock", a.holder());
        let mut client = UnixStream::connect(path).unwrap();
        client
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let requests = request.repeat(10_000);
        // The 16th time a client that isn't read from has long filled what lies between.
        for _ in 0..16 {
            if client.write_all(requests.as_bytes()).is_err() {
                break;
            }
        }
        clients.push(client);
    }
    // One of them says no more, and yet never reads.
    let last = clients.last().unwrap();
    last.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(a.status("prod")["state"], "running");
    let (more, before) = taken(&a, pid);
    assert!(more < memory + (16 << 20), "{memory} to {more} bytes");
    // Who spins takes all of it.
    sleep(Duration::from_millis(500));
    let (_, after) = taken(&a, pid);
    assert!(after - before < 10, "{} of 50 ticks", after - before);
}

#[test]
fn with_no_descriptor_left_nothing_spins_and_who_connects_is_told() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(2);
    let daemon = a.run("prod");
    a.apply("prod", &(mesh.interface(1, "") + &mesh.peer(2, "")));
    let pid = a.pid(daemon);
    let limit = |n: &str| a.sh(&format!("prlimit --pid {pid} --nofile={n}:"));
    let was = a.sh(&format!(
        "prlimit --pid {pid} --nofile -o SOFT --noheadings"
    ));
    limit("3");
    let sockets = ["meshd", "wireguard"]
        .map(|folder| format!("/proc/{}/root/run/{folder}/prod.sock", a.holder()));
    let clients = sockets.map(|path| UnixStream::connect(path).unwrap());
    let (_, before) = taken(&a, pid);
    // Who spins takes all of it.
    sleep(Duration::from_millis(500));
    let (_, after) = taken(&a, pid);
    assert!(after - before < 10, "{} of 50 ticks", after - before);
    limit(was.trim());
    assert_eq!(a.status("prod")["state"], "running");
    assert!(a.sh("wg show prod").contains("interface: prod"));
    drop(clients);
}

#[test]
fn a_report_says_what_a_boot_would_load() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(2);
    let conf = mesh.interface(1, "") + &mesh.peer(2, "");
    a.run("prod");
    a.apply("prod", &conf);
    let good = a.report("prod");
    assert_eq!(good["conf"], good["running"]);
    a.sh("sed -i s/10.77.0.2/10.77.0.9/ /etc/meshd/prod.conf");
    let changed = a.report("prod");
    assert!(changed["conf"].as_str().unwrap().contains("10.77.0.9"));
    assert_eq!(changed["running"], good["running"]);
    a.sh("rm /etc/meshd/prod.conf");
    assert_eq!(a.report("prod")["conf"], "");
    a.apply("prod", &conf);
    assert_eq!(a.report("prod")["conf_sha256"], good["conf_sha256"]);
}

#[test]
fn what_another_controller_staged_meanwhile_is_not_confirmed() {
    let Some([mut a]) = hosts::<1>() else { return };
    let mesh = Mesh::new(3);
    let conf = mesh.interface(1, "") + &mesh.peer(2, "");
    a.run("prod");
    a.apply("prod", &conf);
    let ours = a.stage("prod", &(conf.clone() + &mesh.peer(3, "")));
    a.meshd(&["switch", "prod", "--id", &ours, "--within", "60"]);
    let theirs = a.stage("prod", &mesh.interface(1, "Relay = on\n"));
    let (code, _, err) = a.try_meshd(&["confirm", "prod", "--id", &ours, "--wait", "1"], "");
    assert_eq!(code, 5, "{err}");
    let files = a.sh("cd /etc/meshd && ls && sha256sum prod.conf prod.next | cut -c 1-64");
    let (confirmed, staged) = (common::sha256(&conf), theirs);
    assert_eq!(
        files,
        format!("prod.conf\nprod.next\n{confirmed}\n{staged}\n")
    );
}
