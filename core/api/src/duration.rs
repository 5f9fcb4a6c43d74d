//! Spans of time as Go writes them, such as `1h30m`.

/// A span of time such as `1h30m`, in nanoseconds.
#[allow(clippy::cast_possible_truncation)]
pub fn parse(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|it: char| !(it.is_ascii_digit() || it == '.'))?;
        let (amount, tail) = rest.split_at(end);
        let end = tail.find(|it: char| it.is_ascii_digit() || it == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() > 19 || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let fraction = &fraction[..fraction.len().min(15)];
        if !fraction.is_empty() {
            let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
            total += fraction.parse::<i128>().ok()? * unit / scale;
        }
        rest = tail;
    }
    i64::try_from(total * sign).ok()
}

/// Why a text is no span of time, as Go says it.
pub fn fault(text: &str) -> String {
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = rest.find(|it: char| !(it.is_ascii_digit() || it == '.')).unwrap_or(rest.len());
    let unit = &rest[end..];
    let unit = &unit[..unit.find(|it: char| it.is_ascii_digit() || it == '.').unwrap_or(unit.len())];
    match (end > 0, unit) {
        (false, _) => format!("time: invalid duration {text:?}"),
        (true, "") => format!("time: missing unit in duration {text:?}"),
        (true, unit) => format!("time: unknown unit {unit:?} in duration {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_of_time_has_a_unit() {
        assert_eq!(parse("1m1.5s"), Some(61_500_000_000));
        assert_eq!((parse("10"), parse("soon"), parse("1y")), (None, None, None));
        assert_eq!(fault("10"), "time: missing unit in duration \"10\"");
        assert_eq!(fault("soon"), "time: invalid duration \"soon\"");
        assert_eq!(fault("1y"), "time: unknown unit \"y\" in duration \"1y\"");
    }
}
