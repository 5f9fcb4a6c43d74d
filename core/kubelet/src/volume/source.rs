//! Where the files of a volume come from: objects, tokens and the pod itself.

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, Pod, ProjectedVolumeSource, ServiceAccountTokenProjection,
};

use super::error::SetUpError;
use super::ownership::{self, FsGroup};
use super::payload::{DEFAULT_MODE, File, Payload, Wanted, mode};
use super::plan::Kind;
use super::token::{Tokens, Wish};
use crate::config::Config;
use crate::field;
use crate::objects::Objects;

/// What a token is valid for, if the volume does not say.
const TOKEN_SECONDS: i64 = 3600;

/// From what files are made.
pub(super) struct Sources<'a> {
    pub(super) pod: &'a Pod,
    pub(super) config: &'a Config,
    pub(super) objects: &'a Objects,
    pub(super) tokens: &'a Tokens,
}

impl Sources<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The files of a volume. A folder has none.
    pub(super) async fn payload(&self, kind: &Kind<'_>) -> Result<Payload, SetUpError> {
        let mut payload = Payload::default();
        match kind {
            Kind::EmptyDir(_)
            | Kind::HostPath(_)
            | Kind::Claim(_)
            | Kind::Ephemeral
            | Kind::Csi(_)
            | Kind::Image => {}
            Kind::ConfigMap(source) => {
                let wanted = Wanted {
                    items: source.items.as_deref(),
                    mode: mode(source.default_mode, DEFAULT_MODE),
                    optional: source.optional == Some(true),
                };
                self.config_map(&mut payload, &source.name, wanted).await?;
            }
            Kind::Secret(source) => {
                let wanted = Wanted {
                    items: source.items.as_deref(),
                    mode: mode(source.default_mode, DEFAULT_MODE),
                    optional: source.optional == Some(true),
                };
                self.secret(&mut payload, source.secret_name.as_deref().unwrap_or_default(), wanted).await?;
            }
            Kind::DownwardApi(source) => {
                let default = mode(source.default_mode, DEFAULT_MODE);
                self.downward(&mut payload, source.items.as_deref().unwrap_or_default(), default)?;
            }
            Kind::Projected(source) => self.projected(&mut payload, source).await?,
        }
        Ok(payload)
    }

    async fn config_map(&self, into: &mut Payload, name: &str, wanted: Wanted<'_>) -> Result<(), SetUpError> {
        let found = self.objects.config_map(self.namespace(), name).await?;
        into.config_map(name, found.as_deref(), wanted)
    }

    async fn secret(&self, into: &mut Payload, name: &str, wanted: Wanted<'_>) -> Result<(), SetUpError> {
        let found = self.objects.secret(self.namespace(), name).await?;
        into.secret(name, found.as_deref(), wanted)
    }

    async fn projected(&self, into: &mut Payload, from: &ProjectedVolumeSource) -> Result<(), SetUpError> {
        let default = mode(from.default_mode, DEFAULT_MODE);
        for one in from.sources.iter().flatten() {
            if let Some(source) = &one.config_map {
                let optional = source.optional == Some(true);
                let wanted = Wanted { items: source.items.as_deref(), mode: default, optional };
                self.config_map(into, &source.name, wanted).await?;
            }
            if let Some(source) = &one.secret {
                let optional = source.optional == Some(true);
                let wanted = Wanted { items: source.items.as_deref(), mode: default, optional };
                self.secret(into, &source.name, wanted).await?;
            }
            if let Some(source) = &one.downward_api {
                self.downward(into, source.items.as_deref().unwrap_or_default(), default)?;
            }
            if let Some(source) = &one.service_account_token {
                self.token(into, source, default).await?;
            }
        }
        Ok(())
    }

    fn downward(
        &self,
        into: &mut Payload,
        items: &[DownwardAPIVolumeFile],
        default: u32,
    ) -> Result<(), SetUpError> {
        for item in items {
            let text = if let Some(selector) = &item.field_ref {
                field::metadata(self.pod, &selector.field_path)?
            } else if let Some(selector) = &item.resource_field_ref {
                let container = selector.container_name.as_deref().unwrap_or_default();
                let container = field::container(self.pod, container)?;
                let allocatable = crate::node::allocatable::allocatable(self.config)?;
                field::resource(selector, container.resources.as_ref(), &allocatable)?
            } else {
                continue;
            };
            let file = File { content: text.into_bytes(), mode: mode(item.mode, default), user: None };
            into.put(&item.path, file)?;
        }
        Ok(())
    }

    /// A token that the containers' user can read, and as few others as possible.
    async fn token(
        &self,
        into: &mut Payload,
        from: &ServiceAccountTokenProjection,
        default: u32,
    ) -> Result<(), SetUpError> {
        let spec = self.pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.clone()).filter(|name| !name.is_empty());
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let wish = Wish {
            namespace: self.namespace().to_owned(),
            account: account.unwrap_or_else(|| "default".to_owned()),
            audience: from.audience.clone().filter(|audience| !audience.is_empty()),
            seconds: from.expiration_seconds.unwrap_or(TOKEN_SECONDS),
            pod: text(&self.pod.metadata.name),
            uid: text(&self.pod.metadata.uid),
        };
        let token = self.tokens.token(wish).await?.text;
        let (user, group) = (ownership::user(self.pod), FsGroup::of(self.pod));
        // The group may read it when it is given the file.
        let mode = if user.is_some() || group.is_some() { 0o600 } else { default };
        into.put(&from.path, File { content: token.into_bytes(), mode, user })
    }
}
