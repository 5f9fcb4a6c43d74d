//! How devices of claims fare, as their drivers tell it. What a driver has not told again in time is not known.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ResourceHealth, ResourceStatus};
use keelson_dra::health as api;
use keelson_dra::health::dra_resource_health_client::DraResourceHealthClient;
use tokio::time::Instant;

use super::Dra;
use super::driver::Driver;
use super::state::Device;

/// For how long holds what was told, where that is not said.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before a driver is listened to again.
const RETRY: Duration = Duration::from_secs(5);
/// Devices of a driver of which is kept what it tells; of more nothing is known. A node offers at most 128 in each slice.
const DEVICES: usize = 8192;
/// Characters of a message.
const WORDS: usize = 1024;
/// The word for what was not told.
const UNKNOWN: &str = "Unknown";

/// What was told of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    health: &'static str,
    message: String,
    patience: Duration,
    until: Instant,
}

/// (pure) What drivers have told, by driver, and by pool and name of the device.
#[derive(Debug, Default)]
pub(super) struct Health(HashMap<String, BTreeMap<(String, String), Told>>);

/// The beginning of what is too long.
fn shortened(text: &str) -> String {
    if text.len() <= WORDS {
        return text.to_owned();
    }
    let end = (0..=WORDS - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}...", &text[..end])
}

impl Health {
    /// A driver has told how its devices fare. Whether that is news.
    pub(super) fn update(&mut self, driver: &str, devices: &[api::DeviceHealth], now: Instant) -> bool {
        let known = self.0.entry(driver.to_owned()).or_default();
        let before = known.len();
        known.retain(|_, told| told.until > now);
        let mut is_news = known.len() != before;
        for one in devices {
            let device = one.device.clone().unwrap_or_default();
            let health = match one.health() {
                api::HealthStatus::Healthy => "Healthy",
                api::HealthStatus::Unhealthy => "Unhealthy",
                api::HealthStatus::Unknown => UNKNOWN,
            };
            let seconds = u64::try_from(one.health_check_timeout_seconds).ok().filter(|seconds| *seconds > 0);
            let patience = seconds.map_or(PATIENCE, |seconds| Duration::from_secs(seconds.min(86_400)));
            let message = shortened(&one.message);
            let told = Told { health, message, patience, until: now + patience };
            let same = |old: &Told| {
                (old.health, &old.message, old.patience) == (told.health, &told.message, told.patience)
            };
            let key = (device.pool_name, device.device_name);
            if known.len() >= DEVICES && !known.contains_key(&key) {
                continue;
            }
            is_news |= !known.get(&key).is_some_and(same);
            known.insert(key, told);
        }
        is_news
    }

    /// A driver does not tell any more. Whether it did.
    pub(super) fn forget(&mut self, driver: &str) -> bool {
        self.0.remove(driver).is_some_and(|told| !told.is_empty())
    }

    /// When the next thing that a driver told does not hold any more.
    pub(super) fn next_end(&self, driver: &str) -> Option<Instant> {
        self.0.get(driver)?.values().map(|told| told.until).min()
    }

    fn of(&self, driver: &str, device: &Device, now: Instant) -> ResourceHealth {
        let key = (device.pool_name.clone(), device.device_name.clone());
        let told = self.0.get(driver).and_then(|all| all.get(&key)).filter(|told| told.until > now);
        let id = device.cdi_device_ids.first().cloned();
        ResourceHealth {
            resource_id: id.unwrap_or_else(|| format!("{driver}/{}/{}", key.0, key.1)),
            health: Some(told.map_or(UNKNOWN, |told| told.health).to_owned()),
            message: told.map(|told| told.message.clone()).filter(|message| !message.is_empty()),
        }
    }
}

impl Dra {
    /// How the devices of a pod's claims fare, by container.
    pub(crate) fn health(&self, pod: &Pod) -> BTreeMap<String, Vec<ResourceStatus>> {
        let now = Instant::now();
        let mut found: BTreeMap<String, Vec<ResourceStatus>> = BTreeMap::new();
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            for wanted in Self::of_container(pod, container).unwrap_or_default() {
                let Some(claim) = self.state.get(&wanted.claim) else { continue };
                let health = self.health.lock();
                let mut resources: Vec<ResourceHealth> = Vec::new();
                for (driver, device) in claim.devices(wanted.request.as_deref()) {
                    let one = health.of(driver, device, now);
                    if resources.iter().all(|known| known.resource_id != one.resource_id) {
                        resources.push(one);
                    }
                }
                let request = wanted.request.map(|request| format!("/{request}")).unwrap_or_default();
                if !resources.is_empty() {
                    let name = format!("claim:{}{request}", wanted.name);
                    let status = ResourceStatus { name, resources: Some(resources) };
                    found.entry(container.name.clone()).or_default().push(status);
                }
            }
        }
        found
    }

    /// Is told when it is otherwise.
    pub(crate) fn news(&self) -> tokio::sync::watch::Receiver<u64> {
        self.news.subscribe()
    }
}

