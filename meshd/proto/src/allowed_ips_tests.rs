//! Tests of allowed_ips.rs.
