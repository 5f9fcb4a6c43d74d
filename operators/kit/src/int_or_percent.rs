//! A number, or a share of another one (pure).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a share that is not whole goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the next larger number.
    Up,
    /// To the next smaller number.
    Down,
}

/// Neither a number nor a percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {0:?}: must be an integer or a percentage, such as 25%")]
pub struct Invalid(pub String);

/// `value`, or its share of `total`.
pub fn scaled(value: &IntOrString, total: i32, rounding: Rounding) -> Result<i32, Invalid> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent: i64 = text
                .strip_suffix('%')
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| Invalid(text.clone()))?;
            let hundredfold = percent * i64::from(total);
            let share = match rounding {
                Rounding::Up => hundredfold.div_euclid(100) + i64::from(hundredfold.rem_euclid(100) > 0),
                Rounding::Down => hundredfold.div_euclid(100),
            };
            i32::try_from(share).map_err(|_| Invalid(text.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_the_way_they_are_told() {
        let quarter = IntOrString::String("25%".to_owned());
        assert_eq!(scaled(&quarter, 3, Rounding::Up), Ok(1));
        assert_eq!(scaled(&quarter, 3, Rounding::Down), Ok(0));
        assert_eq!(scaled(&quarter, 8, Rounding::Up), Ok(2));
        assert_eq!(scaled(&IntOrString::Int(7), 3, Rounding::Up), Ok(7));
        for bad in ["25", "x%", "%", ""] {
            assert_eq!(
                scaled(&IntOrString::String(bad.to_owned()), 3, Rounding::Up),
                Err(Invalid(bad.to_owned()))
            );
        }
    }
}
