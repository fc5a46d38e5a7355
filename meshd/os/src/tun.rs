//! The TUN device: made, adopted, read, written.
//!
//! Strategy: every queue carries the 10-byte virtio-net header in front of each packet, so that the kernel hands over and
//! takes TCP (and, from 6.2 on, UDP) super-packets of up to 64 KiB; with offloads off the same header says "plain packet",
//! and nobody needs a second path. Reads do not block. Addresses, MTU and state are `netlink`'s business.
//!
//! Source: Linux Documentation/networking/tuntap.rst, drivers/net/tun.c, include/uapi/linux/if_tun.h.
use crate::error::{Context, Error};
use crate::offload::VNET_LEN;
use crate::sys::{self, Zeroed};
use std::ffi::CStr;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Longest interface name in bytes (IFNAMSIZ without the final zero).
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

const IFF_FLAGS: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
const OFFLOAD_TCP: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
/// TUN_F_USO4 | TUN_F_USO6, which are accepted together only.
const OFFLOAD_UDP: u32 = 0x20 | 0x40;

/// Why there is no TUN device. The cases a user can do something about are apart.
#[derive(Debug)]
pub enum TunError {
    /// /dev/net/tun is not there: no tun module, or a container that was not given the node.
    Missing,
    /// No permission to open the node or to make a device: CAP_NET_ADMIN is missing.
    Forbidden,
    /// A link of that name exists and is not a free TUN of ours.
    NameTaken,
    /// Not a possible interface name: empty, too long, or with a slash, colon, space or percent sign.
    BadName,
    /// An adopted descriptor that is no attached TUN queue with virtio headers and without packet information.
    NotTun,
    /// Anything else.
    Other(Error),
}

impl fmt::Display for TunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("/dev/net/tun does not exist"),
            Self::Forbidden => f.write_str("no permission to make a TUN device"),
            Self::NameTaken => f.write_str("another interface has that name"),
            Self::BadName => f.write_str("not a possible interface name"),
            Self::NotTun => f.write_str("the descriptor is not a TUN queue with virtio headers"),
            Self::Other(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for TunError {}

/// What to ask of a new device.
#[derive(Clone, Copy, Debug)]
pub struct TunOptions {
    /// Several queues, one per packet thread (IFF_MULTI_QUEUE).
    pub multi_queue: bool,
    /// Ask for super-packets; without it the kernel segments and sums by itself.
    pub offload: bool,
}

/// What the kernel agreed to hand over and to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunOffloads {
    /// TCP super-packets and unfinished checksums.
    pub tcp: bool,
    /// UDP super-packets (USO, kernel 6.2 and newer).
    pub udp: bool,
}

/// One queue of a TUN device. The device goes when its last queue is closed.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    multi_queue: bool,
    offloads: TunOffloads,
}

