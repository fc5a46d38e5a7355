//! What comes in by the sockets of the command and of `wg`, from programs that misbehave: it ends their connection and
//! nothing else.
#![allow(clippy::unwrap_used)]

mod common;

use common::{hosts, Mesh};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
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
