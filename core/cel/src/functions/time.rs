//! The parts of points and spans of time.

use jiff::Zoned;
use jiff::tz::{Offset, TimeZone};

use super::{Arguments, Outcome};
use crate::error::EvalError;
use crate::value::Value;

fn zone(name: &str) -> Option<TimeZone> {
    let (sign, rest) = match name.as_bytes().first()? {
        b'-' => (-1, &name[1..]),
        b'+' => (1, &name[1..]),
        b'0'..=b'9' => (1, name),
        _ if name == "UTC" => return Some(TimeZone::UTC),
        _ => return TimeZone::get(name).ok(),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let seconds = (hours.parse::<i32>().ok()? * 60 + minutes.parse::<i32>().ok()?).checked_mul(60 * sign)?;
    Offset::from_seconds(seconds).ok().map(TimeZone::fixed)
}

fn part<'a>(args: Arguments<'a, '_>, part: fn(&Zoned) -> i64) -> Outcome<'a> {
    let (time, zone) = match args {
        [Value::Timestamp(time)] => (time, TimeZone::UTC),
        [Value::Timestamp(time), Value::String(name)] => {
            let unknown = || EvalError::Failed(format!("unknown time zone {}", name.as_str()));
            (time, zone(name.as_str()).ok_or_else(unknown)?)
        }
        _ => return Err(EvalError::NoSuchOverload),
    };
    Ok(Value::Int(part(&time.to_zoned(zone))))
}

pub(super) fn year<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    part(args, |time| i64::from(time.year()))
}

pub(super) fn month<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    part(args, |time| i64::from(time.month()) - 1)
}

pub(super) fn date<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    part(args, |time| i64::from(time.day()))
}

pub(super) fn day_of_month<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    part(args, |time| i64::from(time.day()) - 1)
}

pub(super) fn day_of_week<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    part(args, |time| i64::from(time.weekday().to_sunday_zero_offset()))
}

pub(super) fn day_of_year<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    part(args, |time| i64::from(time.day_of_year()) - 1)
}

pub(super) fn hours<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Duration(it)] => Ok(Value::Int(it / 3_600_000_000_000)),
        _ => part(args, |time| i64::from(time.hour())),
    }
}

pub(super) fn minutes<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Duration(it)] => Ok(Value::Int(it / 60_000_000_000)),
        _ => part(args, |time| i64::from(time.minute())),
    }
}

pub(super) fn seconds<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Duration(it)] => Ok(Value::Int(it / 1_000_000_000)),
        _ => part(args, |time| i64::from(time.second())),
    }
}

pub(super) fn milliseconds<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Duration(it)] => Ok(Value::Int(it / 1_000_000 % 1000)),
        _ => part(args, |time| i64::from(time.millisecond())),
    }
}
