//! The names of a log's files, and the header that segments and snapshots begin with. FORMAT.md has the bytes.

use crate::frame::{u32_at, u64_at};

/// The version of the format that is written, and the greatest that can be read.
pub(crate) const VERSION: u32 = 1;

pub(crate) const LOCK: &str = "lock";
pub(crate) const WATERMARK: &str = "watermark";
const SEGMENT: &str = ".log";
const SNAPSHOT: &str = ".snapshot";
const TEMPORARY: &str = ".tmp";
const TORN: &str = "torn-";
const ID_DIGITS: usize = 20;

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Segment(u64),
    Snapshot(u64),
    /// Of a segment or snapshot that wasn't finished.
    Temporary,
    /// The lock, the watermark, a tail that was saved.
    Other,
    /// Not a file of a log.
    Foreign,
}

impl Name {
    pub(crate) fn parse(name: &str) -> Self {
        let id = |suffix| name.strip_suffix(suffix).and_then(parse_id);
        match name {
            LOCK | WATERMARK => return Self::Other,
            _ if name.strip_prefix(TORN).is_some_and(is_place) => return Self::Other,
            _ => {}
        }
        if let Some(id) = id(SEGMENT) {
            return Self::Segment(id);
        }
        if let Some(id) = id(SNAPSHOT) {
            return Self::Snapshot(id);
        }
        match name.strip_suffix(TEMPORARY).map(Self::parse) {
            Some(Self::Segment(_) | Self::Snapshot(_)) => Self::Temporary,
            _ => Self::Foreign,
        }
    }
}

pub(crate) fn segment(id: u64) -> String {
    format!("{id:020}{SEGMENT}")
}

pub(crate) fn snapshot(id: u64) -> String {
    format!("{id:020}{SNAPSHOT}")
}

/// What a file is called until it is complete.
pub(crate) fn temporary(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// Where a tail that was cut off is saved; `n` is 0 for the first try.
pub(crate) fn torn(id: u64, offset: u64, n: u32) -> String {
    match n {
        0 => format!("{TORN}{id:020}-{offset}"),
        _ => format!("{TORN}{id:020}-{offset}-{n}"),
    }
}

/// Ids begin at 1.
fn parse_id(digits: &str) -> Option<u64> {
    let valid = digits.len() == ID_DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|id| valid && *id > 0)
}

/// Whether this is `<id>-<offset>` or `<id>-<offset>-<n>`.
fn is_place(text: &str) -> bool {
    let mut parts = text.split('-');
    let number = |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
    parts.next().and_then(parse_id).is_some() && matches!(parts.clone().count(), 1 | 2) && parts.all(number)
}

/// Which of the two kinds of file a header is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Segment,
    Snapshot,
}

/// What a segment or a snapshot begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) contents: Contents,
    /// The same in all files of a log.
    pub(crate) identity: u64,
    pub(crate) id: u64,
    /// Sequence of the first record of the segment with this id.
    pub(crate) first_sequence: u64,
    /// The chain before the first frame.
    pub(crate) chain: u32,
}

/// Why a file's header can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// A newer version wrote it.
    Newer(u32),
    /// It isn't what a log writes.
    Wrong(&'static str),
}

impl FileHeader {
    pub(crate) const LEN: usize = 48;
    /// The part that is the same in all versions.
    const FIXED: usize = 16;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(magic(self.contents));
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.identity.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.chain.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of a file that begins with `bytes`.
    pub(crate) fn decode(bytes: &[u8], contents: Contents) -> Result<Self, HeaderError> {
        if bytes.len() < Self::FIXED {
            return Err(HeaderError::Wrong("the file is shorter than a header"));
        }
        if bytes[..8] != *magic(contents) {
            return Err(HeaderError::Wrong("the file does not begin as a file of a log does"));
        }
        if u32_at(bytes, 12) != crc32c::crc32c(&bytes[..12]) {
            return Err(HeaderError::Wrong("the checksum of the version does not match"));
        }
        match u32_at(bytes, 8) {
            VERSION => {}
            version if version > VERSION => return Err(HeaderError::Newer(version)),
            _ => return Err(HeaderError::Wrong("there is no such version of the format")),
        }
        if bytes.len() < Self::LEN {
            return Err(HeaderError::Wrong("the file is shorter than a header"));
        }
        if u32_at(bytes, 44) != crc32c::crc32c(&bytes[..44]) {
            return Err(HeaderError::Wrong("the checksum of the header does not match"));
        }
        Ok(Self {
            contents,
            identity: u64_at(bytes, 16),
            id: u64_at(bytes, 24),
            first_sequence: u64_at(bytes, 32),
            chain: u32_at(bytes, 40),
        })
    }
}

fn magic(contents: Contents) -> &'static [u8; 8] {
    match contents {
        Contents::Segment => b"TXLOGSEG",
        Contents::Snapshot => b"TXLOGSNP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(Name::parse(&segment(7)), Name::Segment(7));
        assert_eq!(Name::parse(&snapshot(u64::MAX)), Name::Snapshot(u64::MAX));
        assert_eq!(Name::parse(&temporary(&segment(7))), Name::Temporary);
        assert_eq!(Name::parse(&temporary(&snapshot(7))), Name::Temporary);
        for ours in [LOCK, WATERMARK, &torn(7, 48, 0), &torn(7, 48, 3)] {
            assert_eq!(Name::parse(ours), Name::Other, "{ours}");
        }
        let (doubly, zero) = (temporary(&temporary(&segment(7))), segment(0));
        for foreign in
            [&*zero, "", "7.log", ".log", "0000000000000000000a.log", "lost+found", "torn-1", "notes.tmp", &doubly]
        {
            assert_eq!(Name::parse(foreign), Name::Foreign, "{foreign}");
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_and_a_flip_of_any_bit_is_noticed() {
        let header = FileHeader {
            contents: Contents::Segment,
            identity: 0x0123_4567_89ab_cdef,
            id: 3,
            first_sequence: 9,
            chain: 4,
        };
        let bytes = header.encode();
        assert_eq!(FileHeader::decode(&bytes, Contents::Segment), Ok(header));
        assert!(FileHeader::decode(&bytes, Contents::Snapshot).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let outcome = FileHeader::decode(&flipped, Contents::Segment);
            assert!(matches!(outcome, Err(HeaderError::Wrong(_))), "bit {bit}: {outcome:?}");
        }
        for len in 0..bytes.len() {
            assert!(FileHeader::decode(&bytes[..len], Contents::Segment).is_err());
        }
    }

    #[test]
    fn a_newer_version_is_not_taken_for_damage() {
        let mut bytes = [0; FileHeader::FIXED];
        bytes[..8].copy_from_slice(b"TXLOGSEG");
        bytes[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..12]);
        bytes[12..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(FileHeader::decode(&bytes, Contents::Segment), Err(HeaderError::Newer(VERSION + 1)));
    }
}
