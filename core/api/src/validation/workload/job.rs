//! Jobs and CronJobs.

use std::collections::HashSet;

use super::super::at::At;
use super::super::pod::template;
use super::super::selector::label_selector;
use super::super::{FieldError, too_many};
use crate::names;
use crate::object::Object;

pub(in super::super) mod status;

const MOST_INDEXES: i64 = 100_000;
/// The most bytes of intervals of indexes.
const MAX_INTERVALS: usize = 64 * 1024;

/// A Job.
pub(in super::super) fn job(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    job_spec(&spec, errors);
    // The last pod of an indexed Job is named after it.
    let last = spec.field("completions").number().unwrap_or(1).max(1) - 1;
    if spec.field("completionMode").text() == "Indexed"
        && let Some(name) = object.name()
    {
        let host = format!("{name}-{last}");
        for fault in names::dns1123_label(&host) {
            let detail = format!("will not able to create pod with invalid DNS label: {host}: {fault}");
            errors.push(FieldError::invalid("metadata.name", name, detail));
        }
    }
}

/// A selector of one's own needs to be asked for.
pub(in super::super) fn new_job(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let (selector, labels) =
        (spec.field("selector"), spec.field("template").field("metadata").field("labels"));
    if !selector.is_set() {
        errors.push(selector.required(""));
    } else if !spec.field("manualSelector").is_true() && labels.is_empty() {
        errors.push(selector.invalid("`selector` not auto-generated"));
    }
}

fn job_spec(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    for field in numbers {
        spec.field(field).not_negative(errors);
    }
    let mode = spec.field("completionMode");
    let indexed = mode.text() == "Indexed";
    // That of a CronJob's template is filled in when the Job is made.
    if mode.is_set() {
        mode.one_of(&["Indexed", "NonIndexed"], errors);
    }
    let (completions, parallelism) = (spec.field("completions"), spec.field("parallelism"));
    if indexed && !completions.is_set() {
        errors.push(completions.required("when completion mode is Indexed"));
    }
    if indexed && parallelism.number().is_some_and(|number| number > MOST_INDEXES) {
        let detail = "must be less than or equal to 100000 when completion mode is Indexed";
        errors.push(parallelism.invalid(detail));
    }
    indexes(spec, indexed, errors);
    manager(&spec.field("managedBy"), errors);
    label_selector(&spec.field("selector"), errors);
    template(&spec.field("template"), &["OnFailure", "Never"], errors);
    let policy = spec.field("template").field("spec").field("restartPolicy");
    if policy.text() == "Always" {
        errors.retain(|error| error.path != policy.path);
        errors.push(FieldError::required(policy.path.as_str(), "valid values: \"OnFailure\", \"Never\""));
    }
    let failure = spec.field("podFailurePolicy");
    if failure.is_set() {
        if policy.text() != "Never" {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(policy.invalid(detail));
        }
        failure_policy(spec, &failure, errors);
    }
    success_policy(spec, indexed, errors);
    let replacement = spec.field("podReplacementPolicy");
    if replacement.is_set() {
        let known: &[&str] = if failure.is_set() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        replacement.one_of(known, errors);
    }
}

fn indexes(spec: &At<'_>, indexed: bool, errors: &mut Vec<FieldError>) {
    let (limit, failed) = (spec.field("backoffLimitPerIndex"), spec.field("maxFailedIndexes"));
    for field in [&limit, &failed].into_iter().filter(|field| field.is_set() && !indexed) {
        errors.push(field.invalid("requires indexed completion mode"));
    }
    if indexed && limit.is_set() && spec.field("completions").number().is_some_and(|it| it > MOST_INDEXES) {
        many_indexes(spec, &failed, errors);
    }
    if !failed.is_set() {
        return;
    }
    if !limit.is_set() {
        errors.push(limit.required("when maxFailedIndexes is specified"));
    }
    let completions = spec.field("completions").number();
    if let (Some(number), Some(completions)) = (failed.number(), completions)
        && number > completions
    {
        errors.push(failed.invalid("must be less than or equal to completions"));
    }
    if failed.number().is_some_and(|number| number > MOST_INDEXES) {
        errors.push(failed.invalid("must be less than or equal to 100000"));
    }
}

/// A Job with very many indexes that may fail one by one says how many may.
fn many_indexes(spec: &At<'_>, failed: &At<'_>, errors: &mut Vec<FieldError>) {
    const MOST: i64 = 10_000;
    if !failed.is_set() {
        errors.push(failed.required(format!("must be specified when completions is above {MOST_INDEXES}")));
    }
    let detail = format!(
        "must be less than or equal to {MOST} when completions are above {MOST_INDEXES} and used with backoff limit per index"
    );
    for field in [&spec.field("parallelism"), failed] {
        if field.number().is_some_and(|number| number > MOST) {
            errors.push(field.invalid(detail.as_str()));
        }
    }
}

