//! (pure) The signal by which a container is asked to end: as pods name it, and as the CRI does.

use k8s_openapi::api::core::v1::Container;
use keelson_cri::v1::Signal;

/// What the CRI counts from one on.
const LAST: i32 = 65;

/// The signal that a container's definition names; the image's own without one.
pub(crate) fn of_container(container: &Container) -> Signal {
    let wanted = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    let all = (1..=LAST).filter_map(|number| Signal::try_from(number).ok());
    let found =
        wanted.and_then(|wanted| all.into_iter().find(|signal| name(*signal).as_deref() == Some(wanted)));
    found.unwrap_or(Signal::RuntimeDefault)
}

/// A signal as pods name it; `None` when the runtime does not say.
pub(crate) fn name(signal: Signal) -> Option<String> {
    let name = signal.as_str_name().replace("PLUS", "+").replace("MINUS", "-");
    (signal != Signal::RuntimeDefault).then_some(name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Lifecycle;

    use super::*;

    #[test]
    fn a_signal_is_named_by_the_pod_or_left_to_the_image() {
        let named = |name: Option<&str>| {
            let lifecycle = Lifecycle { stop_signal: name.map(str::to_owned), ..Lifecycle::default() };
            of_container(&Container { lifecycle: Some(lifecycle), ..Container::default() })
        };
        assert_eq!(named(Some("SIGUSR1")), Signal::Sigusr1);
        assert_eq!(named(Some("SIGRTMIN+3")), Signal::Sigrtminplus3);
        assert_eq!(
            (named(None), of_container(&Container::default())),
            (Signal::RuntimeDefault, Signal::RuntimeDefault)
        );
        assert_eq!(
            (name(Signal::Sigrtmaxminus1).as_deref(), name(Signal::RuntimeDefault)),
            (Some("SIGRTMAX-1"), None)
        );
    }
}
