//! Recovery: what is in a folder, whether it is whole, and where the log goes on. Only reads; `repair` acts on it.
//!
//! Entries are handed on while they are read, so memory is bounded by the largest record.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::config::Progress;
use crate::error::OpenError;
use crate::files::{self, Contents, FileHeader, HeaderError, Name, WATERMARK};
use crate::frame::{Header, Kind, Seed, u64_at};
use crate::medium::{File, Folder, read_full};
use crate::record::{Entry, Operations};
use crate::report::{Recovery, TornTail};
use crate::scan::{Found, Frames, Place, proves_synced};
use crate::watermark::Watermark;

/// Bytes of the payload that ends a snapshot.
pub(crate) const END_LEN: usize = 16;

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// Name of the file.
    pub file: &'a str,
    /// Where its frame begins.
    pub offset: u64,
}

/// Takes the entries of a log.
pub(crate) trait Visitor {
    fn entry(&mut self, location: Location<'_>, entry: Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>;

    fn progress(&mut self, _progress: Progress) {}
}

/// A segment or snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogFile {
    pub(crate) id: u64,
    /// Bytes that it has.
    pub(crate) bytes: u64,
}

/// A log that is whole, perhaps but for its tail.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) report: Recovery,
    /// `None` if there is no log yet.
    pub(crate) identity: Option<u64>,
    pub(crate) snapshot: Option<LogFile>,
    /// All segments but the last.
    pub(crate) closed: Vec<LogFile>,
    /// Id of the last segment: the one to write on.
    pub(crate) segment: u64,
    /// Where it goes on. Offset 0 means that the segment has to be created.
    pub(crate) end: Place,
    /// Bytes of it that are known to be synced.
    pub(crate) synced: u64,
    /// Bytes behind the end, to be set aside. They may be in a segment after the last: one that has to go.
    pub(crate) tail: Option<Tail>,
}

