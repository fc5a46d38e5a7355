//! `MESHD_AEAD` as a process sees it, which looks at it once: so each value gets a process of its own.

#![cfg(target_arch = "x86_64")] // elsewhere there is nothing to switch
#![allow(clippy::expect_used)] // a test may stop at the first surprise

use std::process::Command;

use meshd_aead::{Key, Packet};

/// What `in_use` says in a new process with this value, after it sealed a batch.
fn in_use_with(value: Option<&str>) -> String {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env_remove("MESHD_AEAD");
    if let Some(value) = value {
        command.env("MESHD_AEAD", value);
    }
    let output = command.output().expect("child runs");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    let line = text.lines().find_map(|line| line.split_once("in use: "));
    line.expect("the child's line").1.to_owned()
}

#[test]
#[ignore = "run by the others, in a process of its own"]
fn child() {
    let mut buf = [0; 8 * 80];
    let packets: [Packet; 8] = core::array::from_fn(|i| Packet::new(80 * i, 80, i as u64));
    Key::new(&[1; 32]).seal_batch(&mut buf, &packets);
    println!("\nin use: {}", meshd_aead::in_use());
}

#[test]
fn ring_switches_the_lanes_off() {
    let in_use = in_use_with(Some("ring"));
    assert!(
        in_use == "ring" || in_use == "ring (MESHD_AEAD)",
        "{in_use}"
    );
}

#[test]
fn the_lanes_are_used_where_they_exist() {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512ifma");
    let with = |wide: &'static str, narrow: &'static str| match (avx512, avx2) {
        (true, _) => wide,
        (false, true) => narrow,
        (false, false) => "ring (no AVX2)",
    };
    let narrow = "AVX2 for batches of short packets and runs of long ones, else ring";
    assert_eq!(
        in_use_with(None),
        with("AVX-512 for batches, ring for single packets", narrow)
    );
    assert_eq!(
        in_use_with(Some("avx512")),
        with("AVX-512 for all batches (MESHD_AEAD)", narrow)
    );
    let always = "AVX2 for all batches (MESHD_AEAD)";
    assert_eq!(
        in_use_with(Some("avx2")),
        if avx2 { always } else { "ring (no AVX2)" }
    );
}
