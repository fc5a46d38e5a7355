//! Shared memory that outlives the process by its descriptor, for secrets.
//!
//! Strategy: memfd_secret where the kernel has it (6.5 and newer; with `secretmem.enable=1` from 5.14 on): its pages are out
//! of the kernel's own map, so neither swap, nor cores, nor root's ptrace and /proc/PID/mem reach them. A plain memfd can be
//! swapped, so it is for hosts without swap on disk. What is mapped is seen as atomics, for which any bits are valid and any
//! number of readers and writers is sound; it stays mapped until the process ends, since nothing less is safe to hand out.
//!
//! What it does not do: decide which of the two is good enough, or know what is in it.
//!
//! Source: memfd_secret(2), memfd_create(2), proc_swaps(5), mm/secretmem.c, include/uapi/linux/magic.h.
use crate::error::{Context, Error, Result};
use crate::sys;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;

/// Filesystem of memfd_secret (SECRETMEM_MAGIC).
const SECRETMEM_MAGIC: u32 = 0x5345_434d;

const WORD: usize = mem::size_of::<AtomicU64>();

/// Which memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// memfd_secret: neither swapped nor dumped.
    Secret,
    /// memfd: may be swapped; left out of cores.
    Plain,
}

/// Memory with its descriptor.
#[derive(Debug)]
pub struct Memory {
    fd: OwnedFd,
    kind: Kind,
    words: &'static [AtomicU64],
}

