//! Takes entries of a leader, if there is room for them on the disk.
//!
//! Entries for which there is none are refused before openraft has seen them: the leader tries again, this member stays
//! what it is - it hears heartbeats and votes - and goes on as soon as there is room.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::TypeConfig;
use super::core::{Answers, Core, unavailable};
use super::message::Refused;
use super::room::{Purpose, Room, size_of_entry};
use super::runtime::spawn;

/// Answers that wait to be sent.
const ANSWERS: usize = 64;

/// Takes room for entries. A heartbeat needs none.
pub(crate) async fn room(
    core: &Core,
    request: &AppendEntriesRequest<TypeConfig>,
) -> Result<Option<Room>, Refused> {
    if request.entries.is_empty() {
        return Ok(None);
    }
    let bytes = request.entries.iter().map(size_of_entry).sum();
    let room = core.log.reserve(bytes, Purpose::Follow).await;
    if room.is_err() || core.refuses.load(Ordering::Relaxed) {
        // Otherwise it may be room that a leader would not give away.
        core.space.reserved(bytes, &room);
    }
    match room {
        Ok(room) => {
            if core.refuses.swap(false, Ordering::Relaxed) {
                tracing::info!("there is room for entries of the leader again");
            }
            Ok(Some(room))
        }
        Err(error) => {
            if !core.refuses.swap(true, Ordering::Relaxed) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "entries of the leader are not taken until there is room");
            }
            Err(if error.is_no_space() { Refused::NoSpace } else { unavailable(error) })
        }
    }
}

/// Takes entries as they come. Answers come in their order, and a refusal at the end.
pub(crate) fn append(
    core: Arc<Core>,
    input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
) -> Answers {
    let (sender, receiver) = mpsc::channel(ANSWERS);
    spawn(async move {
        // Kept until the entries are answered, and so are written.
        let rooms = Arc::new(Mutex::new(VecDeque::new()));
        let refused = Arc::new(Mutex::new(None));
        let (asked, (kept, said)) = (Arc::clone(&core), (Arc::clone(&rooms), Arc::clone(&refused)));
        let admitted = input.then(move |request| {
            let (core, rooms, refused) = (Arc::clone(&asked), Arc::clone(&kept), Arc::clone(&said));
            async move {
                match room(&core, &request).await {
                    Ok(room) => {
                        rooms.lock().push_back(room);
                        Some(request)
                    }
                    Err(reason) => {
                        *refused.lock() = Some(reason);
                        None
                    }
                }
            }
        });
        let admitted =
            admitted.take_while(|it| std::future::ready(it.is_some())).filter_map(std::future::ready);
        answer(&core, admitted, &rooms, &sender).await;
        let refused = refused.lock().take();
        if let Some(refused) = refused {
            // The leader may have gone.
            let _ = sender.send(Err(refused)).await;
        }
        drop(sender);
        let left = !rooms.lock().is_empty();
        // What openraft has been given and has not answered may be on its way to the disk.
        if left && core.raft.with_raft_state(|_| ()).await.is_ok() {
            core.log.pass().await;
        }
    });
    ReceiverStream::new(receiver).boxed()
}

/// Passes answers on until the entries end or nobody waits for answers.
async fn answer(
    core: &Core,
    admitted: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
    rooms: &Mutex<VecDeque<Option<Room>>>,
    sender: &mpsc::Sender<super::core::Answer>,
) {
    let mut answers = pin!(core.raft.stream_append(admitted));
    loop {
        let answer = tokio::select! {
            biased;
            () = sender.closed() => return,
            answer = answers.next() => answer,
        };
        let Some(answer) = answer else { return };
        rooms.lock().pop_front();
        if sender.send(answer.map_err(unavailable)).await.is_err() {
            return;
        }
    }
}
