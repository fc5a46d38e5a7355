//! Doors for `fuzz` into what the kernel, name servers and files say. Compiled with the feature `fuzzing` only.
#![forbid(unsafe_code)]

/// A datagram of rtnetlink or nf_tables, read as everything that it could be.
pub fn netlink(bytes: &[u8]) {
    crate::netlink::fuzzing::read(bytes);
}

/// Netlink messages built from any values read back as what they were made of.
pub fn netlink_built(bytes: &[u8]) {
    crate::netlink::fuzzing::build(bytes);
}

/// An answer of a name server: two bytes of the question's identifier, then the message.
pub fn dns(bytes: &[u8]) {
    crate::resolve::fuzzing::answer(bytes);
}

/// A hosts file and a resolv.conf.
pub fn name_files(bytes: &[u8]) {
    crate::resolve::fuzzing::files(bytes);
}
