//! Generates what is generated.
fn main() {}
