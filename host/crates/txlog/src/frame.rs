//! Frames: how a payload is written so that it can be told from anything else. FORMAT.md has the bytes.

/// Bytes of a frame before its payload.
pub(crate) const HEADER: usize = 36;
const LENGTH: usize = 4;
const SEQUENCE: usize = 8;
const DURABLE: usize = 16;
const PREVIOUS: usize = 24;
const PAYLOAD_CRC: usize = 28;
const CRC: usize = 32;

/// Bytes that a payload may have.
pub(crate) const MAX_PAYLOAD: usize = 32 * 1024 * 1024;

/// The byte that every frame begins with: no UTF-8 text has it.
pub(crate) const FIRST: u8 = 0xf5;
const RECORD: [u8; 4] = *b"\xf5REC";
const END: [u8; 4] = *b"\xf5END";

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Operations: a record of a segment, or a part of a snapshot.
    Record,
    /// The end of a snapshot.
    End,
}

/// What CRCs of a log's frames go on from: the CRC of its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn of(identity: u64) -> Self {
        Self(crc32c::crc32c(&identity.to_le_bytes()))
    }

    /// The chain at the start of a log, and of a snapshot.
    pub(crate) fn chain(self) -> u32 {
        self.0
    }
}

/// A frame's header: what is before the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Bytes of the payload.
    pub(crate) length: u32,
    pub(crate) sequence: u64,
    /// Sequence of the last record that was known to be synced.
    pub(crate) durable: u64,
    /// The chain before this frame.
    pub(crate) previous: u32,
    payload_crc: u32,
    /// The chain after this frame.
    pub(crate) crc: u32,
}

/// Writes the header of the frame whose payload begins [`HEADER`] bytes into `frame` and ends with it. Returns the
/// chain after it.
pub(crate) fn seal(frame: &mut [u8], kind: Kind, sequence: u64, durable: u64, previous: u32, seed: Seed) -> u32 {
    let (header, payload) = frame.split_at_mut(HEADER);
    let length = u32::try_from(payload.len()).expect("a payload within the limits");
    header[..LENGTH].copy_from_slice(match kind {
        Kind::Record => &RECORD,
        Kind::End => &END,
    });
    header[LENGTH..SEQUENCE].copy_from_slice(&length.to_le_bytes());
    header[SEQUENCE..DURABLE].copy_from_slice(&sequence.to_le_bytes());
    header[DURABLE..PREVIOUS].copy_from_slice(&durable.to_le_bytes());
    header[PREVIOUS..PAYLOAD_CRC].copy_from_slice(&previous.to_le_bytes());
    header[PAYLOAD_CRC..CRC].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let crc = crc32c::crc32c_append(seed.0, &header[..CRC]);
    header[CRC..].copy_from_slice(&crc.to_le_bytes());
    crc
}

impl Header {
    /// Reads a header; `None` if these bytes are none.
    pub(crate) fn decode(bytes: &[u8; HEADER], seed: Seed) -> Option<Self> {
        let kind = match &bytes[..LENGTH] {
            marker if *marker == RECORD => Kind::Record,
            marker if *marker == END => Kind::End,
            _ => return None,
        };
        let crc = u32_at(bytes, CRC);
        (crc == crc32c::crc32c_append(seed.0, &bytes[..CRC])).then(|| Self {
            kind,
            length: u32_at(bytes, LENGTH),
            sequence: u64_at(bytes, SEQUENCE),
            durable: u64_at(bytes, DURABLE),
            previous: u32_at(bytes, PREVIOUS),
            payload_crc: u32_at(bytes, PAYLOAD_CRC),
            crc,
        })
    }

    /// Whether this is the payload that the header was made for.
    pub(crate) fn fits(&self, payload: &[u8]) -> bool {
        crc32c::crc32c(payload) == self.payload_crc
    }
}

/// The number at an offset that is known to be within `bytes`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// As [`u32_at`].
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = [&[0; HEADER], payload].concat();
        seal(&mut frame, Kind::Record, 7, 5, 3, Seed::of(1));
        frame
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let frame = frame(b"payload");
        assert_eq!(frame[0], FIRST);
        let header = Header::decode(frame.first_chunk().unwrap(), Seed::of(1)).unwrap();
        assert_eq!((header.kind, header.length), (Kind::Record, 7));
        assert_eq!((header.sequence, header.durable, header.previous), (7, 5, 3));
        assert!(header.fits(b"payload"));
    }

    #[test]
    fn a_frame_of_another_log_is_none() {
        assert_eq!(Header::decode(frame(b"payload").first_chunk().unwrap(), Seed::of(2)), None);
    }

    #[test]
    fn a_flip_of_any_bit_is_noticed() {
        let frame = frame(b"payload");
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let header = Header::decode(flipped.first_chunk().unwrap(), Seed::of(1));
            assert!(header.is_none_or(|header| !header.fits(&flipped[HEADER..])), "bit {bit}");
        }
    }

    #[test]
    fn each_frame_depends_on_the_one_before() {
        let mut frame = [0; HEADER];
        let one = seal(&mut frame, Kind::Record, 7, 5, 3, Seed::of(1));
        let other = seal(&mut frame, Kind::Record, 7, 5, 4, Seed::of(1));
        assert_ne!(one, other);
    }
}