fn manager(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if !at.is_set() {
        return;
    }
    let (prefix, rest) = at.text().split_once('/').unwrap_or((at.text(), ""));
    let good = names::dns1123_subdomain(prefix).is_empty() && !rest.is_empty();
    if !good {
        errors.push(at.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
    }
    if at.text().len() > 63 {
        errors.push(at.too_long(63));
    }
}

fn failure_policy(spec: &At<'_>, at: &At<'_>, errors: &mut Vec<FieldError>) {
    let rules = at.field("rules");
    let count = rules.items().count();
    if count > 20 {
        errors.push(too_many(&rules, count, 20));
    }
    for rule in rules.items() {
        let action = rule.field("action");
        if action.text() == "FailIndex" && !spec.field("backoffLimitPerIndex").is_set() {
            errors.push(action.invalid("requires the backoffLimitPerIndex to be set"));
        }
        if action.is_empty() {
            errors.push(action.required("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"));
        } else {
            action.one_of(&["Count", "FailIndex", "FailJob", "Ignore"], errors);
        }
        let (codes, conditions) = (rule.field("onExitCodes"), rule.field("onPodConditions"));
        match (codes.is_set(), conditions.is_empty()) {
            (true, false) => {
                errors.push(rule.unseen("specifying both OnExitCodes and OnPodConditions is not supported"));
            }
            (false, true) => {
                errors.push(rule.unseen("specifying one of OnExitCodes and OnPodConditions is required"));
            }
            (true, true) => exit_codes(spec, &codes, errors),
            (false, false) => {
                let count = conditions.items().count();
                if count > 20 {
                    errors.push(too_many(&conditions, count, 20));
                }
                for condition in conditions.items() {
                    let kind = condition.field("type");
                    kind.or_empty_for(names::qualified_name(kind.text()), errors);
                    let status = condition.field("status");
                    if status.is_empty() {
                        errors.push(status.required("valid values: [\"False\" \"True\" \"Unknown\"]"));
                    } else {
                        status.one_of(&["False", "True", "Unknown"], errors);
                    }
                }
            }
        }
    }
}

fn exit_codes(spec: &At<'_>, codes: &At<'_>, errors: &mut Vec<FieldError>) {
    let operator = codes.field("operator");
    if operator.is_empty() {
        errors.push(operator.required("valid values: [\"In\" \"NotIn\"]"));
    } else {
        operator.one_of(&["In", "NotIn"], errors);
    }
    let name = codes.field("containerName");
    let pod = spec.field("template").field("spec");
    let known = |list: &str| pod.field(list).items().any(|it| it.field("name").text() == name.text());
    if name.is_set() && !known("containers") && !known("initContainers") {
        errors.push(name.invalid("must be one of the container or initContainer names in the pod template"));
    }
    let values = codes.field("values");
    let count = values.items().count();
    if count == 0 {
        errors.push(values.invalid("at least one value is required"));
    } else if count > 255 {
        errors.push(too_many(&values, count, 255));
    }
    let mut seen = HashSet::new();
    let mut last = i64::MIN;
    for value in values.items() {
        let number = value.number().unwrap_or(0);
        if operator.text() == "In" && number == 0 {
            errors.push(value.invalid("must not be 0 for the In operator"));
        }
        if !seen.insert(number) {
            errors.push(value.duplicate());
        } else if number < last {
            errors.push(values.invalid("must be ordered"));
        }
        last = last.max(number);
    }
}

fn success_policy(spec: &At<'_>, indexed: bool, errors: &mut Vec<FieldError>) {
    let at = spec.field("successPolicy");
    if !at.is_set() {
        return;
    }
    if !indexed {
        errors.push(at.invalid("requires indexed completion mode"));
        return;
    }
    let rules = at.field("rules");
    let count = rules.items().count();
    if count == 0 {
        errors
            .push(rules.required("at least one rules must be specified when the successPolicy is specified"));
    } else if count > 20 {
        errors.push(too_many(&rules, count, 20));
    }
    let completions = spec.field("completions").number().unwrap_or(0);
    for rule in rules.items() {
        let (indexes, needed) = (rule.field("succeededIndexes"), rule.field("succeededCount"));
        if !indexes.is_set() && !needed.is_set() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(rule.required(detail));
        }
        let mut total = completions;
        if indexes.is_set() {
            if indexes.text().len() > MAX_INTERVALS {
                errors.push(indexes.too_long(MAX_INTERVALS));
            }
            match interval_count(indexes.text(), completions) {
                Ok(count) => total = count,
                Err(why) => {
                    let detail = format!("error parsing succeededIndexes: {why}");
                    errors.push(indexes.invalid(detail));
                }
            }
        }
        if let Some(number) = needed.number() {
            needed.not_negative(errors);
            if number > completions {
                let detail = format!(
                    "must be less than or equal to {completions} (the number of specified completions)"
                );
                errors.push(needed.invalid(detail));
            } else if number > total {
                let detail = format!(
                    "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
                );
                errors.push(needed.invalid(detail));
            }
        }
    }
}

