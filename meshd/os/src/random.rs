//! Random bytes from the kernel's generator (getrandom(2)), and nothing of our own on top.
use crate::error::{Context, Result};
use crate::sys;

/// Fills `buf` with cryptographically secure random bytes; waits for the pool's first seeding after boot.
pub fn fill(buf: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let rest = &mut buf[done..];
        done += sys::retry(|| {
            // SAFETY: the pointer and length describe `rest`, which is exclusively borrowed.
            sys::check_len(unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) })
        })
        .context(|| "read random bytes")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn fills_all_and_differs() {
        let (mut a, mut b) = ([0u8; 1000], [0u8; 1000]);
        super::fill(&mut a).unwrap();
        super::fill(&mut b).unwrap();
        assert_ne!(a, b);
        assert!(a[900..].iter().any(|&x| x != 0));
    }
}
