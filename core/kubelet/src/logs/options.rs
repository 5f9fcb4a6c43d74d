//! What of a log is wanted (pure).

use jiff::{SignedDuration, Timestamp};

use super::line::Stream;

/// An option that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    /// Its form.
    #[error("{name}: invalid value {value:?}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// Two that contradict each other.
    #[error("at most one of `sinceTime` or `sinceSeconds` may be specified")]
    Since,
}

/// From when on lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Beginning,
    Time(Timestamp),
    Seconds(i64),
}

/// What a reader asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether to wait for more.
    pub(crate) follow: bool,
    /// Whether the instance before is meant.
    pub(crate) previous: bool,
    /// Whether each line begins with its time.
    pub(super) timestamps: bool,
    /// Only so many last lines.
    pub(super) tail_lines: Option<u64>,
    /// Only so many bytes.
    pub(super) limit_bytes: Option<u64>,
    /// Only this output.
    pub(super) stream: Option<Stream>,
    since: Since,
}

fn invalid(name: &'static str, value: &str) -> OptionError {
    OptionError::Value { name, value: value.to_owned() }
}

fn truth(name: &'static str, value: &str) -> Result<bool, OptionError> {
    match value {
        "true" | "1" | "t" | "True" | "TRUE" => Ok(true),
        "false" | "0" | "f" | "False" | "FALSE" | "" => Ok(false),
        other => Err(invalid(name, other)),
    }
}

fn number(name: &'static str, value: &str, least: u64) -> Result<u64, OptionError> {
    value.parse().ok().filter(|number| *number >= least).ok_or_else(|| invalid(name, value))
}

impl Options {
    /// Reads the query's parameters; those of other names are left to others.
    pub(crate) fn parse<'a>(
        parameters: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, OptionError> {
        let mut options = Options {
            follow: false,
            previous: false,
            timestamps: false,
            tail_lines: None,
            limit_bytes: None,
            stream: None,
            since: Since::Beginning,
        };
        for (name, value) in parameters {
            let since = match name {
                "follow" => {
                    options.follow = truth("follow", value)?;
                    continue;
                }
                "previous" => {
                    options.previous = truth("previous", value)?;
                    continue;
                }
                "timestamps" => {
                    options.timestamps = truth("timestamps", value)?;
                    continue;
                }
                "tailLines" => {
                    options.tail_lines = Some(number("tailLines", value, 0)?);
                    continue;
                }
                "limitBytes" => {
                    options.limit_bytes = Some(number("limitBytes", value, 1)?);
                    continue;
                }
                "stream" => {
                    options.stream = match value {
                        "All" | "" => None,
                        "Stdout" => Some(Stream::Stdout),
                        "Stderr" => Some(Stream::Stderr),
                        other => return Err(invalid("stream", other)),
                    };
                    continue;
                }
                "sinceSeconds" => {
                    let seconds = number("sinceSeconds", value, 1)?;
                    Since::Seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
                }
                "sinceTime" => Since::Time(value.parse().map_err(|_| invalid("sinceTime", value))?),
                _ => continue,
            };
            if options.since != Since::Beginning {
                return Err(OptionError::Since);
            }
            options.since = since;
        }
        Ok(options)
    }

    /// The earliest time that is wanted.
    pub(super) fn since(&self, now: Timestamp) -> Option<Timestamp> {
        match self.since {
            Since::Beginning => None,
            Since::Time(time) => Some(time),
            Since::Seconds(seconds) => {
                Some(now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_read() {
        let all = [("follow", "true"), ("tailLines", "5"), ("sinceSeconds", "10"), ("stream", "Stderr")];
        let options = Options::parse(all.into_iter()).unwrap();
        assert!(options.follow && !options.previous);
        assert_eq!((options.tail_lines, options.stream), (Some(5), Some(Stream::Stderr)));
        let now = Timestamp::from_second(100).unwrap();
        assert_eq!(options.since(now).unwrap().as_second(), 90);
        let time = Options::parse([("sinceTime", "1970-01-01T00:00:07Z")].into_iter()).unwrap();
        assert_eq!(time.since(now).unwrap().as_second(), 7);
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            ("tailLines", "-1"),
            ("limitBytes", "0"),
            ("follow", "yes"),
            ("sinceTime", "now"),
            ("stream", "x"),
        ] {
            assert!(Options::parse([bad].into_iter()).is_err(), "{bad:?}");
        }
        let both = [("sinceTime", "1970-01-01T00:00:07Z"), ("sinceSeconds", "1")];
        assert_eq!(Options::parse(both.into_iter()), Err(OptionError::Since));
    }
}
