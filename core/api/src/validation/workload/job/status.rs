//! What the status of a Job may become: a Job that has ended stays as it ended.

use std::collections::HashSet;

use super::super::super::FieldError;
use super::super::super::at::At;
use super::interval_count;
use crate::object::Object;

/// The status now and before.
struct Change<'a> {
    new: At<'a>,
    old: At<'a>,
}

/// Whether a condition holds.
fn holds(status: &At<'_>, kind: &str) -> bool {
    let mut all = status.field("conditions").items();
    all.any(|it| it.field("type").text() == kind && it.field("status").text() == "True")
}

fn is_finished(status: &At<'_>) -> bool {
    holds(status, "Complete") || holds(status, "Failed")
}

impl Change<'_> {
    fn differs(&self, field: &str) -> bool {
        self.new.field(field).value != self.old.field(field).value
    }

    fn turns(&self, condition: &str) -> bool {
        holds(&self.new, condition) != holds(&self.old, condition)
    }

    fn conditions(&self, detail: impl Into<String>) -> FieldError {
        self.new.field("conditions").unseen(detail)
    }
}

/// A change of the status. What did not change is not judged again.
pub(in super::super::super) fn change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let change = Change { new: At::of(new, "status"), old: At::of(old, "status") };
    let spec = At::of(new, "spec");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        change.new.field(field).not_negative(errors);
    }
    uncounted(&change.new.field("uncountedTerminatedPods"), errors);
    conditions(&change, &spec, errors);
    times(&change, &spec, errors);
    ended(&change, errors);
    indexes(&change, &spec, errors);
    counts(&change, &spec, errors);
}

fn uncounted(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for uid in ["succeeded", "failed"].iter().flat_map(|list| at.field(list).items().collect::<Vec<_>>()) {
        if uid.is_empty() {
            errors.push(FieldError::invalid(uid.path.as_str(), "", "must not be empty"));
        } else if !seen.insert(uid.text()) {
            errors.push(uid.duplicate());
        }
    }
}