/// What is behind the end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Reads all of a log.
pub(crate) fn survey(folder: &dyn Folder, visitor: &mut dyn Visitor) -> Result<Survey, OpenError> {
    let listing = Listing::of(folder)?;
    let watermark = read_watermark(folder)?;
    let mut report = Recovery { leftovers: listing.leftovers, foreign: listing.foreign, ..Recovery::default() };

    let snapshot = match listing.snapshot {
        None => None,
        Some(id) => Some(Opened::open(folder, files::snapshot(id), id, Contents::Snapshot)?.complete()?),
    };
    let mut segments = Vec::with_capacity(listing.segments.len());
    let mut headless = None;
    for (n, &id) in listing.segments.iter().enumerate() {
        let segment = Opened::open(folder, files::segment(id), id, Contents::Segment)?;
        match segment.header {
            None if n + 1 == listing.segments.len() => headless = Some(segment),
            _ => segments.push(segment.complete()?),
        }
    }
    let identity = snapshot.iter().chain(&segments).map(|file| file.header.identity).next();
    if let Some(other) = snapshot.iter().chain(&segments).find(|file| Some(file.header.identity) != identity) {
        return Err(OpenError::damage(&other.name, 16, "the file belongs to another log"));
    }
    let watermark = watermark.filter(|watermark| identity.is_none_or(|identity| identity == watermark.identity));
    if let Some(watermark) = watermark
        && listing.segments.last().is_none_or(|last| *last < watermark.segment)
    {
        let what = "the segment is missing: the watermark says that it was written";
        return Err(OpenError::damage(files::segment(watermark.segment), 0, what));
    }

    let total = snapshot.iter().chain(&segments).map(|file| file.bytes).sum();
    let mut reader = Reader {
        folder,
        visitor,
        seed: Seed::of(identity.unwrap_or_default()),
        watermark,
        progress: Progress { done: 0, total },
        told: Instant::now(),
    };
    let mut greatest = 0;
    if let Some(snapshot) = &snapshot {
        (report.keys, greatest) = reader.snapshot(snapshot)?;
    }
    // Where the first segment begins. With a snapshot before it, its own header says how the chain goes on.
    let mut end = Place { offset: 0, sequence: 0, chain: reader.seed.chain() };
    if let Some(snapshot) = &snapshot {
        end.sequence = snapshot.header.first_sequence - 1;
        end.chain = segments.first().map_or(end.chain, |first| first.header.chain);
    }
    let mut tail = None;
    for (n, segment) in segments.iter().enumerate() {
        let (records, stopped) = reader.segment(segment, &mut end, n + 1 == segments.len() && headless.is_none())?;
        report.records += records;
        tail = stopped;
    }
    if let Some(segment) = &headless {
        if segment.id == listing.first {
            end.offset = 0;
        }
        tail = Some(Tail { segment: segment.id, offset: 0, bytes: segment.bytes });
    }
    if let Some(snapshot) = &snapshot
        && greatest > end.sequence
    {
        let what = format!("the log ends at record {}, but the snapshot has changes up to {greatest}", end.sequence);
        return Err(OpenError::damage(&snapshot.name, 0, what));
    }

    let last = segments.pop_if(|_| true);
    let segment = last.as_ref().map_or(listing.first, |last| last.id);
    report.segments = segments.len() as u64 + u64::from(last.is_some());
    report.last_sequence = end.sequence;
    report.bytes = total - tail.filter(|tail| tail.segment == segment && end.offset > 0).map_or(0, |tail| tail.bytes);
    report.lost = watermark.map_or(0, |watermark| watermark.sequence.saturating_sub(end.sequence));
    report.torn = tail.map(|tail| TornTail {
        file: files::segment(tail.segment),
        offset: tail.offset,
        bytes: tail.bytes,
        saved_as: Some(files::torn(tail.segment, tail.offset, 0)),
    });
    let closed = segments.iter().map(Opened::log_file).collect();
    let synced = watermark.filter(|watermark| watermark.segment == segment).map_or(0, |watermark| watermark.offset);
    let snapshot = snapshot.as_ref().map(Opened::log_file);
    Ok(Survey { report, identity, snapshot, closed, segment, end, synced: synced.min(end.offset), tail })
}

/// What is in the folder, by name.
struct Listing {
    snapshot: Option<u64>,
    /// Id that the first segment has, or has to have.
    first: u64,
    /// Without gaps.
    segments: Vec<u64>,
    leftovers: Vec<String>,
    foreign: Vec<String>,
}

impl Listing {
    fn of(folder: &dyn Folder) -> Result<Self, OpenError> {
        let mut names = folder.list().map_err(OpenError::io(format!("list {}", folder.path().display())))?;
        names.sort_unstable();
        let snapshot = names.iter().filter_map(|name| match Name::parse(name) {
            Name::Snapshot(id) => Some(id),
            _ => None,
        });
        let snapshot = snapshot.max();
        let first = snapshot.unwrap_or(1);
        let mut listing = Self { snapshot, first, segments: Vec::new(), leftovers: Vec::new(), foreign: Vec::new() };
        for name in names {
            match Name::parse(&name) {
                Name::Segment(id) if id >= first => listing.segments.push(id),
                Name::Snapshot(id) if id == first => {}
                Name::Segment(_) | Name::Snapshot(_) | Name::Temporary => listing.leftovers.push(name),
                Name::Other => {}
                Name::Foreign => listing.foreign.push(name),
            }
        }
        let expected =
            (first..).zip(&listing.segments).find(|(expected, id)| expected != *id).map(|(expected, _)| expected);
        let missing = expected.or((snapshot.is_some() && listing.segments.is_empty()).then_some(first));
        match missing {
            Some(id) => Err(OpenError::damage(files::segment(id), 0, "the segment is missing")),
            None => Ok(listing),
        }
    }
}

