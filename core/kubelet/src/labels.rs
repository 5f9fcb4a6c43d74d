//! Labels and annotations by which the kubelet finds its pods in the runtime again, the same as other kubelets write.

use k8s_openapi::api::core::v1::Container;
use ring::digest;

/// Label: name of the pod.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: namespace of the pod.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: unique identifier of the pod.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: name of the container.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: what the container was made from.
pub(crate) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation: instances before this one.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where the container writes its last words.
pub(crate) const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: whether the log may stand in for the last words.
pub(crate) const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: seconds between the pod's stop signal and its end.
pub(crate) const POD_TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation of sandboxes: where the pod came from.
pub(crate) const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Annotation: the root of the cluster's control groups; says whose pod it is in a runtime that several use.
pub(crate) const CGROUP_ROOT: &str = "keelson.io/cgroup-root";
/// Annotation: the group of all pods' groups where it is not below that root but the machine's, by the kubelet's `cgroupRoot`.
pub(crate) const PODS_CGROUP: &str = "keelson.io/pods-cgroup";

/// What of a container cannot change without a new instance: its name and its image.
pub(crate) fn hash(container: &Container) -> String {
    let text = format!("{}\n{}", container.name, container.image.as_deref().unwrap_or(""));
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    hex::encode(&digest.as_ref()[..4])
}
