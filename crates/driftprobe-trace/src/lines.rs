//! Lines of a `.jsonl` or `.jsonl.gz` file, one at a time, with a limit on their length.

use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

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
            true => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(file))),
            false => Box::new(file),
        })
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

/// A reader that gives an error once, and otherwise nothing.
struct Stopped(Option<io::Error>);

impl Read for Stopped {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}