fn conditions(change: &Change<'_>, spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let (new, old) = (&change.new, &change.old);
    let (complete, failed) = (holds(new, "Complete"), holds(new, "Failed"));
    let (target, met) = (holds(new, "FailureTarget"), holds(new, "SuccessCriteriaMet"));
    let (completes, fails) = (change.turns("Complete"), change.turns("Failed"));
    let mut add = |is_wrong: bool, detail: &str| {
        if is_wrong {
            errors.push(change.conditions(detail));
        }
    };
    add((completes || fails) && complete && failed, "cannot set Complete=True and Failed=true conditions");
    add(
        (completes || change.turns("FailureTarget")) && complete && target,
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    add(
        (fails || change.turns("FailureTarget")) && failed && !target,
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    add(
        (completes || change.turns("SuccessCriteriaMet")) && complete && !met,
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    add(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    add(met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    add(
        spec.field("successPolicy").is_set() && !met && complete,
        "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
    );
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if holds(old, kind) && !holds(new, kind) {
            add(true, &format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    let was_met = holds(old, "SuccessCriteriaMet");
    add(was_met && !met, "cannot disable the SuccessCriteriaMet=True condition");
    add(
        holds(old, "Complete") && !was_met && met,
        "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
    );
}

fn times(change: &Change<'_>, spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let (new, old) = (&change.new, &change.old);
    let (start, end) = (new.field("startTime"), new.field("completionTime"));
    let complete = holds(new, "Complete");
    if change.turns("Complete") || change.differs("completionTime") {
        if end.is_set() && !complete {
            errors.push(end.invalid("cannot set completionTime when there is no Complete=True condition"));
        } else if !end.is_set() && complete {
            errors.push(end.required("completionTime is required for Complete jobs"));
        }
    }
    let parse = |at: &At<'_>| at.text().parse::<jiff::Timestamp>().ok();
    if (change.differs("startTime") || change.differs("completionTime"))
        && let (Some(from), Some(to)) = (parse(&start), parse(&end))
        && to < from
    {
        errors.push(end.invalid("completionTime cannot be set before startTime"));
    }
    if end.is_set() && old.field("completionTime").is_set() && change.differs("completionTime") {
        errors.push(end.invalid("completionTime cannot be mutated"));
    }
    if old.field("startTime").is_set() && change.differs("startTime") && !spec.field("suspend").is_true() {
        errors.push(start.required("startTime cannot be removed for unsuspended job"));
    }
}

/// A Job that has ended has no pods left.
fn ended(change: &Change<'_>, errors: &mut Vec<FieldError>) {
    let new = &change.new;
    let finishes = is_finished(new) != is_finished(&change.old);
    let finished = is_finished(new);
    let (active, ready, going) = (new.field("active"), new.field("ready"), new.field("terminating"));
    let many = |at: &At<'_>| at.number().is_some_and(|number| number > 0);
    if finished && (finishes || change.differs("active")) && many(&active) {
        errors.push(active.invalid("active>0 is invalid for finished job"));
    }
    if finished && (finishes || change.differs("startTime")) && !new.field("startTime").is_set() {
        errors.push(new.field("startTime").required("startTime is required for finished job"));
    }
    let uncounted = new.field("uncountedTerminatedPods");
    let some = ["failed", "succeeded"].iter().any(|list| !uncounted.field(list).is_empty());
    if finished && (finishes || change.differs("uncountedTerminatedPods")) && some {
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        errors.push(uncounted.invalid(detail));
    }
    if finished && (finishes || change.differs("terminating")) && many(&going) {
        errors.push(going.invalid("terminating>0 is invalid for finished job"));
    }
    let most = active.number().unwrap_or(0);
    let changes = change.differs("ready") || change.differs("active");
    if changes && ready.number().is_some_and(|number| number > most) {
        errors.push(ready.invalid("cannot set more ready pods than active"));
    }
}

fn indexes(change: &Change<'_>, spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let (done, failed) = (change.new.field("completedIndexes"), change.new.field("failedIndexes"));
    let completions = spec.field("completions").number();
    let limited = spec.field("backoffLimitPerIndex").is_set();
    let (done_changes, failed_changes) =
        (change.differs("completedIndexes"), change.differs("failedIndexes"));
    let parsed = |at: &At<'_>, name: &str| {
        let why = completions.and_then(|count| interval_count(at.text(), count).err())?;
        Some(at.invalid(format!("error parsing {name}: {why}")))
    };
    if done_changes {
        errors.extend(parsed(&done, "completedIndexes").filter(|_| !done.is_empty()));
        if !done.is_empty() && spec.field("completionMode").text() != "Indexed" {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.push(done.invalid(detail));
        }
    }
    if failed_changes && failed.is_set() {
        errors.extend(parsed(&failed, "failedIndexes").filter(|_| limited && !failed.is_empty()));
        if !limited {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.push(failed.invalid(detail));
        }
    }
    if (done_changes || failed_changes)
        && let Some(index) = overlap(done.text(), failed.text())
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(failed.invalid(detail));
    }
}

fn intervals(text: &str) -> Vec<(i64, i64)> {
    let parts = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    parts.collect()
}

/// The first index that is in both, of intervals in their order.
fn overlap(done: &str, failed: &str) -> Option<i64> {
    let (done, failed) = (intervals(done), intervals(failed));
    let (mut left, mut right) = (done.iter().peekable(), failed.iter().peekable());
    while let (Some((a, b)), Some((c, d))) = (left.peek(), right.peek()) {
        if a <= d && c <= b {
            return Some(*a.max(c));
        }
        if a <= c {
            left.next();
        } else {
            right.next();
        }
    }
    None
}

/// What is counted only grows, but in a Job that shrinks as a whole.
fn counts(change: &Change<'_>, spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let elastic = spec.field("completionMode").text() == "Indexed"
        && spec.field("completions").value == spec.field("parallelism").value;
    for (field, is_kept) in [("failed", true), ("succeeded", !elastic)] {
        let (now, was) = (change.new.field(field), change.old.field(field).number().unwrap_or(0));
        if is_kept && now.number().unwrap_or(0) < was {
            errors.push(now.or_zero(format!("cannot decrease the {field} counter")));
        }
    }
}
