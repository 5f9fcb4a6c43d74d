//! The signal by which a container is asked to end: as images write it, as the CRI names it, and as the kernel counts.

use std::str::FromStr as _;

use keelson_cri::v1;

/// The kernel's real-time signals, as the C library counts them.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// By name or number, as images write it; SIGTERM without, and for what is no signal.
pub(crate) fn number(name: &str) -> i32 {
    if let Ok(number) = name.parse::<i32>() {
        return if (1..=*REAL_TIME.end()).contains(&number) { number } else { libc::SIGTERM };
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, from: i32| match rest {
        "" => Some(from),
        // With its sign.
        rest if rest.starts_with(['+', '-']) => rest.parse::<i32>().ok().map(|distance| from + distance),
        _ => None,
    };
    let named = short.strip_prefix("RTMIN").and_then(|rest| real_time(rest, *REAL_TIME.start()));
    let named = named.or_else(|| real_time(short.strip_prefix("RTMAX")?, *REAL_TIME.end()));
    if let Some(number) = named.filter(|number| REAL_TIME.contains(number)) {
        return number;
    }
    // Two names for one.
    let short = match short {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        short => short,
    };
    nix::sys::signal::Signal::from_str(&format!("SIG{short}")).map_or(libc::SIGTERM, |signal| signal as i32)
}

/// As images would write the CRI's name; `None` for the image's own.
pub(crate) fn name(signal: v1::Signal) -> Option<String> {
    let name = signal.as_str_name();
    (signal != v1::Signal::RuntimeDefault).then(|| name.replace("PLUS", "+").replace("MINUS", "-"))
}

/// The CRI's name of what an image wrote.
pub(crate) fn of(text: &str) -> v1::Signal {
    let wanted = number(text);
    let all = (1..=65).filter_map(|value| v1::Signal::try_from(value).ok());
    all.into_iter()
        .find(|signal| name(*signal).is_some_and(|name| number(&name) == wanted))
        .unwrap_or(v1::Signal::Sigterm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_signal_is_a_name_or_a_number() {
        assert_eq!(number("SIGQUIT"), libc::SIGQUIT);
        assert_eq!(number("int"), libc::SIGINT);
        assert_eq!(number("10"), 10);
        assert_eq!((number(""), number("99"), number("0")), (libc::SIGTERM, libc::SIGTERM, libc::SIGTERM));
        assert_eq!((number("37"), number("SIGRTMIN+3"), number("RTMAX-1")), (37, 37, 63));
        assert_eq!((number("SIGRTMIN"), number("RTMIN+99")), (34, libc::SIGTERM));
    }

    #[test]
    fn every_name_of_the_interface_is_a_signal_and_found_again() {
        for value in 1..=65 {
            let signal = v1::Signal::try_from(value).unwrap();
            let text = name(signal).unwrap();
            assert!(number(&text) != libc::SIGTERM || signal == v1::Signal::Sigterm, "{text}");
            assert_eq!(number(&name(of(&text)).unwrap()), number(&text), "{text}");
        }
        assert_eq!(of("SIGRTMIN+3"), v1::Signal::Sigrtminplus3);
        assert_eq!((name(v1::Signal::RuntimeDefault), of("")), (None, v1::Signal::Sigterm));
    }
}