/// How many indexes are named by intervals such as `1,3-5`, in order and below the completions.
fn interval_count(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, -1);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        if part.matches('-').count() > 1 {
            return Err(format!(
                "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let (first, end) = part.split_once('-').unwrap_or((part, part));
        let parse = |number: &str| {
            number
                .parse::<i64>()
                .map_err(|_| format!("cannot convert string to integer for index: {number:?}"))
        };
        let (first, end) = (parse(first)?, parse(end)?);
        for index in [first, end] {
            if index >= completions {
                return Err(format!("too large index: {:?}", index.to_string()));
            }
        }
        if part.contains('-') && end <= first {
            return Err(format!("non-increasing order, previous: {first}, current: {end}"));
        }
        if first <= last {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = end;
    }
    Ok(total)
}

/// A CronJob.
pub(in super::super) fn cron_job(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    let schedule = spec.field("schedule");
    if schedule.is_empty() {
        errors.push(schedule.required(""));
    } else if let Err(why) = cron(without_zone(schedule.text())) {
        errors.push(schedule.invalid(why));
    }
    spec.field("concurrencyPolicy").one_of(&["Allow", "Forbid", "Replace"], errors);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        spec.field(field).not_negative(errors);
    }
    let job = spec.field("jobTemplate").field("spec");
    if job.field("manualSelector").is_true() {
        errors.push(FieldError::not_supported(job.field("manualSelector").path, true, &["nil", "false"]));
    }
    if job.field("selector").is_set() {
        errors.push(job.field("selector").invalid("`selector` will be auto-generated"));
    }
    job_spec(&job, errors);
}

/// A new CronJob, whose Jobs are named after it.
pub(in super::super) fn new_cron_job(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    if spec.field("schedule").text().contains("TZ") {
        errors.push(spec.field("schedule").invalid(ZONE_IN_SCHEDULE));
    }
    zone(&spec.field("timeZone"), errors);
    if object.name().is_some_and(|name| name.len() > 52) {
        let detail = "must be no more than 52 characters";
        errors.push(FieldError::invalid("metadata.name", object.name(), detail));
    }
}

/// A zone in the schedule stays where it came to be.
pub(in super::super) fn cron_job_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    let (schedule, own) = (spec.field("schedule"), spec.field("timeZone"));
    let had = before.field("schedule").text().contains("TZ");
    match (schedule.text().contains("TZ"), had) {
        (true, true) if own.is_set() => {
            errors.push(schedule.invalid("cannot use both timeZone field and TZ or CRON_TZ in schedule"));
        }
        (true, false) => errors.push(schedule.invalid(ZONE_IN_SCHEDULE)),
        (true, true) | (false, _) => {}
    }
    if own.value != before.field("timeZone").value {
        zone(&own, errors);
    }
}

const ZONE_IN_SCHEDULE: &str = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A schedule without the zone that may stand before it.
fn without_zone(text: &str) -> &str {
    let has_zone = ["TZ=", "CRON_TZ="].iter().any(|prefix| text.starts_with(prefix));
    if has_zone { text.split_once(' ').map_or("", |(_, rest)| rest.trim_start()) } else { text }
}

fn zone(zone: &At<'_>, errors: &mut Vec<FieldError>) {
    if !zone.is_set() {
        return;
    }
    if zone.is_empty() {
        errors.push(zone.invalid("timeZone must be nil or non-empty string"));
    } else if zone.text().eq_ignore_ascii_case("local") {
        errors.push(
            zone.invalid(
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ),
        );
    } else if jiff::tz::TimeZone::get(zone.text()).is_err() {
        errors.push(zone.invalid(format!("unknown time zone {}", zone.text())));
    }
}

fn cron(text: &str) -> Result<(), String> {
    if let Some(word) = text.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        let every = word.strip_prefix("every ").is_some_and(|time| !time.trim().is_empty());
        return if known.contains(&word) || every {
            Ok(())
        } else {
            Err(format!("unrecognized descriptor: {text}"))
        };
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let ranges: [(i64, i64, &[&str]); 5] =
        [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, &MONTHS), (0, 6, &DAYS)];
    for (field, (low, high, words)) in fields.iter().zip(ranges) {
        for part in field.split(',') {
            cron_part(part, low, high, words)?;
        }
    }
    Ok(())
}

fn cron_part(text: &str, low: i64, high: i64, words: &[&str]) -> Result<(), String> {
    let number = |text: &str| -> Result<i64, String> {
        if let Some(place) = words.iter().position(|word| text.eq_ignore_ascii_case(word)) {
            return Ok(low + i64::try_from(place).unwrap_or(0));
        }
        text.parse::<i64>().map_err(|_| {
            format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
        })
    };
    let mut steps = text.split('/');
    let (range, step) = (steps.next().unwrap_or(""), steps.next());
    if steps.next().is_some() {
        return Err(format!("too many slashes: {text}"));
    }
    let (first, last) = match range {
        "*" | "?" => (low, high),
        _ => match range.split_once('-') {
            Some((_, rest)) if rest.contains('-') => return Err(format!("too many hyphens: {text}")),
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(range)?, number(range)?),
        },
    };
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    if first < low {
        return Err(format!("beginning of range ({first}) below minimum ({low}): {text}"));
    }
    if last > high {
        return Err(format!("end of range ({last}) above maximum ({high}): {text}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
    }
    Ok(())
}
