//! How results are written for people.

use std::fmt::Write;

/// A digest as people tell it apart from others.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// A time that has passed, in the unit that says enough.
pub(super) fn ago(milliseconds: u64) -> String {
    const UNITS: [(u64, &str); 5] = [(24 * 3_600_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")];
    // At least two of a unit: "1 h" could be almost two.
    let (length, unit) = UNITS.into_iter().find(|(length, _)| milliseconds >= 2 * length).unwrap_or((1, "ms"));
    format!("{} {unit} ago", milliseconds / length)
}

/// Left-aligned columns, two spaces apart.
pub(super) fn table<const COLUMNS: usize>(
    text: &mut String,
    header: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) {
    let rows: Vec<[String; COLUMNS]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            write!(line, "{cell:width$}  ").expect("writing to a string never fails");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_unit_that_says_enough() {
        for (milliseconds, text) in [
            (0, "0 ms ago"),
            (1999, "1999 ms ago"),
            (2000, "2 s ago"),
            (119_999, "119 s ago"),
            (7_200_000, "2 h ago"),
            (u64::MAX, "213503982334 d ago"),
        ] {
            assert_eq!(ago(milliseconds), text);
        }
    }

    #[test]
    fn digests_are_shortened_if_they_are_long() {
        assert_eq!(short(&"0123456789abcdef".repeat(4)), "0123456789ab");
        assert_eq!(short("é"), "é");
    }
}
