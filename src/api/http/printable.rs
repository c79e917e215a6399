//! The characters Cinder allows in descriptions: printable ones of the Basic Multilingual Plane
//! (Cinder reference, 1.2).

use std::sync::LazyLock;

/// The pattern as error messages show it: a character class in Python's notation.
pub(crate) const PATTERN: &str = include_str!("printable.txt");

static RANGES: LazyLock<Vec<(char, char)>> = LazyLock::new(|| ranges(PATTERN));

/// Whether a text has only such characters.
pub(crate) fn is_printable(text: &str) -> bool {
    text.chars().all(|c| {
        let after = RANGES.partition_point(|(first, _)| *first <= c);
        after > 0 && c <= RANGES[after - 1].1
    })
}

/// The ranges of a class, in ascending order.
fn ranges(pattern: &str) -> Vec<(char, char)> {
    let class = pattern.trim_start_matches("^[").trim_end_matches("]*$");
    let characters = unescape(class);
    let mut ranges = Vec::new();
    let mut rest = characters.as_slice();
    while let Some((first, after)) = rest.split_first() {
        match after {
            ['-', last, after @ ..] => {
                ranges.push((*first, *last));
                rest = after;
            }
            _ => {
                ranges.push((*first, *first));
                rest = after;
            }
        }
    }
    ranges
}

fn unescape(class: &str) -> Vec<char> {
    let class = class.replace("\\\\", "");
    let mut characters = Vec::new();
    let mut rest = class.as_str();
    while let Some(c) = rest.chars().next() {
        let (digits, skipped) = match (rest.starts_with("\\x"), rest.starts_with("\\u")) {
            (true, _) => (rest.get(2..4), 4),
            (_, true) => (rest.get(2..6), 6),
            _ => (None, c.len_utf8()),
        };
        let escaped = digits
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32);
        characters.push(escaped.unwrap_or(c));
        rest = &rest[skipped..];
    }
    characters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_printable_and_line_ends_and_emoji_are_not() {
        for text in ["", "abc ~ \\ -", "\u{a0}\u{e9}\u{4e2d}"] {
            assert!(is_printable(text), "{text:?}");
        }
        for text in ["a\nb", "\t", "\u{7f}", "\u{ad}", "\u{1f600}"] {
            assert!(!is_printable(text), "{text:?}");
        }
        assert!(RANGES.is_sorted());
    }
}
