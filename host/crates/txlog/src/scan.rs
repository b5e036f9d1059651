//! Reading the frames of one file, in order. The memory it takes is bounded: a buffer of 1 MiB, or of one frame if that
//! is larger, and a frame's length is checked against what is left of the file first.

use std::io;

use crate::frame::{FIRST, HEADER, Header, Kind, MAX_PAYLOAD, Seed};
use crate::medium::{File, read_full};

const BUFFER: usize = 1024 * 1024;

/// The place between two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where the next frame begins.
    pub(crate) offset: u64,
    /// Sequence of the frame before.
    pub(crate) sequence: u64,
    /// CRC of the frame before.
    pub(crate) chain: u32,
}

/// What is at a place.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A good frame, and its payload.
    Frame(Header, &'a [u8]),
    /// The end of the file.
    End,
    /// Something else, and why it isn't a frame.
    Invalid(&'static str),
}

/// Reads frames one by one. After anything but [`Found::Frame`] it stays where it is.
pub(crate) struct Frames<'f> {
    file: &'f dyn File,
    /// Bytes of the file when it was opened.
    len: u64,
    seed: Seed,
    place: Place,
    buffer: Vec<u8>,
    /// What is read and still ahead: this part of the buffer is what the file has at `place.offset`.
    start: usize,
    end: usize,
}

impl<'f> Frames<'f> {
    pub(crate) fn new(file: &'f dyn File, len: u64, seed: Seed, place: Place) -> Self {
        let buffer = vec![0; usize::try_from(len).unwrap_or(BUFFER).min(BUFFER)];
        Self { file, len, seed, place, buffer, start: 0, end: 0 }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The next frame.
    ///
    /// # Errors
    /// That the file can't be read.
    pub(crate) fn next(&mut self) -> io::Result<Found<'_>> {
        let left = self.len - self.place.offset;
        if left == 0 {
            return Ok(Found::End);
        }
        if left < HEADER as u64 || !self.fill(HEADER)? {
            return Ok(Found::Invalid("the file ends within a frame's header"));
        }
        let header = self.buffer[self.start..].first_chunk().and_then(|bytes| Header::decode(bytes, self.seed));
        let Some(header) = header else {
            return Ok(Found::Invalid("the checksum of a frame's header does not match"));
        };
        let payload = header.length as usize;
        if header.sequence != self.place.sequence + 1 || header.previous != self.place.chain {
            return Ok(Found::Invalid("a frame does not follow the one before"));
        }
        if payload > MAX_PAYLOAD {
            return Ok(Found::Invalid("a frame is larger than one can be"));
        }
        let frame = HEADER + payload;
        if left < frame as u64 || !self.fill(frame)? {
            return Ok(Found::Invalid("the file ends within a frame"));
        }
        let payload = &self.buffer[self.start + HEADER..self.start + frame];
        if !header.fits(payload) {
            return Ok(Found::Invalid("the checksum of a frame does not match"));
        }
        self.start += frame;
        self.place = Place { offset: self.place.offset + frame as u64, sequence: header.sequence, chain: header.crc };
        Ok(Found::Frame(header, payload))
    }

    /// Has `len` bytes ahead in the buffer; false if the file has become shorter than it was.
    fn fill(&mut self, len: usize) -> io::Result<bool> {
        if self.end - self.start >= len {
            return Ok(true);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let at = self.place.offset + self.end as u64;
        // Not beyond what the file had: it may be growing under a reader.
        let wanted = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(self.buffer.len() - self.end);
        self.end += read_full(self.file, &mut self.buffer[self.end..self.end + wanted], at)?;
        Ok(self.end >= len)
    }
}

/// Whether anything from an offset on proves that the record with this sequence was synced: a frame's header that says
/// so.
pub(crate) fn proves_synced(file: &dyn File, from: u64, seed: Seed, sequence: u64) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER];
    let mut offset = from;
    loop {
        let read = read_full(file, &mut buffer, offset)?;
        if read < HEADER {
            return Ok(false);
        }
        for (at, _) in buffer[..read - HEADER + 1].iter().enumerate().filter(|(_, byte)| **byte == FIRST) {
            let header = buffer[at..].first_chunk().and_then(|bytes| Header::decode(bytes, seed));
            if header.is_some_and(|header| header.kind == Kind::Record && header.durable >= sequence) {
                return Ok(true);
            }
        }
        // The last bytes may begin a header that goes on in the next buffer.
        offset += (read - HEADER + 1) as u64;
    }
}
