//! Which kind a volume is, and where it lies (pure).

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, ConfigMapVolumeSource, DownwardAPIVolumeSource, EmptyDirVolumeSource,
    HostPathVolumeSource, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource, SecretVolumeSource,
    Volume,
};

/// A volume's source, of those that are supported.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    EmptyDir(&'a EmptyDirVolumeSource),
    HostPath(&'a HostPathVolumeSource),
    ConfigMap(&'a ConfigMapVolumeSource),
    Secret(&'a SecretVolumeSource),
    DownwardApi(&'a DownwardAPIVolumeSource),
    Projected(&'a ProjectedVolumeSource),
    /// A persistent volume, by its claim.
    Claim(&'a PersistentVolumeClaimVolumeSource),
    /// A claim that is made for the pod.
    Ephemeral,
    /// A driver's volume that lives in the pod.
    Csi(&'a CSIVolumeSource),
    /// An image, mounted by the runtime.
    Image,
}

/// A volume that is not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// This kind of volume.
    #[error("volumes of type {0} are not supported by this node")]
    Kind(&'static str),
    /// A source of a projected volume.
    #[error("projected volumes with a source of type {0} are not supported by this node")]
    Projection(&'static str),
    /// A medium of an emptyDir.
    #[error("emptyDir with the medium {0:?} is not supported by this node")]
    Medium(String),
    /// Huge pages that cannot be had.
    #[error("medium {medium:?}: {reason}")]
    HugePages { medium: String, reason: &'static str },
}

impl Kind<'_> {
    /// The name of the folder of volumes of this kind, as upstream's plugins have it.
    fn folder(self) -> &'static str {
        match self {
            Kind::EmptyDir(_) => "kubernetes.io~empty-dir",
            Kind::HostPath(_) => "kubernetes.io~host-path",
            Kind::ConfigMap(_) => "kubernetes.io~configmap",
            Kind::Secret(_) => "kubernetes.io~secret",
            Kind::DownwardApi(_) => "kubernetes.io~downward-api",
            Kind::Projected(_) => "kubernetes.io~projected",
            Kind::Claim(_) | Kind::Ephemeral => "kubernetes.io~local-volume",
            Kind::Csi(_) => "kubernetes.io~csi",
            Kind::Image => "kubernetes.io~image",
        }
    }

    /// Whether the content may not come to a disk.
    pub(super) fn is_in_memory(self) -> bool {
        matches!(self, Kind::Secret(_) | Kind::Projected(_) | Kind::DownwardApi(_))
    }

    /// Whether containers may not write.
    pub(super) fn is_read_only(self) -> bool {
        match self {
            Kind::EmptyDir(_) | Kind::HostPath(_) | Kind::Ephemeral => false,
            Kind::Claim(source) => source.read_only == Some(true),
            Kind::Csi(source) => source.read_only == Some(true),
            Kind::ConfigMap(_)
            | Kind::Secret(_)
            | Kind::DownwardApi(_)
            | Kind::Projected(_)
            | Kind::Image => true,
        }
    }
}

/// A volume's kind. One without a source is an emptyDir, as the API server's defaults have it.
pub(super) fn kind(volume: &Volume) -> Result<Kind<'_>, Refused> {
    if let Some(source) = &volume.empty_dir {
        return Ok(Kind::EmptyDir(source));
    }
    if let Some(source) = &volume.host_path {
        return Ok(Kind::HostPath(source));
    }
    if let Some(source) = &volume.config_map {
        return Ok(Kind::ConfigMap(source));
    }
    if let Some(source) = &volume.secret {
        return Ok(Kind::Secret(source));
    }
    if let Some(source) = &volume.downward_api {
        return Ok(Kind::DownwardApi(source));
    }
    if let Some(source) = &volume.projected {
        return projected(source);
    }
    if let Some(source) = &volume.persistent_volume_claim {
        return Ok(Kind::Claim(source));
    }
    if volume.ephemeral.is_some() {
        return Ok(Kind::Ephemeral);
    }
    if let Some(source) = &volume.csi {
        return Ok(Kind::Csi(source));
    }
    if volume.image.is_some() {
        return Ok(Kind::Image);
    }
    Err(Refused::Kind(unsupported(volume)))
}

fn projected(source: &ProjectedVolumeSource) -> Result<Kind<'_>, Refused> {
    for one in source.sources.iter().flatten() {
        if one.cluster_trust_bundle.is_some() {
            return Err(Refused::Projection("clusterTrustBundle"));
        }
        if one.pod_certificate.is_some() {
            return Err(Refused::Projection("podCertificate"));
        }
    }
    Ok(Kind::Projected(source))
}

fn unsupported(volume: &Volume) -> &'static str {
    let sources = [
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.fc.is_some(), "fc"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (volume.azure_disk.is_some(), "azureDisk"),
        (volume.azure_file.is_some(), "azureFile"),
        (volume.cephfs.is_some(), "cephfs"),
        (volume.cinder.is_some(), "cinder"),
        (volume.flocker.is_some(), "flocker"),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (volume.portworx_volume.is_some(), "portworxVolume"),
        (volume.quobyte.is_some(), "quobyte"),
        (volume.rbd.is_some(), "rbd"),
        (volume.scale_io.is_some(), "scaleIO"),
        (volume.storageos.is_some(), "storageos"),
        (volume.vsphere_volume.is_some(), "vsphereVolume"),
    ];
    sources.into_iter().find(|(is_set, _)| *is_set).map_or("unknown", |(_, name)| name)
}

/// Where a volume lies on the node. A hostPath lies where it says; of a claim it is the mark that the pod has it.
pub(super) fn path(data_dir: &Path, uid: &str, kind: &Kind<'_>, name: &str) -> PathBuf {
    match kind {
        Kind::HostPath(source) => host_path(data_dir, &source.path),
        Kind::EmptyDir(_)
        | Kind::ConfigMap(_)
        | Kind::Secret(_)
        | Kind::DownwardApi(_)
        | Kind::Projected(_)
        | Kind::Claim(_)
        | Kind::Ephemeral
        | Kind::Csi(_)
        | Kind::Image => data_dir.join("pods").join(uid).join("volumes").join(kind.folder()).join(name),
    }
}

/// A volume whose content lies in the pod's own folder, and goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Local {
    /// Its name in the pod.
    pub(crate) name: String,
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// Its content is in memory.
    pub(crate) in_memory: bool,
}

/// The volumes of a pod that lie in its own folder.
pub(crate) fn local(data_dir: &Path, uid: &str, volumes: &[Volume]) -> Vec<Local> {
    let of = |volume: &Volume| {
        let kind = kind(volume).ok()?;
        let in_memory = match kind {
            Kind::EmptyDir(source) => source.medium.as_deref().unwrap_or_default() != "",
            Kind::ConfigMap(_) => false,
            Kind::Secret(_) | Kind::DownwardApi(_) | Kind::Projected(_) => true,
            Kind::HostPath(_) | Kind::Claim(_) | Kind::Ephemeral | Kind::Csi(_) | Kind::Image => {
                return None;
            }
        };
        let folder = path(data_dir, uid, &kind, &volume.name);
        Some(Local { name: volume.name.clone(), folder, in_memory })
    };
    volumes.iter().filter_map(of).collect()
}

/// A path of the node: what is said to be in the folder that kubelets elsewhere have is in this one's.
pub(super) fn host_path(data_dir: &Path, path: &str) -> PathBuf {
    crate::plugins::translated(data_dir, Path::new(path)).unwrap_or_else(|| PathBuf::from(path))
}
