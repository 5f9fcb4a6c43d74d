//! Flags of the node's kubelet, by upstream's names, and the settings that they lead to.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use keelson_cgroup::Driver;
use keelson_kubelet::{CredentialProviders, KubeletConfiguration};

use crate::cluster::Folder;

#[derive(Debug, Default, Args)]
pub(crate) struct KubeletOptions {
    /// The kubelet's settings, a KubeletConfiguration of kubelet.config.k8s.io/v1beta1; kubelet.yaml in the data folder
    /// otherwise, if it is there.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_config: Option<PathBuf>,
    /// The container runtime, such as unix:///run/containerd/containerd.sock, whatever containerRuntimeEndpoint of the
    /// kubelet's settings says. The embedded one otherwise.
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Plugins that provide credentials for images, a CredentialProviderConfig of kubelet.config.k8s.io/v1, or a folder of
    /// such files.
    #[arg(long, value_name = "PATH", requires = "image_credential_provider_bin_dir")]
    pub(crate) image_credential_provider_config: Option<PathBuf>,
    /// The folder of these plugins' programs.
    #[arg(long, value_name = "FOLDER", requires = "image_credential_provider_config")]
    pub(crate) image_credential_provider_bin_dir: Option<PathBuf>,
}

/// What the node's owner has decided about its kubelet.
#[derive(Debug, Clone)]
pub(crate) struct KubeletSettings {
    pub(crate) configuration: KubeletConfiguration,
    pub(crate) credential_providers: Option<CredentialProviders>,
}

impl KubeletOptions {
    /// The settings: of the file that is named, or else of the folder's, if there is one, and of flags.
    pub(crate) fn settings(&self, folder: &Folder) -> anyhow::Result<KubeletSettings> {
        let configuration = self.configuration(folder)?;
        let plugins = self
            .image_credential_provider_config
            .as_ref()
            .zip(self.image_credential_provider_bin_dir.as_ref());
        let opened =
            plugins.map(|(configuration, programs)| CredentialProviders::open(configuration, programs));
        let credential_providers = opened.transpose().context("find the credential provider plugins")?;
        Ok(KubeletSettings { configuration, credential_providers })
    }

    fn configuration(&self, folder: &Folder) -> anyhow::Result<KubeletConfiguration> {
        let usual = folder.kubelet_settings();
        let path = self.kubelet_config.as_ref().unwrap_or(&usual);
        let wrong = || format!("{} is not what this kubelet can follow", path.display());
        let mut settings = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.kubelet_config.is_none() => {
                KubeletConfiguration::default()
            }
            text => {
                let text = text.with_context(|| format!("read {}", path.display()))?;
                serde_yaml_ng::from_slice::<KubeletConfiguration>(&text).with_context(wrong)?
            }
        };
        settings.validate().with_context(wrong)?;
        if let Some(endpoint) = &self.container_runtime_endpoint {
            settings.container_runtime_endpoint.clone_from(endpoint);
            settings
                .validate()
                .context("--container-runtime-endpoint is not what this kubelet can follow")?;
        }
        // Another runtime may say otherwise, and is asked.
        let embedded = settings.runtime_socket().is_none();
        if embedded && settings.cgroup_driver == Driver::Systemd && !keelson_cgroup::systemd::is_running() {
            return Err(keelson_cgroup::SystemdError::Absent).with_context(wrong);
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_says_more_of_the_runtime_than_the_file() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::new(data.path()).unwrap();
        let told = |endpoint: Option<&str>| {
            let options = KubeletOptions {
                container_runtime_endpoint: endpoint.map(str::to_owned),
                ..KubeletOptions::default()
            };
            options.settings(&folder).map(|settings| settings.configuration)
        };
        assert_eq!(told(None).unwrap(), KubeletConfiguration::default());
        std::fs::write(folder.kubelet_settings(), "maxPods: 7\ncontainerRuntimeEndpoint: /run/a.sock\n")
            .unwrap();
        assert_eq!(told(None).unwrap().runtime_socket(), Some("/run/a.sock".into()));
        let other = told(Some("unix:///run/b.sock")).unwrap();
        assert_eq!((other.runtime_socket(), other.max_pods), (Some("/run/b.sock".into()), 7));
        assert_eq!(told(Some("")).unwrap().runtime_socket(), None, "the embedded one");
        let refused = format!("{:#}", told(Some("tcp://a:1")).unwrap_err());
        assert!(
            refused.starts_with("--container-runtime-endpoint") && refused.contains("Invalid value"),
            "{refused}"
        );
    }
}
