//! Generates what is generated: `cargo xtask schemas`.

mod protobuf;
mod schemas;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("schemas") => {
            schemas::generate()?;
            protobuf::generate()
        }
        Some(other) => bail!("unknown task {other:?}; known: schemas"),
        None => bail!("name a task; known: schemas"),
    }
}
