//! Tests of parse.rs.
