//! Atomics, fences and locks of `wake.rs`: the real ones, or with `--cfg loom` loom's, with which its tests try every order
//! that the memory model of C++11 allows, those of other processors than this one too.
#[cfg(not(loom))]
pub(crate) use {
    core::sync::atomic::{fence, AtomicBool, AtomicU64},
    std::sync::Mutex,
};

#[cfg(loom)]
pub(crate) use loom::{
    sync::atomic::{fence, AtomicBool, AtomicU64},
    sync::Mutex,
};
