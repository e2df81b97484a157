//! Whether two paths are of one file, under whatever names.

use std::fs;
use std::path::Path;

/// Whether both paths lead to one file or folder: by links of either kind.
pub fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    let by_name = real(one).zip(real(other)).is_some_and(|(one, other)| one == other);
    by_name || one_inode(one, other)
}

#[cfg(unix)]
fn one_inode(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    of(one).zip(of(other)).is_some_and(|(one, other)| one == other)
}

#[cfg(not(unix))]
fn one_inode(_: &Path, _: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_one_file_and_copies_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), "x").unwrap();
        fs::copy(path("a"), path("copy")).unwrap();
        fs::hard_link(path("a"), path("hard")).unwrap();
        assert!(same_file(&path("a"), &path("a")) && same_file(&path("a"), &path("hard")));
        assert!(!same_file(&path("a"), &path("copy")) && !same_file(&path("none"), &path("none")));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(path("a"), path("soft")).unwrap();
            assert!(same_file(&path("soft"), &path("hard")));
        }
    }
}
