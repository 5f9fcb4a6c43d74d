//! A write as a transaction of etcd. Pure but for a look at the copy.

use bytes::Bytes;
use keelson_store::{Change, Precondition, Value, Write};

use crate::copy::Copy;
use crate::layout::{Deleted, Stored, WriteId, number};
use crate::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::request_op::Request;
use crate::proto::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// What is told of the last state of what is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// The state that the deletion names.
    Told,
    /// That it is what was stored.
    AsStored,
    /// Nothing, and so neither who has deleted it: etcd has no room for a word.
    Untold,
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: Bytes, value: Bytes) -> RequestOp {
    op(Request::RequestPut(PutRequest { key, value }))
}

fn read(key: &Bytes, keys_only: bool) -> RequestOp {
    let range = RangeRequest { key: key.clone(), limit: 1, keys_only, ..RangeRequest::default() };
    op(Request::RequestRange(range))
}

fn compare(key: &Bytes, target: CompareTarget, result: CompareResult, union: TargetUnion) -> Compare {
    Compare { result: result.into(), target: target.into(), key: key.clone(), target_union: Some(union) }
}

fn exists(key: &Bytes) -> Compare {
    compare(key, CompareTarget::Create, CompareResult::Greater, TargetUnion::CreateRevision(0))
}

fn is_absent(key: &Bytes) -> Compare {
    compare(key, CompareTarget::Create, CompareResult::Equal, TargetUnion::CreateRevision(0))
}

fn is_at(key: &Bytes, revision: i64) -> Compare {
    compare(key, CompareTarget::Mod, CompareResult::Equal, TargetUnion::ModRevision(revision))
}

/// The transaction of a write. It reads when the key came into being, and what is there where it is refused.
pub(super) fn build(copy: &Copy, write: &Write, key: Bytes, id: WriteId, last: Last) -> TxnRequest {
    let compare = match (&write.precondition, &write.change) {
        (Precondition::Absent, _) => vec![is_absent(&key)],
        (Precondition::AbsentBeside { other, at }, _) => {
            let mut beside = vec![is_absent(&key)];
            // One outside of the prefix has no revision that could be named.
            let other = copy.keys.to_etcd(other);
            beside.extend(other.map(|other| is_at(&other, number(*at))));
            beside
        }
        (Precondition::Unchanged(at), _) => vec![is_at(&key, number(*at)), exists(&key)],
        (Precondition::Any, Change::Put(_)) => Vec::new(),
        (Precondition::Any, Change::Delete(_)) => vec![exists(&key)],
    };
    let success = match &write.change {
        Change::Put(value) => {
            let stored = Stored { id, value: Value::clone(value) }.encode();
            vec![put(key.clone(), stored), read(&key, true)]
        }
        Change::Delete(_) if last == Last::Untold => {
            let delete = op(Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone() }));
            vec![read(&key, true), delete]
        }
        Change::Delete(value) => {
            // The copy knows what is deleted only where the precondition says which it is.
            let is_stored = match &write.precondition {
                Precondition::Unchanged(at) => copy.holds(&write.key, *at, value),
                Precondition::Absent | Precondition::AbsentBeside { .. } | Precondition::Any => false,
            };
            let last = (last == Last::Told && !is_stored).then(|| Value::clone(value));
            let deleted = Deleted { id, key: key.clone(), last }.encode();
            let delete = op(Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone() }));
            vec![read(&key, true), put(copy.keys.deleted(), deleted), delete]
        }
    };
    TxnRequest { compare, success, failure: vec![read(&key, false)] }
}
