//! `keelson image`: the images of a node. Those of the embedded runtime lie in the store below the data folder, which guards itself,
//! so that it may be used while a runtime runs or not; what needs a runtime, or is another runtime's, goes over the CRI.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, bail};
use keelson_cri::v1;
use keelson_cri::v1::image_service_client::ImageServiceClient;
use keelson_runtime::image::{Image, ImageStore, SelfImage};

use crate::cli::ImageCommand;
use crate::cluster::Folder;
use crate::components::SELF_IMAGE;
use crate::components::engine::Engine;

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

/// The images of the runtime that runs the node's pods.
async fn connect(data_dir: &Path) -> anyhow::Result<ImageServiceClient<tonic::transport::Channel>> {
    let folder = Folder::new(data_dir)?;
    let engine = Engine::remembered(&folder)?;
    let socket = engine.map_or_else(|| folder.join("run/cri.sock"), |engine| engine.socket);
    let client = ImageServiceClient::connect(format!("unix:{}", socket.display())).await;
    let client = client.with_context(|| {
        format!("no container runtime answers at {}: is the node running?", socket.display())
    })?;
    // Lists of images are long.
    Ok(client.max_decoding_message_size(64 << 20))
}

fn spec(name: &str) -> anyhow::Result<v1::ImageSpec> {
    let identifier = name.strip_prefix("sha256:").unwrap_or(name);
    let is_identifier = identifier.len() >= 12 && identifier.bytes().all(|byte| byte.is_ascii_hexdigit());
    let image = if is_identifier { name.to_owned() } else { full_name(name)? };
    Ok(v1::ImageSpec { image, ..v1::ImageSpec::default() })
}

/// With registry and tag.
fn full_name(name: &str) -> anyhow::Result<String> {
    let reference = keelson_runtime::image::normalize(name);
    Ok(reference.with_context(|| format!("{name:?} is no name of an image"))?.whole())
}

async fn list(data_dir: &Path) -> anyhow::Result<()> {
    let answer = connect(data_dir).await?.list_images(v1::ListImagesRequest::default()).await;
    let found = answer.context("list the images")?.into_inner().images;
    let images = found.into_iter().map(|image| Image {
        id: image.id,
        manifest: String::new(),
        layers: Vec::new(),
        size: image.size,
        tags: image.repo_tags.into_iter().collect(),
        digests: image.repo_digests.into_iter().collect(),
        pinned: image.pinned,
    });
    print(&images.collect::<Vec<_>>());
    Ok(())
}

async fn pull(data_dir: &Path, name: &str, user: Option<String>) -> anyhow::Result<()> {
    let auth = match user {
        None => None,
        Some(username) => {
            let mut password = String::new();
            std::io::stdin().take(4096).read_to_string(&mut password).context("read the password")?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            Some(v1::AuthConfig { username, password, ..v1::AuthConfig::default() })
        }
    };
    let image = v1::ImageSpec { image: full_name(name)?, ..v1::ImageSpec::default() };
    let request = v1::PullImageRequest { image: Some(image), auth, sandbox_config: None };
    let answer = connect(data_dir).await?.pull_image(request).await;
    let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()));
    println!("{}", answer.with_context(|| format!("pull {name}"))?.into_inner().image_ref);
    Ok(())
}

async fn remove(data_dir: &Path, name: &str) -> anyhow::Result<()> {
    let image = spec(name)?;
    let mut client = connect(data_dir).await?;
    let ask = v1::ImageStatusRequest { image: Some(image.clone()), verbose: false };
    if client.image_status(ask).await.context("look for the image")?.into_inner().image.is_none() {
        bail!("there is no image {name}: keelson image list shows those that are");
    }
    let answer = client.remove_image(v1::RemoveImageRequest { image: Some(image) }).await;
    let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()));
    answer.with_context(|| format!("remove {name}")).map(drop)
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
        ImageCommand::List { data } => match Engine::remembered(&Folder::new(&data.data_dir)?)? {
            None => print(&open(&data.data_dir)?.list()?),
            Some(_) => crate::runtime()?.block_on(list(&data.data_dir))?,
        },
        ImageCommand::Pull { data, name, user } => {
            crate::runtime()?.block_on(pull(&data.data_dir, &name, user))?;
        }
        ImageCommand::Remove { data, name } => crate::runtime()?.block_on(remove(&data.data_dir, &name))?,
        ImageCommand::Export { data, name, file } => {
            let store = open(&data.data_dir)?;
            if name == SELF_IMAGE {
                // No runtime of ours may have put it there.
                let binary = std::env::current_exe().context("find this program's file")?;
                store.register_self(&SelfImage { name: SELF_IMAGE.to_owned(), binary })?;
            }
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
