//! The asynchronous runtime of the members: tokio's, except that a simulation can take over its dice and its tasks.

use std::cell::RefCell;
use std::future::Future;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::OptionalSend;
use openraft_random::SeedableRng as _;
use openraft_random::rngs::SmallRng;
use openraft_random::{Rng as _, rng};

type Tokio = openraft_rt_tokio::TokioRuntime;

/// Tokio, with dice that a simulation can seed.
#[derive(Debug)]
pub(crate) struct Runtime(Tokio);

thread_local! {
    static DICE: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
}

/// A random number. In a simulation it comes from the seed.
pub(crate) fn random() -> u64 {
    DICE.with_borrow_mut(|dice| dice.as_mut().map(|dice| dice.next_u64())).unwrap_or_else(|| rng().next_u64())
}

/// From here on, and in this thread, all random numbers follow from a seed.
#[cfg(feature = "simulation")]
pub(crate) fn seed(seed: u64) {
    DICE.set(Some(SmallRng::seed_from_u64(seed)));
}

#[cfg(feature = "simulation")]
tokio::task_local! {
    /// The tasks of the member that the current task belongs to, so that all of them can be killed at once.
    pub(crate) static TASKS: std::sync::Arc<parking_lot::Mutex<Vec<tokio::task::AbortHandle>>>;
}

/// Starts a task. In a simulation it belongs to the member that started it, and dies with it.
pub(crate) fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(feature = "simulation")]
    if let Ok(tasks) = TASKS.try_with(std::sync::Arc::clone) {
        let handle = tokio::spawn(TASKS.scope(std::sync::Arc::clone(&tasks), future));
        let mut tasks = tasks.lock();
        if tasks.len() >= 256 && tasks.len().is_power_of_two() {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(handle.abort_handle());
        return handle;
    }
    tokio::spawn(future)
}

/// Does what waits for the disk where that is fine. In a simulation, which has one thread, that is here.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    #[cfg(feature = "simulation")]
    if TASKS.try_with(|_| ()).is_ok() {
        // It takes its time, in which other things happen.
        let slow = random().is_multiple_of(8);
        tokio::time::sleep(Duration::from_micros(random() % if slow { 2_000_000 } else { 20_000 })).await;
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}

impl AsyncRuntime for Runtime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    #[cfg(not(feature = "simulation"))]
    type Watch = <Tokio as AsyncRuntime>::Watch;
    #[cfg(feature = "simulation")]
    type Watch = crate::simulation::watch::OrderedWatch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SmallRng::seed_from_u64(random())
    }

    fn new(threads: usize) -> Self {
        Runtime(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