/// A segment or snapshot whose header was read. It isn't kept open, since there may be many.
struct Opened<H = FileHeader> {
    name: String,
    id: u64,
    bytes: u64,
    header: H,
}

impl Opened<Option<FileHeader>> {
    /// Without a header if the file is shorter than one.
    fn open(folder: &dyn Folder, name: String, id: u64, contents: Contents) -> Result<Self, OpenError> {
        let file = open(folder, &name)?;
        let bytes = file.len().map_err(OpenError::io(format!("read {name}")))?;
        let mut header = [0; FileHeader::LEN];
        let read = read_full(&*file, &mut header, 0).map_err(OpenError::io(format!("read {name}")))?;
        match FileHeader::decode(&header[..read], contents) {
            Ok(header) if header.id != id || header.first_sequence == 0 => {
                Err(OpenError::damage(name, 24, "the header is that of another file"))
            }
            Ok(header) => Ok(Self { name, id, bytes, header: Some(header) }),
            Err(HeaderError::Newer(found)) => {
                Err(OpenError::NewerVersion { file: name, found, supported: files::VERSION })
            }
            Err(HeaderError::Wrong(_)) if read < FileHeader::LEN => Ok(Self { name, id, bytes, header: None }),
            Err(HeaderError::Wrong(what)) => Err(OpenError::damage(name, 0, what)),
        }
    }

    fn complete(self) -> Result<Opened, OpenError> {
        let Self { name, id, bytes, header } = self;
        match header {
            Some(header) => Ok(Opened { name, id, bytes, header }),
            None => Err(OpenError::damage(name, 0, "the file is shorter than a header")),
        }
    }
}

impl Opened {
    fn log_file(&self) -> LogFile {
        LogFile { id: self.id, bytes: self.bytes }
    }
}

/// Reads the frames of a log.
struct Reader<'a> {
    folder: &'a dyn Folder,
    visitor: &'a mut dyn Visitor,
    seed: Seed,
    watermark: Option<Watermark>,
    progress: Progress,
    told: Instant,
}

