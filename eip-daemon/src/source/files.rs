//! Single files: which ones are meant for us, what is in them, whether they changed.

use std::{
    collections::BTreeSet, ffi::OsString, fs, io, os::unix::fs::MetadataExt as _, path::Path,
    time::SystemTime,
};

/// Largest file.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Names of the files to read, sorted. Hidden files, editors' copies and other extensions are not
/// meant for us.
pub(super) fn list(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let path = Path::new(&name);
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        let is_ours = path.extension().is_some_and(|extension| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|known| extension == *known)
        });
        if is_ours && !is_hidden {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Why there is no text.
#[derive(Debug)]
pub(super) enum Unread {
    /// The file is not there any more.
    Gone,
    /// It could not be read at the moment.
    Failed(String),
    /// It can be read and cannot be accepted.
    Refused(String),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            Self::Gone
        } else {
            Self::Failed(format!("the file cannot be read: {error}"))
        }
    }
}

/// The text of a regular file of decent size.
pub(super) fn read(path: &Path) -> Result<String, Unread> {
    // Before it is opened: opening a pipe would wait for somebody to write.
    stamp(path)?;
    let bytes = fs::read(path)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error
            .as_bytes()
            .iter()
            .take(valid)
            .filter(|byte| **byte == b'\n')
            .count();
        Unread::Refused(format!("line {line}: not UTF-8"))
    })
}

/// The version of a regular file of decent size.
pub(super) fn stamp(path: &Path) -> Result<Stamp, Unread> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(Unread::Refused("not a regular file".to_owned()));
    }
    if metadata.size() > MAX_FILE_BYTES {
        let limit = MAX_FILE_BYTES >> 20;
        return Err(Unread::Refused(format!(
            "the file is larger than {limit} MiB: split it"
        )));
    }
    Ok(Stamp {
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

impl Stamp {
    /// A file changed this recently can change again without its stamp showing it: the kernel's clock
    /// for time stamps is coarse.
    pub(super) fn is_fresh(self) -> bool {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(now.as_secs()).is_ok_and(|now| now - self.changed.0 <= 1)
    }
}
