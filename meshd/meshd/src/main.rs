//! meshd: the tunnel daemon's command line.
fn main() {}
