//! Descriptors passed along with bytes over a UNIX stream (SCM_RIGHTS).
//!
//! Source: unix(7), cmsg(3).
use crate::sys::{self, Zeroed};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Most descriptors in one message; the kernel closes what there is no room for.
pub const MOST: usize = 8;

/// Room for [`MOST`] descriptors behind their header, aligned as control messages are.
type Control = [u64; 8];

/// Sends all of `bytes`, which must not be empty, and the descriptors with the first of them. Blocks as the stream does.
pub fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
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
    let sent = sys::retry(|| {
        // SAFETY: `msg` points at live buffers of the lengths given; the kernel only reads them.
        sys::check_len(unsafe { libc::sendmsg(stream.as_raw_fd(), &msg, libc::MSG_NOSIGNAL) })
    })?;
    io::Write::write_all(&mut &*stream, &bytes[sent..])
}

/// Reads what has come, and the descriptors that came with it. 0 bytes: the other end is done. Bytes sent before those that
/// brought the descriptors may be among them, bytes sent after never are (net/unix/af_unix.c `unix_stream_read_generic`).
pub fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
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
    let len = sys::retry(|| {
        // SAFETY: `msg` points at live buffers of the lengths given, exclusively borrowed.
        sys::check_len(unsafe {
            libc::recvmsg(stream.as_raw_fd(), &mut msg, libc::MSG_CMSG_CLOEXEC)
        })
    })?;
    let mut fds = Vec::new();
    // SAFETY: the kernel has written whole control messages into `control`, and CMSG_FIRSTHDR and CMSG_NXTHDR stay within
    // msg_controllen; data is read unaligned, and each descriptor is new and taken once.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&msg);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let data = libc::CMSG_DATA(header);
                let len = (*header).cmsg_len as usize - (data as usize - header as usize);
                for i in 0..len / mem::size_of::<RawFd>() {
                    let fd = data.cast::<RawFd>().add(i).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(fd));
                }
            }
            header = libc::CMSG_NXTHDR(&msg, header);
        }
    }
    Ok((len, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

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
}
