//! Images: a content-addressed store of blobs and unpacked layers, filled by pull, import, or the binary itself.
//!
//! - [`store`]: the index of images, its lock, removal
//! - [`config`]: what of an image's configuration a container needs
//! - `layer`: unpacking, with everything a hostile archive may try refused
//! - `archive`: import of OCI layouts and docker archives; `export`: as OCI layouts
//! - `pull`: from a registry; `partial`: what has come of a blob
//! - `reference`: what images are called
//! - `self_image`: the running binary as an image

pub(crate) mod archive;
pub(crate) mod config;
mod export;
mod layer;
mod partial;
pub(crate) mod pull;
mod reference;
pub(crate) mod self_image;
pub(crate) mod store;

pub use archive::ImportError;
pub use pull::{HostsError, PullError, Registries};
pub use reference::normalize;
pub use self_image::SelfImage;
pub use store::{Image, ImageStore, Layer, StoreError};
