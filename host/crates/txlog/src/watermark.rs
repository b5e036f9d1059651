//! How far the log is known to be synced. FORMAT.md says what this is worth after which kind of crash.

use crate::files::VERSION;
use crate::frame::{u32_at, u64_at};

const MAGIC: &[u8; 8] = b"TXLOGWTM";

/// So much of the log is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watermark {
    pub(crate) identity: u64,
    /// Id of the segment being written.
    pub(crate) segment: u64,
    /// Bytes of it that are synced.
    pub(crate) offset: u64,
    /// Sequence of the last record that is synced.
    pub(crate) sequence: u64,
}

impl Watermark {
    pub(crate) const LEN: usize = 48;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.identity.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.segment.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.offset.to_le_bytes());
        bytes[36..44].copy_from_slice(&self.sequence.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a watermark; `None` if it is torn or something else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let valid = bytes.len() == Self::LEN
            && bytes[..8] == *MAGIC
            && u32_at(bytes, 8) == VERSION
            && u32_at(bytes, 44) == crc32c::crc32c(&bytes[..44]);
        valid.then(|| Self {
            identity: u64_at(bytes, 12),
            segment: u64_at(bytes, 20),
            offset: u64_at(bytes, 28),
            sequence: u64_at(bytes, 36),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_is_read_as_it_was_written_and_a_flip_of_any_bit_makes_it_none() {
        let watermark = Watermark { identity: 1 << 60, segment: 2, offset: 3, sequence: 4 };
        let bytes = watermark.encode();
        assert_eq!(Watermark::decode(&bytes), Some(watermark));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Watermark::decode(&flipped), None, "bit {bit}");
        }
    }
}
