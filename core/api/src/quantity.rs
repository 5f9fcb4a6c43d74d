//! Quantities: `100m`, `1.5Gi`, `2e3`.

use std::fmt;

/// A quantity in thousand-millionths (nano) of its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

/// By which suffixes a quantity is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `m`, `k`, `M`: powers of ten.
    #[default]
    Decimal,
    /// `Ki`, `Mi`: powers of two.
    Binary,
    /// `e3`, `e6`.
    Exponent,
}

/// A quantity that keeps the way in which it is written through sums.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amount {
    quantity: Quantity,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity(0);

    /// Reads a quantity; what is finer than nano is rounded up.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError);
        }
        let (multiplier, divisor) = scale(suffix)?;
        let digits: i128 = format!("{whole}{fraction}").parse().map_err(|_| QuantityError)?;
        let places = u32::try_from(fraction.len()).map_err(|_| QuantityError)?;
        let over = 10_i128.checked_pow(places).and_then(|it| it.checked_mul(divisor)).ok_or(QuantityError)?;
        let total =
            digits.checked_mul(multiplier).and_then(|it| it.checked_mul(NANO)).ok_or(QuantityError)?;
        let nano = total / over + i128::from(total % over != 0);
        Ok(Self(if negative { -nano } else { nano }))
    }

    /// Thousand-millionths.
    pub fn nano(self) -> i128 {
        self.0
    }

    /// Whole units, rounded up.
    pub fn value(self) -> i128 {
        self.0.div_euclid(NANO) + i128::from(self.0.rem_euclid(NANO) != 0)
    }

    /// Thousandths, rounded up.
    pub fn milli_value(self) -> i128 {
        self.0.div_euclid(1_000_000) + i128::from(self.0.rem_euclid(1_000_000) != 0)
    }
}

impl Amount {
    /// Reads a quantity with its format.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let quantity = Quantity::parse(text)?;
        let suffix = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
        let is_exponent = suffix.len() > 1 && suffix.starts_with(['e', 'E']) && !suffix.ends_with('i');
        let format = match (suffix.ends_with('i'), is_exponent) {
            (true, _) => Format::Binary,
            (false, true) => Format::Exponent,
            (false, false) => Format::Decimal,
        };
        Ok(Amount { quantity, format })
    }

    /// A whole number.
    pub fn whole(number: i64) -> Self {
        Amount { quantity: Quantity(i128::from(number) * NANO), format: Format::Decimal }
    }

    /// How much it is.
    pub fn quantity(self) -> Quantity {
        self.quantity
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.quantity == Quantity::ZERO
    }

    /// The sum, written as the first that is not nothing. What does not fit stays the largest that does.
    #[must_use]
    pub fn plus(self, other: Amount) -> Amount {
        let format = if self.is_zero() { other.format } else { self.format };
        Amount { quantity: Quantity(self.quantity.0.saturating_add(other.quantity.0)), format }
    }

    /// The difference.
    #[must_use]
    pub fn minus(self, other: Amount) -> Amount {
        let format = if self.is_zero() { other.format } else { self.format };
        Amount { quantity: Quantity(self.quantity.0.saturating_sub(other.quantity.0)), format }
    }

    /// The larger one.
    #[must_use]
    pub fn max(self, other: Amount) -> Amount {
        if other.quantity > self.quantity { other } else { self }
    }
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.quantity == other.quantity
    }
}

impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.quantity.cmp(&other.quantity))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&written(self.quantity.0, self.format))
    }
}

/// A quantity as it is stored: the largest suffix of its kind that leaves a whole number.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    Amount::parse(text).map(|amount| amount.to_string())
}

fn written(nano: i128, format: Format) -> String {
    if nano == 0 {
        return "0".to_owned();
    }
    let is_small = nano.abs() < 1024 * NANO;
    if format == Format::Binary && !is_small && nano % NANO == 0 {
        let mut number = nano / NANO;
        let mut power = 0;
        while power + 1 < BINARY.len() && number % 1024 == 0 {
            number /= 1024;
            power += 1;
        }
        return format!("{number}{}", BINARY[power]);
    }
    let mut number = nano;
    let mut power = 0;
    while power + 1 < DECIMAL.len() && number % 1000 == 0 {
        number /= 1000;
        power += 1;
    }
    let tail = if format == Format::Exponent { EXPONENTS[power] } else { DECIMAL[power] };
    format!("{number}{tail}")
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const EXPONENTS: [&str; 10] = ["e-9", "e-6", "e-3", "", "e3", "e6", "e9", "e12", "e15", "e18"];

fn scale(suffix: &str) -> Result<(i128, i128), QuantityError> {
    Ok(match suffix {
        "" => (1, 1),
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (1000 * NANO, 1),
        "P" => (1_000_000 * NANO, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        other => {
            let exponent: i32 =
                other.strip_prefix(['e', 'E']).and_then(|it| it.parse().ok()).ok_or(QuantityError)?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs()).ok_or(QuantityError)?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_stored_in_its_shortest_whole_form() {
        let pairs = [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("512Ki", "512Ki"),
            ("100Mi", "100Mi"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("128974848", "128974848"),
            ("0Mi", "0"),
            ("-2000m", "-2"),
        ];
        for (given, stored) in pairs {
            assert_eq!(canonical(given).as_deref(), Ok(stored), "{given}");
        }
        assert_eq!(canonical("1GB"), Err(QuantityError));
    }
}