impl Tun {
    /// Makes the device `name`; `%d` in it is replaced by a free number.
    pub fn create(name: &str, options: TunOptions) -> Result<Self, TunError> {
        let mut request = request(name)?;
        let mut flags = IFF_FLAGS;
        if options.multi_queue {
            flags |= libc::IFF_MULTI_QUEUE;
        } else {
            // Without this a daemon would silently attach to another program's persistent TUN of that name.
            flags |= libc::IFF_TUN_EXCL;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        if options.multi_queue && exists(name) {
            return Err(TunError::NameTaken);
        }
        let fd = open_node()?;
        set_interface(fd.as_fd(), &mut request)?;
        Self::set_up(fd, options)
    }

    /// Makes the device `name` with `count` queues, at least one; `options.multi_queue` follows from the count.
    pub fn create_queues(
        name: &str,
        count: usize,
        options: TunOptions,
    ) -> Result<Vec<Self>, TunError> {
        let multi_queue = count > 1;
        let first = Self::create(
            name,
            TunOptions {
                multi_queue,
                ..options
            },
        )?;
        let mut queues = Vec::with_capacity(count.max(1));
        for _ in 1..count {
            queues.push(first.another_queue()?);
        }
        queues.insert(0, first);
        Ok(queues)
    }

    /// Takes over a queue made by somebody else: a predecessor, a service manager, a test.
    pub fn adopt(fd: OwnedFd, options: TunOptions) -> Result<Self, TunError> {
        let flags = get_interface(fd.as_fd()).map_err(|_| TunError::NotTun)?.1;
        if flags & IFF_FLAGS != IFF_FLAGS {
            return Err(TunError::NotTun);
        }
        set_nonblocking(fd.as_fd()).map_err(TunError::Other)?;
        let multi_queue = flags & libc::IFF_MULTI_QUEUE != 0;
        Self::set_up(
            fd,
            TunOptions {
                multi_queue,
                ..options
            },
        )
    }

    /// One more queue of the same device; only when it was made with `multi_queue`.
    pub fn another_queue(&self) -> Result<Self, TunError> {
        let mut request = request(&self.name().map_err(TunError::Other)?)?;
        request.ifr_ifru.ifru_flags = (IFF_FLAGS | libc::IFF_MULTI_QUEUE) as libc::c_short;
        let fd = open_node()?;
        set_interface(fd.as_fd(), &mut request)?;
        Self::set_up(
            fd,
            TunOptions {
                multi_queue: true,
                offload: self.offloads.tcp,
            },
        )
    }

    fn set_up(fd: OwnedFd, options: TunOptions) -> Result<Self, TunError> {
        let len: libc::c_int = VNET_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int from the pointer, which is live.
        sys::check(unsafe {
            libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const len)
        })
        .context(|| "set the TUN's header size")
        .map_err(TunError::Other)?;
        let mut tun = Self {
            fd,
            multi_queue: options.multi_queue,
            offloads: TunOffloads::default(),
        };
        let wanted = [(true, true), (true, false), (false, false)];
        for (tcp, udp) in wanted.into_iter().skip(if options.offload { 0 } else { 2 }) {
            if tun.set_offload(tcp, udp).is_ok() {
                tun.offloads = TunOffloads { tcp, udp };
                break;
            }
        }
        Ok(tun)
    }

    fn set_offload(&self, tcp: bool, udp: bool) -> io::Result<()> {
        let bits = if tcp { OFFLOAD_TCP } else { 0 } | if udp { OFFLOAD_UDP } else { 0 };
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        sys::check(unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::TUNSETOFFLOAD as _,
                libc::c_ulong::from(bits),
            )
        })?;
        Ok(())
    }

    /// What the kernel agreed to.
    pub fn offloads(&self) -> TunOffloads {
        self.offloads
    }

    /// Whether more queues can be opened.
    pub fn multi_queue(&self) -> bool {
        self.multi_queue
    }

    /// The device's name as it is now: links can be renamed. Fails when the link was deleted.
    pub fn name(&self) -> Result<String, Error> {
        get_interface(self.fd.as_fd())
            .map(|(name, _)| name)
            .context(|| "ask the TUN's name")
    }

    /// Whether this queue still belongs to a link: false once the link was deleted. A link that moved to another network
    /// namespace is still attached.
    pub fn attached(&self) -> bool {
        get_interface(self.fd.as_fd()).is_ok()
    }

    /// Whether the link is up, in whatever namespace it is now; `None` once it was deleted.
    pub fn link_up(&self) -> Option<bool> {
        // One byte that claims to be IPv4: a link that is down refuses it (tun_get_user), one that is up drops it as a broken
        // header. Nothing but the descriptor reaches a link in another namespace.
        let mut probe = [0; VNET_LEN + 1];
        probe[VNET_LEN] = 0x40;
        match sys::write(self.fd.as_fd(), &probe) {
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Some(false),
            Err(e) if detached(&e) => None,
            _ => Some(true),
        }
    }

    /// Stops asking for super-packets: the kernel cuts and sums by itself from now on. What is queued already comes as it is.
    pub fn stop_offloading(&mut self) -> Result<(), Error> {
        self.set_offload(false, false)
            .context(|| "switch the TUN's offloads off")?;
        self.offloads = TunOffloads::default();
        Ok(())
    }

    /// Reads one packet, virtio header first, into `buf` and returns their length together. `WouldBlock` when none is
    /// waiting; see [`detached`] for the error of a deleted link. 65546 bytes hold the largest packet.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        sys::read(self.fd.as_fd(), buf)
    }

    /// Writes one packet made of `parts`, the virtio header first. `InvalidInput` when the kernel refuses its form, an EIO
    /// when the link is down.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        // IoSlice is guaranteed to have the layout of iovec.
        let count = parts.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
        sys::retry(|| {
            // SAFETY: `parts` are live slices in iovec layout, `count` of them, and the kernel only reads.
            sys::check_len(unsafe {
                libc::writev(self.fd.as_raw_fd(), parts.as_ptr().cast(), count)
            })
        })
    }

    /// A second descriptor of the same queue, to hand to the service manager or another thread.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let fd = self
            .fd
            .try_clone()
            .context(|| "duplicate the TUN's descriptor")?;
        Ok(Self {
            fd,
            multi_queue: self.multi_queue,
            offloads: self.offloads,
        })
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a read or write failed because the link was deleted.
pub fn detached(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}

