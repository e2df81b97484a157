//! Files that lie in a folder from somewhere: what is no file, or has no end, is not read.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Refuses a path that leads, through links or not, to a device, a pipe or a folder: reading it might never end, and opening
/// it might already wait forever.
///
/// # Errors
/// As the system says, and [`ErrorKind::InvalidInput`] if it is no regular file.
pub fn regular(path: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(path)?;
    match metadata.is_file() {
        true => Ok(metadata.len()),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// The bytes of a regular file.
///
/// # Errors
/// As [`regular`], and [`ErrorKind::FileTooLarge`] if it has more than `bytes_max` bytes.
pub fn read_file(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::new(ErrorKind::FileTooLarge, format!("longer than {bytes_max} bytes"));
    if regular(path)? > bytes_max {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { Err(too_large()) } else { Ok(bytes) }
}
