//! libFuzzer's program: `TARGET=name fuzz corpus/name …`. Built and started by `meshd/fuzz/run`.
#![no_main]

use std::sync::OnceLock;

use meshd_fuzz::{Target, TARGETS};

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("TARGET").unwrap_or_default();
        match TARGETS.iter().find(|target| target.name == name) {
            Some(target) => { let _ = CHOSEN.set(target); }
            None => {
                eprintln!("fuzz: there is no target `{name}` (hint: set TARGET)");
                std::process::exit(1);
            }
        }
    },
    |bytes: &[u8]| {
        if let Some(target) = CHOSEN.get() {
            (target.run)(bytes);
        }
    }
);
