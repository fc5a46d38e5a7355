//! The Internet checksum (RFC 1071), eight bytes at a time.
