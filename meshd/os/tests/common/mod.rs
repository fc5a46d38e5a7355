//! Runs a test in network namespaces of its own, or says why it cannot.
/// Moves the calling thread into a fresh network namespace. False, with the
/// reason on stderr, when this machine doesn't permit it. Each test runs in a thread of its own, which ends with the test.
pub fn fresh_namespace() -> bool {
    match meshd_os::namespace::unshare() {
        Ok(()) => true,
        Err(e) => {
            eprintln!("skipped: no network namespace of its own: {e}");
            false
        }
    }
}

/// Runs `f` in a thread with a network namespace of its own and returns what it gave; `None` when not permitted.
pub fn in_namespace<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let run = move || fresh_namespace().then(f);
    match std::thread::spawn(run).join() {
        Ok(answer) => answer,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
