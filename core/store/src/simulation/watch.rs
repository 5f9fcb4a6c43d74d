//! A watched value whose watchers wake in the order in which they began to wait. Tokio's wake in an order that is drawn
//! by dice of its own.

use std::sync::Arc;

use openraft::OptionalSend;
use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use tokio::sync::{Notify, watch};

#[derive(Debug)]
pub(crate) struct OrderedWatch;

pub(crate) struct Sender<T> {
    /// `None` only while the sender goes.
    value: Option<watch::Sender<T>>,
    changed: Arc<Notify>,
}

pub(crate) struct Receiver<T> {
    value: watch::Receiver<T>,
    changed: Arc<Notify>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { value: self.value.clone(), changed: Arc::clone(&self.changed) }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver { value: self.value.clone(), changed: Arc::clone(&self.changed) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.value = None;
        self.changed.notify_waiters();
    }
}

impl<T> Sender<T> {
    #[allow(clippy::expect_used)]
    fn value(&self) -> &watch::Sender<T> {
        self.value.as_ref().expect("it goes only with the sender")
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + openraft::OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + openraft::OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;

    fn channel<T: OptionalSend + openraft::OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = watch::channel(init);
        let changed = Arc::new(Notify::new());
        (Sender { value: Some(sender), changed: Arc::clone(&changed) }, Receiver { value: receiver, changed })
    }
}

impl<T: OptionalSend + openraft::OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.value().send(value).map_err(|error| SendError(error.0))?;
        self.changed.notify_waiters();
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = self.value().send_if_modified(modify);
        if modified {
            self.changed.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value().borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { value: self.value().subscribe(), changed: Arc::clone(&self.changed) }
    }
}

impl<T: OptionalSend + openraft::OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.value.has_changed() {
                Ok(true) => {
                    self.value.mark_unchanged();
                    return Ok(());
                }
                Ok(false) => changed.await,
                Err(_) => return Err(RecvError(())),
            }
        }
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.value.borrow_and_update()
    }
}