impl Memory {
    /// New memory of `words` words, all zero. The kernel counts secret memory as locked (RLIMIT_MEMLOCK) but takes only what
    /// is used. `Unsupported` when it has no such memory.
    pub fn create(kind: Kind, words: usize) -> Result<Self> {
        let what = || match kind {
            Kind::Secret => "make secret memory",
            Kind::Plain => "make shared memory",
        };
        let fd = match kind {
            // SAFETY: integers only.
            Kind::Secret => sys::own(unsafe {
                libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) as libc::c_int
            })
            .map_err(|e| match e.raw_os_error() {
                Some(libc::ENOSYS) => io::ErrorKind::Unsupported.into(),
                _ => e,
            }),
            Kind::Plain => {
                // No MFD_NOEXEC_SEAL: kernels before 6.3 refuse it.
                // SAFETY: the name is a constant C string.
                sys::own(unsafe { libc::memfd_create(c"meshd".as_ptr(), libc::MFD_CLOEXEC) })
            }
        }
        .context(what)?;
        let len = words
            .checked_mul(WORD)
            .and_then(|len| libc::off_t::try_from(len).ok())
            .ok_or_else(|| Error::new(what(), io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: integers only.
        sys::check(unsafe { libc::ftruncate(fd.as_raw_fd(), len) }).context(what)?;
        Self::map(fd, kind)
    }

    /// Takes over the memory of a predecessor.
    pub fn adopt(fd: OwnedFd) -> Result<Self> {
        // SAFETY: all-zero is a valid value of this plain structure, which the kernel fills in.
        let mut info: libc::statfs = unsafe { mem::zeroed() };
        // SAFETY: `info` is live.
        sys::check(unsafe { libc::fstatfs(fd.as_raw_fd(), &mut info) })
            .context(|| "look at shared memory")?;
        let kind = if info.f_type as u32 == SECRETMEM_MAGIC {
            Kind::Secret
        } else {
            Kind::Plain
        };
        Self::map(fd, kind)
    }

    fn map(fd: OwnedFd, kind: Kind) -> Result<Self> {
        let what = || "map shared memory";
        let mut info = sys::Zeroed::zeroed();
        // SAFETY: `info` is a live stat structure.
        sys::check(unsafe { libc::fstat(fd.as_raw_fd(), &mut info) }).context(what)?;
        let info: libc::stat = info;
        let len = usize::try_from(info.st_size).unwrap_or(0) / WORD * WORD;
        if len == 0 || info.st_mode & libc::S_IFMT != libc::S_IFREG && kind == Kind::Plain {
            return Err(Error::new(what(), io::ErrorKind::InvalidInput.into()));
        }
        // SAFETY: a new shared mapping, placed by the kernel, of a length the file has: nobody else refers to it.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Error::new(what(), io::Error::last_os_error()));
        }
        if kind == Kind::Plain {
            // Out of cores; and locked as far as the limit allows, for swap that is turned on later. Either may fail on an
            // odd kernel without harm to who uses it.
            // SAFETY: the range is the mapping made above.
            unsafe {
                libc::madvise(at, len, libc::MADV_DONTDUMP);
                libc::mlock(at, len);
            }
        }
        // SAFETY: the mapping is page-aligned, zero or any bytes are valid atomics, and it is never unmapped; the file can't be
        // shortened by others, who don't have it.
        let words = unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), len / WORD) };
        Ok(Self { fd, kind, words })
    }

    /// Which memory it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The memory. It outlives this value, and every other in the process.
    pub fn words(&self) -> &'static [AtomicU64] {
        self.words
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether anything in `swaps` (/proc/swaps) may write memory to a disk: all swap but that on compressed memory.
pub fn swaps_to_disk(swaps: &Path) -> Result<bool> {
    match fs::read_to_string(swaps) {
        Ok(text) => Ok(text
            .lines()
            .skip(1)
            .any(|line| !line.trim().is_empty() && !line.starts_with("/dev/zram"))),
        // A kernel without swap has no such file.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::new(format!("read {}", swaps.display()), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn whoever_has_the_descriptor_has_the_memory() {
        for kind in [Kind::Secret, Kind::Plain] {
            let memory = match Memory::create(kind, 4096) {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                    eprintln!("skipped: this kernel has no memfd_secret");
                    continue;
                }
                other => other.unwrap(),
            };
            assert_eq!((memory.kind(), memory.words().len()), (kind, 4096));
            assert!(memory.words().iter().all(|word| word.load(SeqCst) == 0));
            memory.words()[4095].store(7, SeqCst);
            let copy = memory.as_fd().try_clone_to_owned().unwrap();
            drop(memory);
            let again = Memory::adopt(copy).unwrap();
            assert_eq!((again.kind(), again.words().len()), (kind, 4096));
            assert_eq!(again.words()[4095].load(SeqCst), 7);
        }
    }

    #[test]
    fn secret_memory_cannot_be_read_from_outside() {
        let Ok(memory) = Memory::create(Kind::Secret, 512) else {
            eprintln!("skipped: this kernel has no memfd_secret");
            return;
        };
        memory.words()[0].store(u64::MAX, SeqCst);
        let at = memory.words().as_ptr() as u64;
        let file = fs::File::open("/proc/self/mem").unwrap();
        let read = std::os::unix::fs::FileExt::read_at(&file, &mut [0; 8], at);
        assert!(read.is_err(), "even the process itself, by this way");
        let by_descriptor = fs::File::from(memory.as_fd().try_clone_to_owned().unwrap());
        assert!(io::Read::read(&mut &by_descriptor, &mut [0; 8]).is_err());
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        assert!(Memory::adopt(fs::File::open("/dev/null").unwrap().into()).is_err());
        assert!(Memory::create(Kind::Plain, 0).is_err());
    }

    #[test]
    fn swap_on_compressed_memory_is_no_swap_to_disk() {
        let path = std::env::temp_dir().join(format!("meshd-os-{}-swaps", std::process::id()));
        let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        for (text, to_disk) in [
            ("", false),
            (head, false),
            (&format!("{head}/dev/zram0  partition 4 0 100\n"), false),
            (
                &format!("{head}/dev/zram0 partition 4 0 100\n/swapfile file 4 0 -2\n"),
                true,
            ),
            (&format!("{head}/dev/sda2 partition 4 0 -2\n"), true),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(swaps_to_disk(&path).unwrap(), to_disk, "{text}");
        }
        fs::remove_file(&path).unwrap();
        assert!(!swaps_to_disk(&path).unwrap());
    }
}
