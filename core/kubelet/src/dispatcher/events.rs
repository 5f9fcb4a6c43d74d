//! The runtime's events: asked for, heard, and asked for again when they break off.
//!
//! A runtime may answer no sooner than it has an event (containerd does): asking takes as long as it takes, and goes on beside
//! everything else. **Guarantee**: [`Events::next`] may be dropped at any time and loses nothing.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use keelson_cri::v1;
use tokio::time::Instant;
use tonic::Streaming;

use crate::runtime_client::{RuntimeClient, RuntimeError};

/// The runtime is asked for its events again after this.
const RETRY: Duration = Duration::from_secs(1);

type Stream = Streaming<v1::ContainerEventResponse>;

enum State {
    /// It is asked at this time.
    Due(Instant),
    /// It is being asked.
    Asking(BoxFuture<'static, Result<Stream, RuntimeError>>),
    /// It tells.
    Hearing(Box<Stream>),
    /// It tells none.
    Silent,
}

/// What is heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// From now on events are told; what happened before is not.
    Begin,
    /// None will be told.
    Silence,
    /// An event.
    Event(Box<v1::ContainerEventResponse>),
    /// No more events are told, until it begins anew.
    End,
}

/// The events of a runtime.
pub(super) struct Events {
    runtime: RuntimeClient,
    state: State,
}

impl Events {
    pub(super) fn new(runtime: RuntimeClient) -> Self {
        Self { runtime, state: State::Due(Instant::now()) }
    }

    /// Whether what happens is told.
    pub(super) fn are_heard(&self) -> bool {
        matches!(self.state, State::Hearing(_))
    }

    /// The runtime may be another one now, which tells events.
    pub(super) fn ask_anew(&mut self) {
        if matches!(self.state, State::Silent) {
            self.state = State::Due(Instant::now());
        }
    }

    /// What comes next; never, while the runtime has nothing to tell.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            match &mut self.state {
                State::Due(at) => {
                    tokio::time::sleep_until(*at).await;
                    let runtime = self.runtime.clone();
                    self.state = State::Asking(async move { runtime.events().await }.boxed());
                }
                State::Asking(asking) => match asking.await {
                    Ok(stream) => {
                        self.state = State::Hearing(Box::new(stream));
                        return Heard::Begin;
                    }
                    Err(error) if error.is_unimplemented() => {
                        tracing::info!("the runtime tells no events: it is looked at each second");
                        self.state = State::Silent;
                        return Heard::Silence;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the runtime does not tell its events");
                        self.state = State::Due(Instant::now() + RETRY);
                    }
                },
                State::Hearing(stream) => match stream.message().await {
                    Ok(Some(event)) => return Heard::Event(Box::new(event)),
                    Ok(None) => return self.end(),
                    Err(error) => {
                        tracing::warn!(%error, "the runtime's events broke off");
                        return self.end();
                    }
                },
                State::Silent => std::future::pending().await,
            }
        }
    }

    fn end(&mut self) -> Heard {
        self.state = State::Due(Instant::now() + RETRY);
        Heard::End
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message as _;
    use tokio::sync::Notify;

    use super::*;
    use crate::testing::{self, Answer};

    #[tokio::test]
    async fn a_runtime_that_answers_with_its_first_event_holds_nothing_up_until_then() {
        let (asked, happens) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (is_asked, has_happened) = (Arc::clone(&asked), Arc::clone(&happens));
        let (socket, server) = testing::runtime(move |call| {
            assert_eq!(call, "GetContainerEvents");
            let (asked, happens) = (Arc::clone(&is_asked), Arc::clone(&has_happened));
            async move {
                asked.notify_one();
                happens.notified().await;
                let nothing = v1::ContainerEventResponse::default();
                let event = v1::ContainerEventResponse { container_id: "c1".into(), ..nothing };
                Answer::First(event.encode_to_vec())
            }
            .boxed()
        });
        let mut events = Events::new(RuntimeClient::new(&socket, None));
        // As the dispatcher waits for it: beside something else, which comes first.
        tokio::select! {
            heard = events.next() => panic!("nothing has happened, and {heard:?} was heard"),
            () = asked.notified() => {}
        }
        assert!(!events.are_heard());
        happens.notify_one();
        assert!(matches!(events.next().await, Heard::Begin));
        assert!(events.are_heard());
        assert!(matches!(events.next().await, Heard::Event(event) if event.container_id == "c1"));
        server.abort();
        assert!(matches!(events.next().await, Heard::End));
    }
}
