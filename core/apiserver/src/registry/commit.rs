//! Brings changes to the store, and says in the API's words what stands against them.

use bytes::Bytes;
use keelson_api::Status;
use keelson_store::{Change, Key, Precondition, Refusal, StoreError, Value, Write};

use super::{Registry, Target, WriteFailure};

fn no_space(why: &str) -> Status {
    Status::new(500, "InternalError", format!("etcdserver: mvcc: database space exceeded: {why}"))
}

impl Registry {
    pub(super) async fn write(
        &self,
        target: &Target,
        change: Change,
        precondition: Precondition,
    ) -> Result<Bytes, WriteFailure> {
        let key = target.store_key().map_err(WriteFailure::Status)?;
        self.commit(key, change, precondition).await
    }

    /// Changes a note of the servers, which is no object of the API: a document that is `None` goes. `false` where the
    /// precondition does not hold.
    pub(crate) async fn note(
        &self,
        key: &str,
        note: Option<Vec<u8>>,
        precondition: Precondition,
    ) -> Result<bool, Status> {
        let key = Key::new(key).map_err(Status::internal)?;
        let change =
            note.map_or_else(|| Change::Delete(Value::plain("{}")), |it| Change::Put(Value::plain(it)));
        match self.commit(key, change, precondition).await {
            Ok(_) => Ok(true),
            Err(WriteFailure::Conflict | WriteFailure::Outdated) => Ok(false),
            Err(WriteFailure::Status(status)) => Err(status),
        }
    }

    async fn commit(
        &self,
        key: Key,
        change: Change,
        precondition: Precondition,
    ) -> Result<Bytes, WriteFailure> {
        let sealed = |value| self.encryption().seal(key.as_str(), value);
        let change = match change {
            Change::Put(value) => sealed(value).map(Change::Put),
            Change::Delete(value) => sealed(value).map(Change::Delete),
        };
        let change = change.map_err(|error| WriteFailure::Status(Status::internal(error)))?;
        match self.store().write(Write { key: key.clone(), precondition, change }).await {
            Ok(entry) => {
                let opened = self.encryption().unseal(key.as_str(), &entry.value, entry.modified.get());
                opened.map(|it| it.bytes).map_err(|error| WriteFailure::Status(Status::internal(error)))
            }
            Err(StoreError::Refused(Refusal::Conflict { .. })) => Err(WriteFailure::Conflict),
            Err(StoreError::Refused(Refusal::Outdated)) => Err(WriteFailure::Outdated),
            Err(error) => Err(WriteFailure::Status(refused(error))),
        }
    }
}

/// What a write is answered with that the store has not made.
fn refused(error: StoreError) -> Status {
    match error {
        // In the words that upstream's store has for it, which tools know.
        StoreError::Refused(refusal @ Refusal::NoSpace { .. }) => {
            no_space(&format!("{refusal}: delete objects, or raise the quota"))
        }
        StoreError::NoSpace => no_space(
            "no space is left where the store is kept: free some on its disk, or in its database, or delete objects",
        ),
        StoreError::TooLarge { reason } => Status::too_large(format!("Request entity too large: {reason}")),
        StoreError::Unavailable { .. } | StoreError::Closed => Status::unavailable(error.to_string()),
        StoreError::OutcomeUnknown { .. } => Status::new(504, "Timeout", error.to_string()),
        StoreError::Refused(Refusal::Malformed | Refusal::Conflict { .. } | Refusal::Outdated) => {
            Status::internal(error)
        }
    }
}
