//! That a node is drained, remembered over restarts.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Name of the file that stands while the node is drained.
const FILE: &str = "drained";

/// The drained state cannot be kept. Fate: told to whoever asked for it.
#[derive(Debug, thiserror::Error)]
#[error("remember in {} whether the node is drained", path.display())]
pub struct DrainError {
    /// The file.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// The file, and what it says.
#[derive(Debug)]
pub(super) struct DrainFile {
    path: PathBuf,
    since: Option<SystemTime>,
    /// Routes are marked until then, and withdrawn after.
    withdraw_at: Option<SystemTime>,
}

impl DrainFile {
    /// A directory that is not there holds nothing.
    pub(super) fn open(directory: &Path) -> Result<Self, DrainError> {
        let path = directory.join(FILE);
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
        match modified {
            Ok(since) => Ok(Self {
                path,
                since: Some(since),
                withdraw_at: Some(since),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self {
                path,
                since: None,
                withdraw_at: None,
            }),
            Err(source) => Err(DrainError { path, source }),
        }
    }

    pub(super) fn set(&mut self, grace: Duration) -> Result<(), DrainError> {
        let now = SystemTime::now();
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let text = "This node is drained: `eipctl undrain` brings it back.\n";
        let written = fs::create_dir_all(directory).and_then(|()| fs::write(&self.path, text));
        written.map_err(|source| self.error(source))?;
        self.since.get_or_insert(now);
        self.withdraw_at = Some(now + grace);
        Ok(())
    }

    pub(super) fn clear(&mut self) -> Result<(), DrainError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error(error)),
            _ => {
                (self.since, self.withdraw_at) = (None, None);
                Ok(())
            }
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.since.is_some()
    }

    pub(super) fn since(&self) -> Option<SystemTime> {
        self.since
    }

    pub(super) fn withdraw_at(&self) -> Option<SystemTime> {
        self.withdraw_at
    }

    fn error(&self, source: io::Error) -> DrainError {
        DrainError {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::DrainFile;

    #[test]
    fn a_drained_node_is_drained_until_it_is_told_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("not/there/yet");
        let mut file = DrainFile::open(&state).unwrap();
        assert!(!file.is_drained());
        file.clear().unwrap();
        file.set(Duration::from_secs(10)).unwrap();
        assert!(DrainFile::open(&state).unwrap().is_drained());
        file.clear().unwrap();
        assert!(!file.is_drained() && !DrainFile::open(&state).unwrap().is_drained());
    }

    #[test]
    fn what_cannot_be_remembered_is_not_done() {
        let directory = tempfile::tempdir().unwrap();
        let blocked = directory.path().join("file");
        std::fs::write(&blocked, "").unwrap();
        let mut file = DrainFile::open(directory.path()).unwrap();
        file.path = blocked.join("drained");
        assert!(file.set(Duration::ZERO).is_err());
        assert!(!file.is_drained());
    }
}
