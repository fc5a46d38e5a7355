//! Descriptors passed along with bytes over a UNIX socket (SCM_RIGHTS).
//!
//! Source: unix(7), cmsg(3).
use crate::sys::{self, Zeroed};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Most descriptors in a message of ours.
pub const MOST: usize = 8;

/// Room for them and the sender's credentials, and some more, aligned as control messages are. The kernel closes what there
/// is no room for.
type Control = [u64; 16];

/// What [`receive_from`] has read.
pub(crate) struct Received {
    /// Bytes of the buffer that are filled.
    pub(crate) len: usize,
    /// The descriptors that came along, CLOEXEC set.
    pub(crate) fds: Vec<OwnedFd>,
    /// The process that the kernel says has sent it, where the socket asks for that (SO_PASSCRED).
    pub(crate) sender: Option<libc::pid_t>,
}

/// Sends all of `bytes`, which must not be empty, and the descriptors with the first of them. Blocks as the stream does.
pub fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let sent = send_to(stream.as_fd(), bytes, fds)?;
    io::Write::write_all(&mut &*stream, &bytes[sent..])
}

/// Sends one message, or as much of it as a stream takes, with the descriptors; how many bytes.
pub(crate) fn send_to(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if bytes.is_empty() || fds.len() > MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let size = mem::size_of_val(raw.as_slice()) as libc::c_uint;
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control: Control = Default::default();
    let mut msg = libc::msghdr::zeroed();
    msg.msg_iov = &mut iov;
    msg.msg_iovlen = 1;
    if !raw.is_empty() {
        msg.msg_control = control.as_mut_ptr().cast();
        // SAFETY: `control` is zeroed, aligned and holds CMSG_SPACE of MOST descriptors; the header and the data behind it
        // stay within msg_controllen.
        unsafe {
            msg.msg_controllen = libc::CMSG_SPACE(size) as _;
            let header = libc::CMSG_FIRSTHDR(&msg);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (i, fd) in raw.iter().enumerate() {
                data.add(i).write_unaligned(*fd);
            }
        }
    }
    sys::retry(|| {
        // SAFETY: `msg` points at live buffers of the lengths given; the kernel only reads them.
        sys::check_len(unsafe { libc::sendmsg(socket.as_raw_fd(), &msg, libc::MSG_NOSIGNAL) })
    })
}

/// Reads what has come, and the descriptors that came with it. 0 bytes: the other end is done. Bytes sent before those that
/// brought the descriptors may be among them, bytes sent after never are (net/unix/af_unix.c `unix_stream_read_generic`).
pub fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let received = receive_from(stream.as_fd(), buffer, 0)?;
    Ok((received.len, received.fds))
}

/// Reads one message, or what has come of a stream; `flags` beside MSG_CMSG_CLOEXEC. A datagram that the buffer doesn't hold
/// is cut.
pub(crate) fn receive_from(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> io::Result<Received> {
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control: Control = Default::default();
    let mut msg = libc::msghdr::zeroed();
    msg.msg_iov = &mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = mem::size_of_val(&control) as _;
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    let len = sys::retry(|| {
        // SAFETY: `msg` points at live buffers of the lengths given, exclusively borrowed.
        sys::check_len(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut msg, flags) })
    })?;
    let (mut fds, mut sender) = (Vec::new(), None);
    // SAFETY: the kernel has written whole control messages into `control`, and CMSG_FIRSTHDR and CMSG_NXTHDR stay within
    // msg_controllen; data is read unaligned, and each descriptor is new and taken once.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&msg);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            let len = (*header).cmsg_len as usize - (data as usize - header as usize);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for i in 0..len / mem::size_of::<RawFd>() {
                        let fd = data.cast::<RawFd>().add(i).read_unaligned();
                        fds.push(OwnedFd::from_raw_fd(fd));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS)
                    if len >= mem::size_of::<libc::ucred>() =>
                {
                    sender = Some(data.cast::<libc::ucred>().read_unaligned().pid);
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&msg, header);
        }
    }
    Ok(Received { len, fds, sender })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn descriptors_come_with_the_bytes_they_were_sent_with() {
        let (here, there) = UnixStream::pair().unwrap();
        let path = std::env::temp_dir().join(format!("meshd-passing-{}", std::process::id()));
        let options = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        let mut file = options.unwrap();
        std::fs::remove_file(path).unwrap();
        file.write_all(b"hello").unwrap();
        file.rewind().unwrap();
        send(&here, b"one\n", &[]).unwrap();
        send(&here, b"two\n", &[file.as_fd(), here.as_fd()]).unwrap();
        drop(file);
        let mut buffer = [0; 64];
        send(&here, b"three\n", &[]).unwrap();
        // What comes with descriptors may be joined with what was sent before, never with what was sent after.
        let (mut text, mut fds) = (Vec::new(), Vec::new());
        while !text.ends_with(b"two\n") {
            assert!(fds.is_empty(), "they came before their bytes");
            let (len, came) = receive(&there, &mut buffer).unwrap();
            assert_ne!(len, 0);
            text.extend_from_slice(&buffer[..len]);
            fds.extend(came);
        }
        assert_eq!((&text[..], fds.len()), (&b"one\ntwo\n"[..], 2));
        let (len, none) = receive(&there, &mut buffer).unwrap();
        assert_eq!((&buffer[..len], none.len()), (&b"three\n"[..], 0));
        let mut text = String::new();
        std::fs::File::from(fds.remove(0))
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hello");
        drop((here, fds));
        assert_eq!(receive(&there, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn every_descriptor_that_comes_has_one_owner_and_is_closed_on_exec() {
        let (here, there) = UnixStream::pair().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        for _ in 0..4 {
            send(&here, b"x", &[theirs.as_fd(); MOST]).unwrap();
        }
        assert!(send(&here, b"x", &[theirs.as_fd(); MOST + 1]).is_err());
        assert!(send(&here, b"", &[]).is_err());
        drop(theirs);
        let mut buffer = [0; 64];
        let mut count = 0;
        for _ in 0..4 {
            let (len, fds) = receive(&there, &mut buffer).unwrap();
            assert_eq!(len, 1);
            for fd in &fds {
                // SAFETY: integers only.
                let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
                assert_eq!(flags, libc::FD_CLOEXEC);
            }
            count += fds.len();
        }
        assert_eq!(count, 4 * MOST);
        // All are closed by now, so their other end reads the end.
        assert_eq!((&ours).read(&mut buffer).unwrap(), 0);
    }
}
