//! `keelson image`: the image store below a data folder. It may be used while a runtime runs: the store guards itself.

use std::fs::File;
use std::path::Path;

use anyhow::Context;
use keelson_runtime::image::{Image, ImageStore};

use crate::cli::ImageCommand;

fn open(data_dir: &Path) -> anyhow::Result<ImageStore> {
    let dir = data_dir.join("runtime/images");
    ImageStore::open(&dir).with_context(|| format!("open the image store in {}", dir.display()))
}

fn print(images: &[Image]) {
    let names: Vec<(String, &Image)> = images
        .iter()
        .map(|image| (image.tags.iter().cloned().collect::<Vec<_>>().join(","), image))
        .collect();
    let width = names.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(4);
    println!("{:width$}  {:12}  {:>10}", "NAME", "ID", "SIZE");
    for (name, image) in names {
        let id = image.id.trim_start_matches("sha256:");
        println!("{name:width$}  {:12}  {:>7.1} MB", id.get(..12).unwrap_or(id), image.size as f64 / 1e6);
    }
}

/// Runs a command.
pub(crate) fn run(command: ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::Import { data, file, name } => {
            let images = open(&data.data_dir)?
                .import(&file, name.as_deref())
                .with_context(|| format!("import {}", file.display()))?;
            print(&images);
        }
        ImageCommand::List { data } => print(&open(&data.data_dir)?.list()?),
        ImageCommand::Export { data, name, file } => {
            let store = open(&data.data_dir)?;
            let out = File::create(&file).with_context(|| format!("create {}", file.display()))?;
            if let Err(error) = store.export(&name, out) {
                // Half a file would look like an image.
                std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
                return Err(error).with_context(|| format!("export {name}"));
            }
        }
    }
    Ok(())
}