impl Reader<'_> {
    /// Reads a snapshot. Returns the number of keys, and the greatest sequence that they may have.
    fn snapshot(&mut self, snapshot: &Opened) -> Result<(u64, u64), OpenError> {
        let name = snapshot.name.as_str();
        let file = open(self.folder, name)?;
        let place = Place { offset: FileHeader::LEN as u64, sequence: 0, chain: snapshot.header.chain };
        let mut frames = Frames::new(&*file, snapshot.bytes, self.seed, place);
        let mut keys = 0;
        loop {
            let offset = frames.place().offset;
            match frames.next().map_err(OpenError::io(format!("read {name}")))? {
                Found::Frame(Header { kind: Kind::Record, .. }, payload) => {
                    keys += self.entries(Location { file: name, offset }, None, payload)?;
                }
                Found::Frame(_, payload) => {
                    if payload.len() != END_LEN || u64_at(payload, 0) != keys {
                        return Err(OpenError::damage(
                            name,
                            offset,
                            "the snapshot's end does not match what is before",
                        ));
                    }
                    let greatest = u64_at(payload, 8);
                    let end = frames.place().offset;
                    return match end == snapshot.bytes {
                        true => Ok((keys, greatest)),
                        false => Err(OpenError::damage(name, end, "something follows the snapshot's end")),
                    };
                }
                Found::End => return Err(OpenError::damage(name, offset, "the snapshot has no end")),
                Found::Invalid(what) => return Err(OpenError::damage(name, offset, what)),
            }
        }
    }

    /// Reads a segment and moves `end` to where it ends. Returns the number of records, and what is behind them.
    fn segment(&mut self, segment: &Opened, end: &mut Place, last: bool) -> Result<(u64, Option<Tail>), OpenError> {
        let Opened { name, id, bytes, header } = segment;
        if header.first_sequence != end.sequence + 1 || header.chain != end.chain {
            return Err(OpenError::damage(name, 32, "the segment does not follow the one before"));
        }
        let file = open(self.folder, name)?;
        end.offset = FileHeader::LEN as u64;
        let mut frames = Frames::new(&*file, *bytes, self.seed, *end);
        let mut records = 0;
        loop {
            let offset = frames.place().offset;
            match frames.next().map_err(OpenError::io(format!("read {name}")))? {
                Found::Frame(header @ Header { kind: Kind::Record, .. }, payload) => {
                    self.entries(Location { file: name, offset }, Some(header.sequence), payload)?;
                    records += 1;
                }
                Found::Frame(..) => return Err(OpenError::damage(name, offset, "a segment has the end of a snapshot")),
                Found::End => {
                    *end = frames.place();
                    return Ok((records, None));
                }
                Found::Invalid(what) => {
                    *end = frames.place();
                    if !last {
                        return Err(OpenError::damage(name, offset, format!("{what}, and a later segment exists")));
                    }
                    self.check_torn(segment, &*file, *end, what)?;
                    return Ok((records, Some(Tail { segment: *id, offset, bytes: bytes - offset })));
                }
            }
        }
    }

    /// Whether what is at `end`, in the last segment, is what a crash leaves of a write that nobody was told about.
    /// FORMAT.md has the rule and the reasons.
    fn check_torn(&self, segment: &Opened, file: &dyn File, end: Place, what: &str) -> Result<(), OpenError> {
        let sequence = end.sequence + 1;
        let damage = |why| Err(OpenError::damage(&segment.name, end.offset, format!("{what}, {why}")));
        let action = format!("read {}", segment.name);
        if proves_synced(file, end.offset, self.seed, sequence).map_err(OpenError::io(action))? {
            return damage("and a later record says that it was synced");
        }
        match self.watermark {
            Some(watermark)
                if watermark.sequence >= sequence
                    && (watermark.segment < segment.id || watermark.offset <= segment.bytes) =>
            {
                damage("and the watermark says that it was synced")
            }
            _ => Ok(()),
        }
    }

    /// Hands on the entries of one frame: of a record with this sequence, or else of a snapshot. Returns how many.
    fn entries(&mut self, location: Location<'_>, record: Option<u64>, payload: &[u8]) -> Result<u64, OpenError> {
        let malformed = || OpenError::damage(location.file, location.offset, "the record makes no sense");
        let mut count = 0;
        for operation in Operations::of(payload).map_err(|_| malformed())? {
            let (operation, as_of) = operation.map_err(|_| malformed())?;
            let sequence = match (record, as_of) {
                (Some(sequence), None) | (None, Some(sequence)) => sequence,
                _ => return Err(malformed()),
            };
            let entry = Entry { sequence, operation };
            self.visitor.entry(location, entry).map_err(|source| OpenError::Refused {
                file: location.file.into(),
                offset: location.offset,
                source,
            })?;
            count += 1;
        }
        self.advance(payload.len() as u64);
        Ok(count)
    }

    fn advance(&mut self, bytes: u64) {
        /// The clock is not asked for every record.
        const STEP: u64 = 1024 * 1024;
        let before = self.progress.done;
        self.progress.done += bytes;
        if before / STEP != self.progress.done / STEP && self.told.elapsed() >= PROGRESS {
            self.told = Instant::now();
            self.visitor.progress(self.progress);
        }
    }
}

fn open(folder: &dyn Folder, name: &str) -> Result<Box<dyn File>, OpenError> {
    folder.open(name).map_err(OpenError::io(format!("open {name}")))
}

fn read_watermark(folder: &dyn Folder) -> Result<Option<Watermark>, OpenError> {
    let file = match folder.open(WATERMARK) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(OpenError::io("open the watermark"))?,
    };
    let mut bytes = [0; Watermark::LEN];
    let read = read_full(&*file, &mut bytes, 0).map_err(OpenError::io("read the watermark"))?;
    Ok(Watermark::decode(&bytes[..read]))
}