/// Listens to a driver for as long as it is asked to; one that does not tell how its devices fare is left alone. `told` takes what it
/// says, or nothing when it says no more, and answers until when that holds.
pub(super) async fn listen(
    driver: &Driver,
    mut told: impl FnMut(Option<Vec<api::DeviceHealth>>) -> Option<Instant>,
) {
    loop {
        let mut client = DraResourceHealthClient::new(driver.channel());
        match client.node_watch_resources(api::NodeWatchResourcesRequest {}).await {
            Err(status) if status.code() == tonic::Code::Unimplemented => return,
            Err(error) => tracing::debug!(%error, "a driver does not say how its devices fare"),
            Ok(stream) => {
                let mut stream = stream.into_inner();
                let mut until = None;
                loop {
                    let message = stream.message();
                    let next = match until {
                        Some(until) => tokio::time::timeout_at(until, message).await,
                        None => Ok(message.await),
                    };
                    match next {
                        Ok(Ok(Some(list))) => until = told(Some(list.devices)),
                        // The stream has ended, well or not.
                        Ok(Ok(None) | Err(_)) => break,
                        // Something does not hold any more.
                        Err(_) => until = told(Some(Vec::new())),
                    }
                }
                told(None);
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(device: &str, health: api::HealthStatus, seconds: i64, message: &str) -> api::DeviceHealth {
        let device = api::DeviceIdentifier { pool_name: "p".to_owned(), device_name: device.to_owned() };
        api::DeviceHealth {
            device: Some(device),
            health: health.into(),
            health_check_timeout_seconds: seconds,
            message: message.to_owned(),
            ..api::DeviceHealth::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_driver_tells_holds_for_its_time_and_no_longer_than_the_driver_tells() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let device = |name: &str| Device {
            pool_name: "p".to_owned(),
            device_name: name.to_owned(),
            ..Device::default()
        };
        let mut health = Health::default();
        let of = |health: &Health, name: &str, now| {
            let found = health.of("d", &device(name), now);
            (found.health.unwrap(), found.message, found.resource_id)
        };
        let id = |name: &str| format!("d/p/{name}");
        assert_eq!(of(&health, "a", start), ("Unknown".into(), None, id("a")));
        let all = [
            told("a", api::HealthStatus::Unhealthy, 0, "hot"),
            told("b", api::HealthStatus::Healthy, 100, ""),
        ];
        assert!(health.update("d", &all, start) && !health.update("d", &all, at(1)));
        assert_eq!(of(&health, "a", at(2)), ("Unhealthy".into(), Some("hot".into()), id("a")));
        assert_eq!(health.next_end("d"), Some(at(31)));
        assert_eq!(of(&health, "a", at(31)).0, "Unknown");
        assert!(health.update("d", &[], at(31)), "that it is not known any more is news");
        assert_eq!((of(&health, "b", at(32)).0, health.next_end("d")), ("Healthy".into(), Some(at(101))));
        assert!(health.forget("d") && !health.forget("d"));
        assert_eq!(of(&health, "b", at(32)).0, "Unknown");
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_keeps_naming_new_devices_fills_no_memory() {
        let (now, mut health) = (Instant::now(), Health::default());
        for number in 0..DEVICES + 10 {
            let one = told(&number.to_string(), api::HealthStatus::Healthy, 86_400, "");
            assert_eq!(health.update("d", &[one], now), number < DEVICES);
        }
        // What is known is kept up to date all the same.
        assert!(health.update("d", &[told("0", api::HealthStatus::Unhealthy, 86_400, "")], now));
        assert_eq!(health.0["d"].len(), DEVICES);
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_off() {
        assert_eq!(shortened(&"x".repeat(1024)).len(), 1024);
        let cut = shortened(&"x".repeat(1025));
        assert!(cut.len() == 1024 && cut.ends_with("x..."));
    }
}
