//! Lines of a `.jsonl` or `.jsonl.gz` file, one at a time, with a limit on their length.

use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest line that is read. A full row of logits as JSON is a few MB; anything near this is not a trace.
pub const MAX_LINE_BYTES: u64 = 64 << 20;

const BUFFER_BYTES: usize = 1 << 18;

/// What the next line is.
pub enum Next {
    /// A whole line (its `\n` cut off). `ended`: whether it had one.
    Line { ended: bool },
    /// The file breaks off (in a compressed file: in the middle of the stream).
    BrokenOff,
    /// The line is longer than [`MAX_LINE_BYTES`].
    TooLong,
    /// There is no further line.
    End,
}

/// A file's lines.
pub struct Lines {
    reader: Box<dyn BufRead + Send>,
    /// The line that was read last.
    pub line: Vec<u8>,
    /// Its number, from 1.
    pub number: u64,
}

impl Lines {
    /// Opens `path`, decompressing it if its name ends in `.gz`.
    pub fn open(path: &Path) -> io::Result<Lines> {
        Ok(Lines { reader: Lines::reader(path)?, line: Vec::new(), number: 0 })
    }

    /// The bytes of `path`, decompressed if its name ends in `.gz`.
    pub fn reader(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
        let file = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
        let gz = path.extension().is_some_and(|e| e == "gz");
        Ok(match gz {
            true => Box::new(BufReader::with_capacity(BUFFER_BYTES, Gunzip::new(file))),
            false => Box::new(file),
        })
    }

    /// The lines that this reader gives.
    pub fn over(reader: Box<dyn BufRead + Send>) -> Lines {
        Lines { reader, line: Vec::new(), number: 0 }
    }

    /// The lines of these bytes of a file, behind so many others, and then what stopped the file's reader.
    pub fn of(bytes: Vec<u8>, error: Option<io::Error>, lines_before: u64) -> Lines {
        let reader = BufReader::new(Stopped(error));
        Lines { reader: Box::new(Cursor::new(bytes).chain(reader)), line: Vec::new(), number: lines_before }
    }

    /// The lines of `len` bytes of an uncompressed file from byte `start` on, of which the first has this number. The
    /// file's own place moves: one part after the other.
    pub fn part(file: &File, (start, len): (u64, u64), number: u64) -> io::Result<Lines> {
        let mut file = file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        let capacity = usize::try_from(len).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let reader = Box::new(BufReader::with_capacity(capacity, file.take(len)));
        Ok(Lines { reader, line: Vec::new(), number: number.saturating_sub(1) })
    }

    /// Reads the next line into `self.line`.
    pub fn next_line(&mut self) -> io::Result<Next> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.reader).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut self.line);
        match read {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(Next::BrokenOff),
            Err(e) => Err(e),
            Ok(0) => Ok(Next::End),
            Ok(_) if self.line.last() == Some(&b'\n') => {
                self.line.pop();
                Ok(Next::Line { ended: true })
            }
            Ok(n) if n as u64 > MAX_LINE_BYTES => Ok(Next::TooLong),
            Ok(_) => Ok(Next::Line { ended: false }),
        }
    }
}

/// Bytes that a compressed file may hold whatever its size.
const FREE_BYTES: u64 = 64 << 20;
/// How many times its size a compressed file may hold beyond that. Traces and logits shrink some tenfold, hardly fiftyfold;
/// gzip can do a thousandfold.
const EXPANSION_MAX: u64 = 256;

/// A gzip file's content, of one or more members. A file that holds far more than its size allows is refused where it does,
/// with [`ErrorKind::InvalidData`].
pub struct Gunzip<R> {
    inner: MultiGzDecoder<Counted<R>>,
    packed: Arc<AtomicU64>,
    given: u64,
}

impl<R: BufRead> Gunzip<R> {
    /// Of these compressed bytes.
    pub fn new(reader: R) -> Gunzip<R> {
        let packed = Arc::new(AtomicU64::new(0));
        Gunzip { inner: MultiGzDecoder::new(Counted { reader, count: packed.clone() }), packed, given: 0 }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.given = self.given.saturating_add(read as u64);
        let packed = self.packed.load(Ordering::Relaxed);
        if self.given > FREE_BYTES.saturating_add(packed.saturating_mul(EXPANSION_MAX)) {
            let what = format!("{packed} compressed bytes hold more than {EXPANSION_MAX} times as many");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        Ok(read)
    }
}

/// Counts the bytes that are taken.
struct Counted<R> {
    reader: R,
    count: Arc<AtomicU64>,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(into)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.count.fetch_add(amount as u64, Ordering::Relaxed);
        self.reader.consume(amount);
    }
}

/// A reader that gives an error once, and otherwise nothing.
struct Stopped(Option<io::Error>);

impl Read for Stopped {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}
