//! No descriptor is left in this process, which is why this test has one of its own.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use meshd_os::events::Poller;
use meshd_os::uapi_socket::Listener;

/// Takes all that are left, of 100.
fn all_descriptors() -> Vec<File> {
    let limit = libc::rlimit {
        rlim_cur: 100,
        rlim_max: 100,
    };
    // SAFETY: `limit` is live and only read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

#[test]
fn who_connects_when_no_descriptor_is_left_is_hung_up_on_and_wakes_nobody_again() {
    let folder = std::env::temp_dir().join(format!("meshd-exhausted-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("x.sock");
    let mut listener = Listener::bind(&path).unwrap();
    let poller = Poller::new().unwrap();
    poller.add_edge(&listener, 1).unwrap();
    let mut ready = Vec::new();
    let wakes = |ready: &mut Vec<_>| {
        poller.wait(ready, Some(Duration::ZERO)).unwrap();
        !ready.is_empty()
    };

    let clients: Vec<UnixStream> = (0..10)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    let mut held = all_descriptors();
    assert!(!held.is_empty());
    assert!(wakes(&mut ready));
    assert!(listener.accept().unwrap().is_none());
    assert!(!wakes(&mut ready));
    for mut client in &clients {
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is told");
    }

    // Two descriptors are free, one for each end: all is as ever, and the spare one is for the next.
    held.truncate(held.len() - 2);
    let kept = UnixStream::connect(&path).unwrap();
    assert!(wakes(&mut ready));
    let (_served, _) = listener.accept().unwrap().unwrap();
    assert!(listener.accept().unwrap().is_none());
    held.truncate(held.len() - 1);
    let mut late = UnixStream::connect(&path).unwrap();
    assert!(wakes(&mut ready));
    assert!(listener.accept().unwrap().is_none());
    assert!(!wakes(&mut ready));
    assert_eq!(late.read(&mut [0]).unwrap(), 0);

    drop((held, kept));
    std::fs::remove_dir_all(folder).unwrap();
}
