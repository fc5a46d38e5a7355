//! Changes of nf_tables, told as they happen.
use super::NFGENMSG;
use crate::error::{Context, Error, Result};
use crate::netlink::wire::{self, Message};
use crate::netlink::{bind, receive};
use crate::sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Room for the largest datagram of events.
const BUFFER: usize = 32 << 10;

/// A subscription to what happens to one table. Readable when something happened to any.
#[derive(Debug)]
pub struct NftEvents {
    fd: OwnedFd,
    table: String,
    buffer: Vec<u8>,
}

impl NftEvents {
    /// Watches the table `name` of the calling thread's network namespace, whether it is there or not.
    pub fn subscribe(name: &str) -> Result<Self> {
        let what = || "subscribe to nf_tables events";
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK;
        let fd = sys::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER).context(what)?;
        // bind(2) takes a mask of the first 32 groups, counted from 1.
        bind(&fd, 1 << (libc::NFNLGRP_NFTABLES - 1)).context(what)?;
        Ok(Self {
            fd,
            table: name.to_owned(),
            buffer: vec![0; BUFFER],
        })
    }

    /// Whether anything happened to the table since last asked, by us or others: look at it anew then. Doesn't block.
    pub fn touched(&mut self) -> Result<bool> {
        let mut touched = false;
        loop {
            match receive(&self.fd, &mut self.buffer) {
                Ok(n) => {
                    touched |= wire::messages(&self.buffer[..n]).any(|m| names(&m, &self.table));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(touched),
                // Events were lost, or one was too large: it may have been about ours.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => touched = true,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => touched = true,
                Err(e) => return Err(Error::new("read nf_tables events", e)),
            }
        }
    }
}

impl AsFd for NftEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether an event is about `table`: the name of the table is the first attribute of tables, chains, rules and sets alike.
pub(crate) fn names(message: &Message<'_>, table: &str) -> bool {
    let ours = i32::from(message.kind >> 8) == libc::NFNL_SUBSYS_NFTABLES;
    let name = message.split(NFGENMSG).and_then(|(_, attrs)| attrs.name(1));
    ours && name == Some(table)
}
