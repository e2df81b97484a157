//! What comes back: unpacked inside one folder, and every file held against the hash that it had there.

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

/// A file as it lay there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Path under `run`.
    pub path: PathBuf,
    /// SHA-256 in lower-case hex.
    pub sha256: String,
}

/// The list that `sha256sum` prints: `HASH  run/PATH` a line.
///
/// # Errors
/// Says which line is none, or names a path that leaves the folder.
pub fn parse_list(text: &str) -> Result<Vec<File>, String> {
    let one = |line: &str| {
        // A name with a line feed or a backslash has its line begin with a backslash; no run has such names.
        let (hash, name) = line.split_once("  ").ok_or_else(|| format!("{line:?} is no hash and name"))?;
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("{line:?} does not begin with a hash"));
        }
        Ok(File { path: inside(Path::new(name))?, sha256: hash.to_ascii_lowercase() })
    };
    text.lines().map(one).collect()
}

/// A path of the archive relative to `run`; refused if it is not inside.
fn inside(path: &Path) -> Result<PathBuf, String> {
    let mut parts = path.components();
    let begins = parts.next() == Some(Component::Normal("run".as_ref()));
    let rest: PathBuf = parts.clone().collect();
    if begins && parts.all(|part| matches!(part, Component::Normal(_))) {
        Ok(rest)
    } else {
        Err(format!("{} is not inside run/", path.display()))
    }
}

/// Unpacks a gzipped tar into `folder`, which is made: plain files and folders under `run/` alone. `files` is what must
/// come out, no more and no less.
///
/// # Errors
/// Names the entry that is refused, the file that is missing, or the one whose hash is another.
pub fn unpack(packed: impl Read, files: &[File], folder: &Path) -> Result<u64, String> {
    let expected: BTreeMap<&Path, &str> = files.iter().map(|f| (f.path.as_path(), f.sha256.as_str())).collect();
    let mut found = BTreeMap::new();
    let mut total = 0;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |e: std::io::Error| format!("{}: {e}", path.display())
    };
    let broken = |e: std::io::Error| format!("the archive is cut off or damaged: {e}");
    fs::create_dir_all(folder).map_err(io(folder))?;
    let room = Cell::new(BETWEEN_BYTES_MAX);
    let mut archive = tar::Archive::new(Metered { inner: GzDecoder::new(packed), room: &room });
    let mut folders = 0;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.into_owned();
        let path = inside(&name)?;
        let target = folder.join(&path);
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                folders += 1;
                if folders > FOLDERS_MAX {
                    return Err(format!("{}: more than {FOLDERS_MAX} folders", name.display()));
                }
                fs::create_dir_all(&target).map_err(io(&target))?;
            }
            tar::EntryType::Regular => {
                // Only what was announced is written, so that an archive cannot fill the disk with more.
                if !expected.contains_key(path.as_path()) {
                    return Err(format!("{} was not announced", name.display()));
                }
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent).map_err(io(parent))?;
                }
                room.set(u64::MAX);
                let (hash, bytes) = write(&mut entry, &target).map_err(io(&target))?;
                if found.insert(path, hash).is_some() {
                    return Err(format!("{} is there twice", name.display()));
                }
                total += bytes;
            }
            other => return Err(format!("{} is neither file nor folder but {other:?}", name.display())),
        }
        room.set(BETWEEN_BYTES_MAX);
    }
    for (path, hash) in expected {
        match found.get(path) {
            None => return Err(format!("run/{} is missing", path.display())),
            Some(found) if found != hash => {
                return Err(format!("run/{} has hash {found}, not {hash} as where it came from", path.display()));
            }
            Some(_) => {}
        }
    }
    Ok(total)
}

/// Most bytes from one entry's content to the next one's: headers and long names, which are held in memory and of which
/// gzip can pack a thousandfold.
const BETWEEN_BYTES_MAX: u64 = 1 << 20;
/// Most folders: they are made without having been announced.
const FOLDERS_MAX: usize = 1024;

/// A reader that gives so many bytes and refuses more.
struct Metered<'a, R> {
    inner: R,
    room: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.room.get() == 0 {
            let what = format!("more than {BETWEEN_BYTES_MAX} bytes between two files");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
        }
        let most = usize::try_from(self.room.get()).unwrap_or(usize::MAX).min(into.len());
        let read = self.inner.read(into.get_mut(..most).unwrap_or_default())?;
        self.room.set(self.room.get().saturating_sub(read as u64));
        Ok(read)
    }
}

/// Writes a new file; its SHA-256 and length.
fn write(from: &mut impl Read, path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = fs::File::options().write(true).create_new(true).open(path)?;
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut buffer)?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
        hasher.update(part);
        file.write_all(part)?;
        bytes += read as u64;
    }
    Ok((hex(&hasher.finalize()), bytes))
}

/// SHA-256 of a file, in lower-case hex.
pub fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
        hasher.update(part);
    }
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
