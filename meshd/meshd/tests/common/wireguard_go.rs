//! The released wireguard-go: built once into Cargo's folder for tests by `go`, or taken from `MESHD_TEST_WIREGUARD_GO`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::installed;

/// The newest on the module proxy when this was written.
const VERSION: &str = "golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446";

/// Its path; `None` where it can't be had, with the reason printed.
pub fn wireguard_go() -> Option<&'static PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let path = BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("MESHD_TEST_WIREGUARD_GO") {
            return Some(path.into());
        }
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = folder.join("wireguard");
        if !path.exists() && installed("go") {
            let built = Command::new("go")
                .args(["install", VERSION])
                .env("GOBIN", &folder)
                .status();
            assert!(built.unwrap().success(), "go install {VERSION}");
        }
        path.exists().then_some(path)
    });
    if path.is_none() {
        eprintln!("skipped: no `go` to build wireguard-go with, and no MESHD_TEST_WIREGUARD_GO");
    }
    path.as_ref().filter(|_| {
        let wg = installed("wg");
        if !wg {
            eprintln!("skipped: `wg` is not installed");
        }
        wg
    })
}
