//! Work on megabytes beside requests.

use std::thread;
use std::time::{Duration, Instant};

/// How many bytes are worked on at a time. Some hundred microseconds: a worker may wait that long for the core.
pub const PIECE: usize = 256 << 10;

/// Works on bytes piece by piece, and rests between two pieces for as long as the last one took: a thread that computes or
/// copies without a pause holds a core for some milliseconds, for which workers wait. Blocks.
///
/// # Errors
/// What the work fails with; no further piece is worked on then.
pub fn gently<E>(bytes: &[u8], mut work: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut rest = Duration::ZERO;
    for piece in bytes.chunks(PIECE) {
        thread::sleep(rest);
        let begun = Instant::now();
        work(piece)?;
        rest = begun.elapsed();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_worked_on_in_order() {
        for len in [0, 1, PIECE, PIECE + 1, 3 * PIECE] {
            let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let mut seen = Vec::new();
            let worked: Result<(), ()> = gently(&bytes, |piece| {
                assert!((1..=PIECE).contains(&piece.len()));
                seen.extend_from_slice(piece);
                Ok(())
            });
            assert_eq!((worked, seen), (Ok(()), bytes));
        }
    }

    #[test]
    fn a_failure_is_the_end() {
        let mut pieces = 0;
        let worked = gently(&[0; 3 * PIECE], |_| {
            pieces += 1;
            if pieces == 2 { Err("enough") } else { Ok(()) }
        });
        assert_eq!((worked, pieces), (Err("enough"), 2));
    }
}
