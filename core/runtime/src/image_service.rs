//! `runtime.v1.ImageService`.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_cri::v1;
use keelson_cri::v1::image_service_server::ImageService;
use oci_client::secrets::RegistryAuth;
use tonic::{Request, Response, Status};

use crate::error::CallError;
use crate::image::Image;
use crate::image::pull;
use crate::info;
use crate::runtime_service::{Pieces, in_pieces};
use crate::state::Runtime;
use crate::stats;
use crate::status;

/// The service over the runtime.
#[derive(Clone)]
pub(crate) struct ImageServer(pub(crate) Arc<Runtime>);

fn name(spec: Option<v1::ImageSpec>) -> Result<String, CallError> {
    let name = spec.map(|spec| spec.image).unwrap_or_default();
    if name.is_empty() { Err(CallError::Missing("the image's name")) } else { Ok(name) }
}

/// The host of an address such as `https://HOST:PORT/v2/`.
fn host(address: &str) -> &str {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    bare.split('/').next().unwrap_or(bare)
}

/// The credentials in the form that registries take.
fn credentials(auth: Option<v1::AuthConfig>) -> Result<RegistryAuth, CallError> {
    let Some(auth) = auth else { return Ok(RegistryAuth::Anonymous) };
    if !auth.registry_token.is_empty() {
        return Ok(RegistryAuth::Bearer(auth.registry_token));
    }
    if !auth.identity_token.is_empty() {
        return Err(CallError::Refused("identity tokens are not supported by this runtime".to_owned()));
    }
    if !auth.username.is_empty() {
        return Ok(RegistryAuth::Basic(auth.username, auth.password));
    }
    if auth.auth.is_empty() {
        return Ok(RegistryAuth::Anonymous);
    }
    let refuse = || CallError::Refused("the credentials are not base64 of USER:PASSWORD".to_owned());
    let text =
        STANDARD.decode(auth.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(refuse)?;
    let (user, password) = text.split_once(':').ok_or_else(refuse)?;
    Ok(RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

impl ImageServer {
    fn message(&self, image: &Image) -> Result<v1::Image, CallError> {
        Ok(status::image(image, &self.0.images.config(image)?))
    }
}

#[tonic::async_trait]
impl ImageService for ImageServer {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let filter = request.into_inner().filter.and_then(|filter| filter.image).unwrap_or_default().image;
        let images = if filter.is_empty() {
            self.0.images.list().map_err(CallError::from)?
        } else {
            self.0.images.find(&filter).map_err(CallError::from)?.into_iter().collect()
        };
        // One that is damaged hides no other.
        let message = |image: &Image| match self.message(image) {
            Ok(message) => Some(message),
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::warn!(image = image.id, error, "an image is not readable");
                None
            }
        };
        let images = images.iter().filter_map(message).collect();
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    type StreamImagesStream = Pieces<v1::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let request = v1::ListImagesRequest { filter: request.into_inner().filter };
        let list = self.list_images(Request::new(request)).await?.into_inner().images;
        in_pieces(list, |images| v1::StreamImagesResponse { images })
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = name(request.image)?;
        let pull = request.verbose.then(|| info::pull(&self.0.pulls.under_way, &name)).flatten();
        let Some(found) = self.0.images.find(&name).map_err(CallError::from)? else {
            let info = pull.into_iter().collect();
            return Ok(Response::new(v1::ImageStatusResponse { image: None, info }));
        };
        let config = self.0.images.config(&found).map_err(CallError::from)?;
        let mut info = if request.verbose { info::image(&found, &config) } else { HashMap::new() };
        info.extend(pull);
        Ok(Response::new(v1::ImageStatusResponse { image: Some(status::image(&found, &config)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = name(request.image)?;
        let host = request.auth.as_ref().map(|auth| host(&auth.server_address).to_owned());
        let key = pull::Key { auth: credentials(request.auth)?, host: host.unwrap_or_default() };
        let (images, pulls) = (Arc::clone(&self.0.images), &self.0.pulls);
        let pulled = pull::pull(images, pulls, &self.0.config.registries, &name, &key).await;
        let image = pulled.map_err(CallError::from)?;
        Ok(Response::new(v1::PullImageResponse { image_ref: image.id }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let name = name(request.into_inner().image)?;
        let runtime = Arc::clone(&self.0);
        let work = move || runtime.images.remove(&name, &runtime.layers_in_use());
        let removed = tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)?;
        removed.map_err(CallError::from)?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        let runtime = Arc::clone(&self.0);
        let work = move || {
            let pods = runtime.pods_folder();
            (runtime.image_usage(), stats::file_system(&pods, &pods))
        };
        let (images, pods) = tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)?;
        Ok(Response::new(v1::ImageFsInfoResponse {
            image_filesystems: vec![images],
            container_filesystems: vec![pods],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_three_forms() {
        let plain = v1::AuthConfig {
            username: "u".to_owned(),
            password: "p".to_owned(),
            ..v1::AuthConfig::default()
        };
        let basic = RegistryAuth::Basic("u".to_owned(), "p".to_owned());
        assert_eq!(credentials(Some(plain)).unwrap(), basic);
        let packed = v1::AuthConfig { auth: STANDARD.encode("u:p"), ..v1::AuthConfig::default() };
        assert_eq!(credentials(Some(packed)).unwrap(), basic);
        assert_eq!(credentials(None).unwrap(), RegistryAuth::Anonymous);
        let broken = v1::AuthConfig { auth: "***".to_owned(), ..v1::AuthConfig::default() };
        assert!(credentials(Some(broken)).is_err());
        assert_eq!((host("https://r.example:5000/v2/"), host("r.example")), ("r.example:5000", "r.example"));
    }
}
