//! What runs beside requests until the server ends.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::insight::health::{Concerns, Health};

/// The tasks. One that panics is told in the log, and makes `/livez` fail: whoever watches the server starts it again.
pub(super) struct Background {
    tasks: TaskTracker,
    broken: Arc<Mutex<Vec<&'static str>>>,
}

impl Background {
    /// No tasks yet, and the check of them.
    pub(super) fn new(health: &Health) -> Self {
        let broken: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let seen = Arc::clone(&broken);
        health.add("background-tasks", Concerns::Everything, move || {
            let broken = seen.lock().join(", ");
            std::future::ready(if broken.is_empty() { Ok(()) } else { Err(format!("ended: {broken}")) })
        });
        Background { tasks: TaskTracker::new(), broken }
    }

    /// Runs a task.
    pub(super) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let broken = Arc::clone(&self.broken);
        self.tasks.spawn(async move {
            // It shares only what is behind locks that a panic does not poison.
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task of the API server has panicked");
                broken.lock().push(name);
            }
        });
    }

    /// Waits for all tasks, which must have been told to end.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// How many still run.
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_info::RequestInfo;

    #[tokio::test]
    async fn a_task_that_panics_makes_the_server_unwell() {
        let health = Health::new(&keelson_metrics::Registry::default()).unwrap();
        let background = Background::new(&health);
        background.spawn("well", async {});
        background.spawn("ill", async { panic!("on purpose") });
        background.ended().await;
        let info = RequestInfo::parse(&http::Method::GET, "/livez", Some("verbose"));
        let response = health.serve(&info, Some("verbose")).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("[-]background-tasks failed"));
    }
}
