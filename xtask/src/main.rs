//! Generates what is generated: `cargo xtask schemas`, `cargo xtask manifests`; with `--check`, manifests are compared only.

mod manifests;
mod protobuf;
mod schemas;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["schemas"] => {
            schemas::generate()?;
            protobuf::generate()
        }
        ["manifests"] => manifests::generate(),
        ["manifests", "--check"] => manifests::check(),
        [] => bail!("name a task; known: schemas, manifests [--check]"),
        [..] => bail!("unknown task {:?}; known: schemas, manifests [--check]", arguments.join(" ")),
    }
}
