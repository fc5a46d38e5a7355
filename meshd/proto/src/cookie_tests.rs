//! Tests of cookie.rs.
