//! What revisions of one guest differ by. For tests only.
//!
//! A guest is built once. Its revisions are copies of the file in which the mark below is overwritten with another of the
//! same length (`e2e::stamped`): other bytes, so another digest, and other answers.

/// The mark as it is built: what the revision does to those who ask it, and its number.
static MARK: [u8; 32] = *b"hostler-stamp:........:000000:--";

/// How a revision behaves, without the dots that fill it up: what that means is the guest's to know.
#[must_use]
pub fn kind() -> &'static str {
    part(1).trim_end_matches('.')
}

/// The revision's number: six digits.
#[must_use]
pub fn number() -> &'static str {
    part(2)
}

fn part(index: usize) -> &'static str {
    // Or the compiler would put what the mark says now where it is read.
    let mark: &'static [u8; 32] = std::hint::black_box(&MARK);
    let text = std::str::from_utf8(mark).expect("a mark is ASCII");
    text.split(':').nth(index).expect("a mark has four parts")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mark_as_it_is_built() {
        assert_eq!((super::kind(), super::number()), ("", "000000"));
    }
}
