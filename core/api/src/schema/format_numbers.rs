//! Numbers with a form of their own: of books, cards and persons.

fn plain(text: &str) -> String {
    text.chars().filter(|letter| !(letter.is_whitespace() || *letter == '-')).collect()
}

fn digits(text: &str) -> Option<Vec<u32>> {
    text.chars().map(|letter| letter.to_digit(10)).collect()
}

/// Nine digits, and one that proves them or `X`.
pub(super) fn is_isbn_10(text: &str) -> bool {
    let text = plain(text);
    let (text, last) = match text.strip_suffix('X') {
        Some(text) => (text.to_owned(), Some(10)),
        None => (text, None),
    };
    let Some(mut found) = digits(&text) else { return false };
    found.extend(last);
    let sum: u32 = found.iter().zip(1..).map(|(digit, weight)| digit * weight).sum();
    found.len() == 10 && sum.is_multiple_of(11)
}

/// Thirteen digits, of which the last proves the others.
pub(super) fn is_isbn_13(text: &str) -> bool {
    let Some(found) = digits(&plain(text)) else { return false };
    let sum: u32 = found.iter().zip([1, 3].into_iter().cycle()).map(|(digit, weight)| digit * weight).sum();
    found.len() == 13 && sum.is_multiple_of(10)
}

/// The number of a card, by its length, its issuer and its proof.
pub(super) fn is_credit_card(text: &str) -> bool {
    let text: String = text.chars().filter(char::is_ascii_digit).collect();
    let Some(found) = digits(&text) else { return false };
    let start = |length: usize| text.get(..length).and_then(|start| start.parse::<u32>().ok()).unwrap_or(0);
    let is_issued = match found.len() {
        13 => start(1) == 4,
        14 => matches!(start(3), 300..=305) || matches!(start(2), 36 | 38),
        15 => matches!(start(2), 34 | 37) || matches!(start(4), 2131 | 1800),
        16 => {
            matches!(start(1), 4)
                || matches!(start(2), 51..=55 | 35 | 62 | 65)
                || matches!(start(4), 2221..=2720 | 6011)
        }
        17..=19 => matches!(start(2), 62),
        _ => false,
    };
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let sum: u32 = found
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| if at % 2 == 1 { doubled(*digit) } else { *digit })
        .sum();
    is_issued && sum.is_multiple_of(10)
}

/// Three, two and four digits.
pub(super) fn is_social_security_number(text: &str) -> bool {
    let mut rest = text;
    for (at, length) in [3, 2, 4].into_iter().enumerate() {
        let inner = if at > 0 { rest.strip_prefix(['-', ' ']).unwrap_or(rest) } else { rest };
        let Some((found, tail)) = inner.split_at_checked(length) else { return false };
        if !found.chars().all(|letter| letter.is_ascii_digit()) {
            return false;
        }
        rest = tail;
    }
    rest.is_empty()
}