fn open_node() -> Result<OwnedFd, TunError> {
    let flags = libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the path is a constant C string.
    sys::own(unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) }).map_err(|e| {
        match e.raw_os_error() {
            // ENODEV, ENXIO: the node is there but the module is not.
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::Missing,
            Some(libc::EPERM | libc::EACCES) => TunError::Forbidden,
            _ => TunError::Other(Error::new("open /dev/net/tun", e)),
        }
    })
}

fn set_interface(fd: BorrowedFd<'_>, request: &mut libc::ifreq) -> Result<(), TunError> {
    // SAFETY: TUNSETIFF reads and writes the live ifreq behind the pointer.
    sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut *request) })
        .map(drop)
        .map_err(|e| {
            match e.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => TunError::Forbidden,
                // EINVAL: the name belongs to a link of another kind, or to a TUN of other flags.
                Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => TunError::NameTaken,
                _ => TunError::Other(Error::new("make a TUN device", e)),
            }
        })
}

/// Name and IFF_ flags of the link that the queue is attached to.
fn get_interface(fd: BorrowedFd<'_>) -> io::Result<(String, libc::c_int)> {
    let mut request = empty_request();
    // SAFETY: TUNGETIFF fills the live ifreq behind the pointer.
    sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) })?;
    let bytes = request.ifr_name.map(|c| c as u8);
    let name = CStr::from_bytes_until_nul(&bytes)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: TUNGETIFF fills in the flags member, and every bit pattern is a valid c_short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((
        name.to_string_lossy().into_owned(),
        libc::c_int::from(flags as u16),
    ))
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<(), Error> {
    // SAFETY: both calls take integers only.
    let done = unsafe {
        sys::check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL)).and_then(|flags| {
            sys::check(libc::fcntl(
                fd.as_raw_fd(),
                libc::F_SETFL,
                flags | libc::O_NONBLOCK,
            ))
        })
    };
    done.map(drop).context(|| "make the TUN non-blocking")
}

fn exists(name: &str) -> bool {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    // SAFETY: `bytes` is a live, zero-terminated string.
    unsafe { libc::if_nametoindex(bytes.as_ptr().cast()) != 0 }
}

fn empty_request() -> libc::ifreq {
    libc::ifreq::zeroed()
}

fn request(name: &str) -> Result<libc::ifreq, TunError> {
    // What dev_valid_name refuses; a percent sign is only allowed as the kernel's %d.
    let bad = |b: u8| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace();
    let percent = name.replacen("%d", "", 1).contains('%');
    if name.is_empty()
        || name.len() > NAME_MAX
        || name == "."
        || name == ".."
        || percent
        || name.bytes().any(bad)
    {
        return Err(TunError::BadName);
    }
    let mut request = empty_request();
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
