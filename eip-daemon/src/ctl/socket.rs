//! The control socket as a file: root only from its first moment, one live agent per path.
//!
//! A lock beside the socket is held as long as the process lives, so a socket whose lock is free is
//! a dead agent's and is replaced. The socket is made in a directory nobody else can enter, closed
//! to others there, and only then moved to its place: there is no moment at which it is open.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// `sun_path` of `struct sockaddr_un`, with its final zero.
const SOCKET_PATH_MAX: usize = 107;

/// Why the control socket cannot be served. Fate: the process stops.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent serves it.
    #[error("another agent is running: it serves {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The kernel takes no path of this length.
    #[error("socket path {} is too long: choose a shorter --socket", path.display())]
    TooLong {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands in its place.
    #[error("{} exists and is no socket: move it away, or choose another --socket", path.display())]
    NotASocket {
        /// What stands there.
        path: PathBuf,
    },
    /// A step did not work.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io {
        doing,
        path,
        source,
    }
}

/// The right to serve a socket path. Dropping it takes the socket away.
#[derive(Debug)]
pub struct SocketClaim {
    path: PathBuf,
    _lock: File,
}

impl SocketClaim {
    /// Claims `path`, making its directory (mode 0700) if there is none.
    ///
    /// # Errors
    /// Another agent lives there, or the directory cannot be written.
    pub fn take(path: &Path) -> Result<Self, SocketError> {
        // The socket is made under a name of this length more, in a directory beside it.
        if path.as_os_str().len() + STAGING_SUFFIX.len() + "/s".len() > SOCKET_PATH_MAX {
            return Err(SocketError::TooLong {
                path: path.to_owned(),
            });
        }
        if let Some(directory) = path.parent() {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(directory);
            made.map_err(failed("create directory", directory))?;
        }
        refuse_other_file(path)?;
        let lock_path = lock_path(path);
        let lock = open_private(&lock_path).map_err(failed("open lock", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(SocketError::InUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(failed("lock", &lock_path)(source)),
        }
    }

    /// Starts to listen; takes the place of a dead agent's socket.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn listen(&self) -> Result<UnixListener, SocketError> {
        let staging = with_suffix(&self.path, STAGING_SUFFIX);
        let socket = staging.join("s");
        remove_staging(&staging);
        DirBuilder::new()
            .mode(0o700)
            .create(&staging)
            .map_err(failed("create", &staging))?;
        let listener = UnixListener::bind(&socket).map_err(failed("listen on", &socket))?;
        let closed = fs::set_permissions(&socket, Permissions::from_mode(0o600));
        closed.map_err(failed("restrict", &socket))?;
        fs::rename(&socket, &self.path).map_err(failed("move socket to", &self.path))?;
        remove_staging(&staging);
        Ok(listener)
    }

    /// Takes away the socket and its lock file: nothing is left, not even after a crash.
    pub fn remove_all(self) {
        let _gone = fs::remove_file(lock_path(&self.path));
    }
}

impl Drop for SocketClaim {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.path);
    }
}

const STAGING_SUFFIX: &str = ".new";

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn lock_path(path: &Path) -> PathBuf {
    with_suffix(path, ".lock")
}

/// Left by a process that was killed between two steps, or by none.
fn remove_staging(staging: &Path) {
    let _gone = fs::remove_file(staging.join("s"));
    let _gone = fs::remove_dir(staging);
}

fn open_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}

fn refuse_other_file(path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::FileTypeExt as _;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::NotASocket {
            path: path.to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(failed("look at", path)(cause)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
        path::Path,
    };

    use super::{SocketClaim, SocketError};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn socket_and_new_directory_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/eip.sock");
        let claim = SocketClaim::take(&path).unwrap();
        let _listener = claim.listen().unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(
            names.len(),
            2,
            "socket and lock, no staging directory: {names:?}"
        );
    }

    #[tokio::test]
    async fn a_second_agent_is_refused_while_the_first_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eip.sock");
        let claim = SocketClaim::take(&path).unwrap();
        let _listener = claim.listen().unwrap();
        assert!(matches!(
            SocketClaim::take(&path),
            Err(SocketError::InUse { .. })
        ));
        assert!(
            path.exists(),
            "the refusal leaves the first one's socket alone"
        );
        drop(claim);
        assert!(SocketClaim::take(&path).is_ok());
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_agent_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eip.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let before = fs::metadata(&path).unwrap().ino();
        let claim = SocketClaim::take(&path).unwrap();
        let _listener = claim.listen().unwrap();
        assert_ne!(fs::metadata(&path).unwrap().ino(), before);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn a_clean_end_takes_the_socket_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eip.sock");
        let claim = SocketClaim::take(&path).unwrap();
        let _listener = claim.listen().unwrap();
        drop(claim);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eip.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            SocketClaim::take(&path),
            Err(SocketError::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_path_the_kernel_would_cut_is_refused() {
        let path = format!("/tmp/{}", "x".repeat(120));
        assert!(matches!(
            SocketClaim::take(Path::new(&path)),
            Err(SocketError::TooLong { .. })
        ));
    }
}
