//! Passwords in files.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::{
    announce::bgp::Password,
    model::{Facts, PasswordSource},
};

/// What the password files of all peers hold, or why they cannot be used. Never shown.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Secrets(BTreeMap<PathBuf, Result<Password, String>>);

impl Secrets {
    /// Reads the files. Blocks.
    pub(super) fn read(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let read = |path: PathBuf| (path.clone(), read(&path));
        Self(paths.into_iter().map(read).collect())
    }

    pub(super) fn get(&self, path: &Path) -> Result<Password, String> {
        let missing = || Err("has not been read yet".to_owned());
        self.0.get(path).cloned().unwrap_or_else(missing)
    }
}

/// The files that peers name.
pub(super) fn paths(facts: &Facts) -> Vec<PathBuf> {
    let sources = facts
        .peers
        .iter()
        .filter_map(|peer| peer.settings.password.as_ref());
    let files = sources.filter_map(|source| match source {
        PasswordSource::File(path) => Some(path.clone()),
        PasswordSource::Inline(_) => None,
    });
    files.collect()
}

fn read(path: &Path) -> Result<Password, String> {
    // One byte more than a key may have, and a line end: enough to see that it is too long.
    let mut bytes = Vec::new();
    let limit = Password::MAX_LEN as u64 + 3;
    // Opening a FIFO would wait for somebody to write to it.
    let open = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    let read = open.and_then(|file| {
        if file.metadata()?.is_file() {
            file.take(limit).read_to_end(&mut bytes)
        } else {
            Err(io::Error::other("not a regular file"))
        }
    });
    read.map_err(|error| error.to_string())?;
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    Password::new(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener, path::PathBuf};

    use super::Secrets;
    use crate::announce::bgp::Password;

    #[test]
    fn one_line_feed_at_the_end_is_no_part_of_a_password() {
        let directory = tempfile::tempdir().unwrap();
        for (content, expected) in [
            ("secret", Ok("secret")),
            ("secret\n", Ok("secret")),
            ("secret\r\n", Ok("secret")),
            (" se cret\n\n", Ok(" se cret\n")),
            ("", Err("password: must not be empty")),
            ("\n", Err("password: must not be empty")),
            (&"x".repeat(80), Ok("x")),
            (&"x".repeat(81), Err("password: more than 80")),
        ] {
            let path = directory.path().join("key");
            fs::write(&path, content).unwrap();
            let read = Secrets::read([path.clone()]).get(&path);
            match expected {
                Ok("x") => assert!(read.is_ok(), "80 bytes"),
                Ok(text) => assert_eq!(read, Ok(Password::new(text).unwrap())),
                Err(text) => assert_eq!(read, Err(text.to_owned())),
            }
        }
    }

    #[test]
    fn what_is_no_file_is_no_password() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let device = PathBuf::from("/dev/zero");
        for path in [missing, directory.path().to_owned(), fifo, socket, device] {
            // An open FIFO would be waited for.
            let secrets = Secrets::read([path.clone()]);
            assert!(secrets.get(&path).is_err(), "{}", path.display());
        }
    }
}
